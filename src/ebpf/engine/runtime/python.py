"""Functions of the runtime that work on Python's own objects: a look-up in a map without ctypes in between, capsules."""

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, c_char, c_ssize_t, c_uint32, c_void_p, py_object
from functools import lru_cache
from typing import Any, cast

from ebpf.engine.runtime.build import library_path
from ebpf.engine.runtime.library import library
from ebpf.errors import NotSupportedError

#: What c/python.h names of Python's stable interface, in its order; then two objects.
_USED = (
    "PyBytes_FromStringAndSize",
    "PyBytes_AsString",
    "PyBytes_AsStringAndSize",
    "PyLong_FromUnsignedLongLong",
    "PyLong_FromLongLong",
    "PyLong_AsUnsignedLongLong",
    "PyLong_AsLongLong",
    "PyErr_Occurred",
    "PyErr_Clear",
    "Py_IncRef",
    "Py_DecRef",
    "PyCapsule_New",
    "PyCapsule_GetPointer",
    "PyCFunction_NewEx",
    "PyCFunction_GetSelf",
    "PyErr_Fetch",
    "PyErr_Restore",
    "PyGILState_Ensure",
    "PyGILState_Release",
)


class _Table(ctypes.Structure):
    """`struct rt_python`."""

    _fields_ = (*((name, c_void_p) for name in _USED), ("none", py_object), ("not_implemented", py_object))


@lru_cache(maxsize=1)
def _functions() -> ctypes.PyDLL | None:
    """The runtime, called with the GIL held; None for a Python that is not as C knows it."""
    if sys.implementation.name != "cpython":
        return None
    library()
    lib = ctypes.PyDLL(str(library_path()))
    table = _Table(none=None, not_implemented=NotImplemented)
    for name in _USED:
        setattr(table, name, ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p))
    lib.rt_python_init.argtypes, lib.rt_python_init.restype = (POINTER(_Table),), None
    lib.rt_finder_new.argtypes, lib.rt_finder_new.restype = (c_void_p, c_uint32, c_char, c_char), py_object
    lib.rt_finder_close.argtypes, lib.rt_finder_close.restype = (py_object,), None
    lib.rt_stream_capsule.argtypes, lib.rt_stream_capsule.restype = (c_void_p,), py_object
    lib.rt_python_init(ctypes.byref(table))
    return lib


def open_finder(address: int, size: int, key: str, value: str) -> Callable[[Any], Any] | None:
    """A function that looks keys up in the map whose header is at `address`, with values of `size` bytes.

    `key` and `value` are struct's letters of numbers, or "" for bytes. The answer is the value, None, or NotImplemented where
    the key is no such number or bytes, the map was closed, or this is another process. None if this Python cannot have it.
    """
    lib = _functions()
    # Without a GIL the map could be closed under the look-up.
    if lib is None or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    made: Callable[[Any], Any] = lib.rt_finder_new(address, size, key.encode() or b"\0", value.encode() or b"\0")
    return made


def close_finder(function: Callable[[Any], Any]) -> None:
    """Let a function find nothing any more: before its map's memory goes."""
    lib = _functions()
    if lib is not None:
        lib.rt_finder_close(function)


def stream_capsule(stream: ctypes.Structure) -> object:
    """A capsule with a copy of a `struct ArrowArrayStream`, which is released with it. Raises NotSupportedError."""
    lib = _functions()
    if lib is None:
        raise NotSupportedError("__arrow_c_stream__", f"needs CPython, this is {sys.implementation.name}")
    return lib.rt_stream_capsule(ctypes.byref(stream))


class Room:
    """Memory that C fills at `address`, and that then is bytes: with CPython without a copy, if all of it was filled."""

    def __init__(self, size: int) -> None:
        if sys.implementation.name == "cpython":
            self._memory: Any = _unfilled()(None, size)
            self.address = ctypes.cast(ctypes.c_char_p(self._memory), c_void_p).value or 0
        else:
            self._memory = ctypes.create_string_buffer(size)
            self.address = ctypes.addressof(self._memory)

    def filled(self, size: int) -> bytes:
        """The first `size` bytes. The memory must not be written to any more."""
        return bytes(self._memory[:size])


@lru_cache(maxsize=1)
def _unfilled() -> Callable[[None, int], bytes]:
    """What makes bytes that nobody has written to."""
    make = ctypes.pythonapi.PyBytes_FromStringAndSize
    make.argtypes, make.restype = (c_void_p, c_ssize_t), py_object
    return cast(Callable[[None, int], bytes], make)
