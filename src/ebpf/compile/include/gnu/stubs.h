/* What a C library says of itself: there is none. Written for the ebpf package. */
#pragma once
