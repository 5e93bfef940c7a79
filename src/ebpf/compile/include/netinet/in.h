/* Addresses and protocols. Written for the ebpf package. */
#pragma once
#include <sys/socket.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>

typedef __u32 in_addr_t;
typedef __u16 in_port_t;
#define ntohs(x) bpf_ntohs(x)
#define htons(x) bpf_htons(x)
#define ntohl(x) bpf_ntohl(x)
#define htonl(x) bpf_htonl(x)
