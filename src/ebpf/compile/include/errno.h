/* Error numbers. Written for the ebpf package. */
#pragma once
#include <linux/errno.h>
