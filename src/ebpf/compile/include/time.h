/* Clocks and times. Written for the ebpf package. */
#pragma once
#include <sys/types.h>
#include <linux/time.h>
