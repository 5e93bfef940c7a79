/* Byte order of the network. Written for the ebpf package. */
#pragma once
#include <netinet/in.h>
