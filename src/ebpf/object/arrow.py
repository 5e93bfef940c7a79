"""A map as a stream of Arrow's C data interface, by ctypes: for pyarrow, polars, pandas, duckdb and others.

Source: https://arrow.apache.org/docs/format/CDataInterface.html. Each struct holds one reference to a Python object with the memory
that it points to (`private_data`); its release function, in C, gives that back.
"""

import ctypes
import errno
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p, py_object
from typing import TYPE_CHECKING, Any

from ebpf.engine.runtime import address
from ebpf.engine.runtime.python import stream_capsule
from ebpf.object.arrow_columns import Column, Part, Rows, column_of, listed, plain, record
from ebpf.sys.calls import Batch

if TYPE_CHECKING:
    from ebpf.object.map import Map


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_GetSchema = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))
_GetNext = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))
_GetError = CFUNCTYPE(c_void_p, POINTER(_Stream))
_Schema._fields_ = [
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_char_p),
    ("flags", c_int64),
    ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))),
    ("dictionary", POINTER(_Schema)),
    ("release", c_void_p),
    ("private_data", c_void_p),
]
_Array._fields_ = [
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
    ("dictionary", POINTER(_Array)),
    ("release", c_void_p),
    ("private_data", c_void_p),
]
_Stream._fields_ = [
    ("get_schema", _GetSchema),
    ("get_next", _GetNext),
    ("get_last_error", _GetError),
    ("release", c_void_p),
    ("private_data", c_void_p),
]


def _hold(what: object) -> int:
    """A reference to an object, as C keeps it."""
    ctypes.pythonapi.Py_IncRef(py_object(what))
    return id(what)


def _held(stream: Any) -> Any:
    return ctypes.cast(stream.contents.private_data, py_object).value


def _fill_schema(to: _Schema, column: Column) -> None:
    children = [_Schema() for _ in column.children]
    for child, each in zip(children, column.children):
        _fill_schema(child, each)
    pointers = (POINTER(_Schema) * len(children))(*map(ctypes.pointer, children))
    held = (column.format.encode(), column.name.encode(), children, pointers)
    ctypes.memset(ctypes.byref(to), 0, ctypes.sizeof(to))
    to.format, to.name = held[0], held[1]
    to.n_children, to.children = len(children), ctypes.cast(pointers, POINTER(POINTER(_Schema)))
    to.release, to.private_data = address("rt_release_schema"), _hold(held)


def _fill_array(to: _Array, part: Part) -> None:
    children = [_Array() for _ in part.children]
    for child, each in zip(children, part.children):
        _fill_array(child, each)
    pointers = (POINTER(_Array) * len(children))(*map(ctypes.pointer, children))
    # The first buffer would say what is null.
    addresses = (c_void_p * (1 + len(part.buffers)))(None, *(ctypes.cast(c_char_p(data), c_void_p).value for data in part.buffers))
    ctypes.memset(ctypes.byref(to), 0, ctypes.sizeof(to))
    to.length, to.n_buffers, to.buffers = part.count, len(addresses), ctypes.cast(addresses, POINTER(c_void_p))
    to.n_children, to.children = len(children), ctypes.cast(pointers, POINTER(POINTER(_Array)))
    to.release, to.private_data = address("rt_release_array"), _hold((part.buffers, addresses, children, pointers))


class _Source:
    """What a stream gives: the columns, and batch after batch."""

    def __init__(self, held: "Map") -> None:
        self.key, self.value = _columns(held)
        self.schema = record("", [self.key, self.value])
        self.batches: Iterator[Batch] = held.batches()
        self.error = b""

    def next(self) -> Part | None:
        """The next batch in columns; None at the end."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        parts = [
            column.take(Rows(data, len(data) // batch.count, batch.count))
            for column, data in ((self.key, batch.keys), (self.value, batch.values))
        ]
        return Part(batch.count, [], parts)


def _columns(held: "Map") -> tuple[Column, Column]:
    spec = held.spec
    btf = held.types.btf if held.types is not None else None
    key = column_of(btf, spec.key_type_id, "key") if btf is not None and held.key_typed else plain(held.key, "key")
    if btf is None or not held.typed:
        return key, plain(held.value, "value")
    if not held.per_cpu:
        return key, column_of(btf, spec.value_type_id, "value")
    cpus = held.kernel.possible_cpus
    return key, listed(column_of(btf, spec.value_type_id, "item"), "value", cpus, held.value_bytes // cpus)


def _get_schema(stream: Any, to: Any) -> int:
    _fill_schema(to.contents, _held(stream).schema)
    return 0


def _get_next(stream: Any, to: Any) -> int:
    source = _held(stream)
    try:
        part = source.next()
    except Exception as error:  # noqa: BLE001  # C is told by a number and a text
        source.error = str(error).encode()
        return int(getattr(error, "errno", 0) or errno.EIO)
    if part is None:
        ctypes.memset(to, 0, ctypes.sizeof(_Array))
    else:
        _fill_array(to.contents, part)
    return 0


def _get_error(stream: Any) -> int | None:
    source = _held(stream)
    return ctypes.cast(c_char_p(source.error), c_void_p).value if source.error else None


#: What C calls: these live as long as the module.
_FUNCTIONS = (_GetSchema(_get_schema), _GetNext(_get_next), _GetError(_get_error))


def open_stream(held: "Map", requested_schema: object) -> object:
    """A capsule with a stream of a map's elements. A reader that asks for other types gets ours, as the interface allows."""
    del requested_schema
    source = _Source(held)
    return stream_capsule(_Stream(*_FUNCTIONS, address("rt_release_stream"), _hold(source)))
