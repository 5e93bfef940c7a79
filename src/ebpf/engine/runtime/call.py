"""Programs as Python functions: no call of Python's costs less than one of a function in C, so each program becomes one."""

import ctypes
from collections.abc import Callable
from typing import cast

from ebpf.engine.runtime.abi import Caller, Env
from ebpf.engine.runtime.library import address, library

Function = Callable[[bytes], int]

_METH_O = 0x0008
_LARGEST = 1 << 17


class _Method(ctypes.Structure):
    """`PyMethodDef`."""

    _fields_ = (("name", ctypes.c_char_p), ("body", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class _Self(int):
    """What the function is bound to: a caller's address, and what must live as long as the function."""

    keep: tuple[object, ...]


def packet_function(entry: int, env: Env, name: str) -> tuple[Function, Caller]:
    """An XDP program at `entry` as a function of a packet, and what tells it, with `prog` set to 0, that the program is gone.

    It raises TypeError for what is not bytes, and ValueError for a packet of a length that there is not, for a closed program and
    in a child of fork. Python's lock is held while it runs.
    """
    python = ctypes.pythonapi
    forks = library().rt_python(ctypes.cast(python.PyLong_AsVoidPtr, ctypes.c_void_p))
    buffer = ctypes.create_string_buffer(_LARGEST)
    caller = Caller(
        prog=entry,
        env=ctypes.addressof(env),
        buffer=ctypes.addressof(buffer),
        buffer_size=_LARGEST,
        bytes=ctypes.cast(python.PyBytes_AsStringAndSize, ctypes.c_void_p),
        number=ctypes.cast(python.PyLong_FromUnsignedLongLong, ctypes.c_void_p),
        fail=ctypes.cast(python.PyErr_SetString, ctypes.c_void_p),
        error=id(ValueError),
        ifindex=1,
        forks=forks,
    )
    text = b"Run the program on a packet and return its verdict."
    method = _Method(name.encode() or b"program", address("rt_call_packet"), _METH_O, text)
    bound = _Self(ctypes.addressof(caller))
    bound.keep = (caller, buffer, env, method)
    make = python.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return cast(Function, make(ctypes.addressof(method), bound, None)), caller
