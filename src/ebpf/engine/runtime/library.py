"""The runtime's shared library, loaded: its functions with their types, and which helpers it has."""

import ctypes
import os
from ctypes import c_int, c_int64, c_uint32, c_uint64, c_void_p
from functools import lru_cache

from ebpf.engine.runtime import abi
from ebpf.engine.runtime.build import library_path
from ebpf.errors import NotSupportedError
from ebpf.uapi import HELPERS, Helper

_P = c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "rt_sizes": (c_uint64, ()),
    "rt_map_value": (c_void_p, (_P, _P, c_uint32)),
    "rt_map_put": (c_int64, (_P, _P, _P, c_uint64, c_int, c_uint32)),
    "rt_map_remove": (c_int64, (_P, _P)),
    "rt_map_next": (c_int64, (_P, _P, _P)),
    "rt_map_read": (c_int64, (_P, _P, _P, c_uint64)),
    "rt_map_read_locked": (c_int64, (_P, _P, _P, c_uint64)),
    "rt_map_take": (c_int64, (_P, _P, _P, c_uint64)),
    "rt_map_push": (c_int64, (_P, _P, c_uint64)),
    "rt_map_pop": (c_int64, (_P, _P)),
    "rt_map_peek": (c_int64, (_P, _P)),
    "rt_map_batch": (c_uint32, (_P, _P, c_uint32, _P, _P, c_uint32, c_int)),
    "rt_map_put_many": (c_int64, (_P, _P, _P, c_uint32, c_uint64, c_uint32, _P)),
    "rt_map_remove_many": (c_int64, (_P, _P, c_uint32, _P)),
    "rt_ringbuf_init": (None, (_P,)),
    "rt_perf_init": (None, (_P,)),
    "rt_trace_take": (c_uint64, (_P, _P, c_uint64, _P)),
    "rt_replay": (None, (_P, _P, _P)),
    "rt_run": (c_uint64, (_P, _P, _P, c_uint32, _P)),
    "rt_skb_load": (c_int64, (_P, c_int64, c_uint32)),
    "rt_column": (None, (_P, _P, c_uint64, c_uint64, c_uint32, c_uint64)),
    "rt_python": (c_uint32, (_P,)),
    "rt_wire_open": (c_int64, (_P, c_uint32)),
    "rt_wire_close": (None, (_P,)),
    "rt_wire_loop": (None, (_P, _P)),
    "rt_wire_set": (None, (_P, _P)),
    "rt_clock_open": (c_void_p, ()),
    "rt_clock_loop": (None, (_P, _P)),
    "rt_clock_stop": (None, (_P,)),
    "rt_clock_close": (None, (_P,)),
    "rt_clock_leave": (None, (_P, _P)),
    "rt_clock_uses": (c_uint32, (_P, c_uint64)),
    "rt_queue_open": (c_int64, (_P,)),
    "rt_queue_loop": (None, (_P, _P, c_uint32)),
    "rt_wire_chain": (None, (_P, c_uint32, _P, c_uint32)),
    "rt_know": (None, (_P, c_uint32)),
    "rt_forked": (None, ()),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """Load the runtime (built at first use if the install did not). Calls release the GIL."""
    lib = ctypes.CDLL(str(library_path()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    sizes = lib.rt_sizes()
    ours = ctypes.sizeof(abi.Env) | ctypes.sizeof(abi.MapHeader) << 16 | ctypes.sizeof(abi.Trace) << 32
    if sizes != ours:
        raise NotSupportedError("the native runtime", f"its structs have other sizes ({sizes:#x}, expected {ours:#x})")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lib.rt_forked)
    return lib


def address(name: str) -> int:
    """The address of a function of the runtime, 0 if it has none of this name."""
    try:
        function = library()[name]
    except AttributeError:
        return 0
    return ctypes.cast(function, c_void_p).value or 0


@lru_cache(maxsize=512)
def helper_address(id_: int, family: str = "helper") -> int:
    """The address of a helper's body ("hash": of the one for maps that are known to be hashes), 0 if it has none."""
    row = HELPERS.get(id_)
    return address(f"rt_{family}_{row.name}") if row is not None else 0


def helpers() -> list[Helper]:
    """The helpers that have a body in user space."""
    return [row for row in HELPERS.values() if helper_address(row.id)]
