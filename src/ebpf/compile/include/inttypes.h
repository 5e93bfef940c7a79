/* Integers of a width. Written for the ebpf package. */
#pragma once
#include <stdint.h>
