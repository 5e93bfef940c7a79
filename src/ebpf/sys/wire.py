"""The seam as messages: typed calls, answers and errors as bytes, for a kernel that lives in another process.

A frame is a header (magic, sequence number, kind, length) and a body; a body is one value: None, bool, int, bytes, str, a list,
a dict, or one of the seam's own dataclasses, by name. Nothing else can be expressed, and what comes in is checked field by field,
so that neither side has to trust the other. Descriptors travel beside a frame (SCM_RIGHTS).
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from ebpf.errors import (
    AttachError,
    EbpfError,
    FormatError,
    KernelError,
    NotFoundError,
    NotSupportedError,
    PrivilegeError,
    UsageError,
    VerifierError,
)
from ebpf.records import names_of
from ebpf.sys import calls, kernel
from ebpf.uapi import Cmd

#: Both sides must speak the same.
PROTOCOL = 4
HEADER = struct.Struct("<4sIHHI")
MAGIC = b"ebpf"
LARGEST = 64 << 20
_DEEPEST = 16
#: How many values a message may have: one byte of it may become a hundred here.
_MOST_VALUES = 1 << 18
_I64 = struct.Struct("<q")
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


# sun_path of sockaddr_un(7), with its closing zero.
_LONGEST_ADDRESS = 108


@contextmanager
def socket_address(path: str | os.PathLike[str]) -> Iterator[str]:
    """What to bind or connect a Unix socket to for a path of any length: a long one goes by way of its folder's descriptor."""
    if len(os.fsencode(path)) < _LONGEST_ADDRESS:
        yield os.fspath(path)
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


class Kind(IntEnum):
    """What a frame is."""

    CALL = 1
    ANSWER = 2
    ERROR = 3


class WireError(EbpfError):
    """Bytes that are no message."""


_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for module, names in (
        (
            calls,
            "MapTakeBatch MapUpdateBatch MapDeleteBatch"
            " MapCreate MapLookup MapUpdate MapDelete MapNextKey MapLookupAndDelete MapFreeze MapLookupBatch Batch ProgLoad Loaded ObjPin"
            " ObjGet ProgTestRun TestRunResult NextId FdById ProgInfo MapInfo BtfInfo LinkInfo GetProgInfo GetMapInfo GetBtfInfo"
            " GetLinkInfo BtfLoad RawTracepointOpen LinkCreate LinkDetach ProgAttach ProgDetach ProgQuery Attached"
            " LinkUpdate IterCreate EnableStats KprobeMulti UprobeMulti NetfilterHook Anchor IterTarget TracedFunction",
        ),
        (kernel, "Kprobe Tracepoint Uprobe PerfOutput Counter Breakpoint XdpState"),
    )
    for cls in (getattr(module, name) for name in names.split())
}


Shape = tuple[tuple[str, Callable[[Any], bool], type[IntEnum] | None], ...]
_SHAPES: dict[str, Shape] = {}


def _shape(cls: type[Any]) -> Shape:
    """The fields of a class in order: name, check, and the enumeration that its number belongs to."""
    shape = _SHAPES.get(cls.__name__)
    if shape is None:
        hints = get_type_hints(cls)
        shape = tuple((name, _check(hints[name]), Cmd if hints[name] is Cmd else None) for name in names_of(cls))
        _SHAPES[cls.__name__] = shape
    return shape


def _check(hint: Any) -> Callable[[Any], bool]:
    origin = get_origin(hint)
    if origin is ClassVar:
        return lambda value: False
    if origin in (Union, UnionType):
        parts = [_check(part) for part in get_args(hint)]
        return lambda value: any(part(value) for part in parts)
    if hint is NoneType:
        return lambda value: value is None
    if origin is tuple:
        inner = _check(get_args(hint)[0])
        return lambda value: isinstance(value, list) and all(inner(v) for v in value)
    if origin in (dict, Mapping):
        key, item = (_check(part) for part in get_args(hint))
        return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())
    if hint is int or (isinstance(hint, type) and issubclass(hint, IntEnum)):
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    return lambda value: isinstance(value, hint)


# -- values


def encode(value: Any) -> bytes:
    """A value as bytes."""
    out = bytearray()
    _put(out, value)
    return bytes(out)


def _put(out: bytearray, value: Any) -> None:
    if value is None:
        out += b"n"
    elif value is True:
        out += b"t"
    elif value is False:
        out += b"f"
    elif isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            out += b"i" + _I64.pack(value)
        else:
            out += b"u" + _U64.pack(value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        out += b"b" + _U32.pack(len(value)) + value
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        out += b"s" + _U32.pack(len(text)) + text
    elif isinstance(value, (list, tuple)):
        out += b"l" + _U32.pack(len(value))
        for each in value:
            _put(out, each)
    elif isinstance(value, Mapping):
        out += b"d" + _U32.pack(len(value))
        for key, each in value.items():
            _put(out, key)
            _put(out, each)
    else:
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            raise WireError(f"a {name} is no part of the seam")
        text = name.encode()
        out += b"o" + _U32.pack(len(text)) + text
        for field, _, _ in _shape(type(value)):
            _put(out, getattr(value, field))


def decode(data: bytes | memoryview) -> Any:
    """The value in bytes. WireError for anything else."""
    view = memoryview(data)
    try:
        value, at = _take(view, 0, 0, [_MOST_VALUES])
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise WireError("a message ends early or is garbled") from error
    if at != len(view):
        raise WireError("a message has something behind its end")
    return value


def _sized(view: memoryview, at: int) -> tuple[memoryview, int]:
    (size,) = _U32.unpack_from(view, at)
    end = at + 4 + size
    if end > len(view):
        raise WireError("a message ends early")
    return view[at + 4 : end], end


def _count(view: memoryview, at: int, room: list[int]) -> tuple[int, int]:
    """How many values follow; `room` is how many more there may be."""
    (count,) = _U32.unpack_from(view, at)
    if count > len(view):
        raise WireError("a message ends early")
    room[0] -= count
    if room[0] < 0:
        raise WireError(f"a message has more than {_MOST_VALUES} values")
    return count, at + 4


def _take(view: memoryview, at: int, depth: int, room: list[int]) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise WireError("a message is nested too deep")
    tag = view[at]
    at += 1
    if tag == 0x69:  # i
        return _I64.unpack_from(view, at)[0], at + 8
    if tag == 0x62:  # b
        part, at = _sized(view, at)
        return bytes(part), at
    if tag == 0x73:  # s
        part, at = _sized(view, at)
        return bytes(part).decode("utf-8", "surrogateescape"), at
    if tag == 0x6E:  # n
        return None, at
    if tag == 0x74:  # t
        return True, at
    if tag == 0x66:  # f
        return False, at
    if tag == 0x75:  # u
        return _U64.unpack_from(view, at)[0], at + 8
    if tag == 0x6C:  # l
        count, at = _count(view, at, room)
        items = []
        for _ in range(count):
            item, at = _take(view, at, depth + 1, room)
            items.append(item)
        return items, at
    if tag == 0x64:  # d
        count, at = _count(view, at, room)
        table = {}
        for _ in range(count):
            key, at = _take(view, at, depth + 1, room)
            if not isinstance(key, (str, int)):
                raise WireError("a key is neither text nor number")
            table[key], at = _take(view, at, depth + 1, room)
        return table, at
    if tag == 0x6F:  # o
        part, at = _sized(view, at)
        cls = _CLASSES.get(bytes(part).decode("ascii", "replace"))
        if cls is None:
            raise WireError(f"there is no {bytes(part)[:40]!r}")
        values: dict[str, Any] = {}
        for field, check, enum in _shape(cls):
            value, at = _take(view, at, depth + 1, room)
            if not check(value):
                raise WireError(f"{cls.__name__}.{field} is of another type")
            if enum is not None:
                try:
                    value = enum(value)
                except ValueError:
                    raise WireError(f"{cls.__name__}.{field} has no value {value}") from None
            values[field] = tuple(value) if isinstance(value, list) else value
        return cls(**values), at
    raise WireError(f"a message has an unknown tag {tag:#x}")


# -- errors

_ERRORS: dict[str, tuple[type[EbpfError], tuple[str, ...], tuple[str, ...]]] = {
    "PrivilegeError": (PrivilegeError, ("errno", "call", "capability", "why"), ()),
    "KernelError": (KernelError, ("errno", "call", "why"), ("log", "done")),
    "NotFoundError": (NotFoundError, ("kind", "name"), ("where", "near")),
    "NotSupportedError": (NotSupportedError, ("what", "why"), ("hint",)),
    "AttachError": (AttachError, ("target", "why"), ("hint",)),
    "FormatError": (FormatError, ("why",), ("path", "where")),
    "VerifierError": (VerifierError, ("program", "cause"), ("insn", "source", "log")),
    "UsageError": (UsageError, (), ()),
    "EbpfError": (EbpfError, (), ()),
}


def encode_error(error: EbpfError) -> bytes:
    """An error with all its fields."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _ERRORS)
    _, positional, named = _ERRORS[name]
    return encode([name, str(error), {field: getattr(error, field) for field in positional + named}])


def decode_error(data: bytes | memoryview) -> EbpfError:
    """The error in bytes. WireError for anything else."""
    value = decode(data)
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[2], dict)):
        raise WireError("an error is garbled")
    name, text, table = value
    row = _ERRORS.get(name)
    if row is None:
        raise WireError(f"there is no error {name[:40]!r}")
    cls, positional, named = row
    try:
        if not positional:
            return cls(str(text))
        return cls(*(table[field] for field in positional), **{field: table[field] for field in named})
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("an error is garbled") from error


def frame(sequence: int, kind: Kind, body: bytes) -> bytes:
    """A whole frame."""
    if len(body) > LARGEST:
        raise WireError(f"a message of {len(body)} bytes is more than the {LARGEST} that there may be")
    return HEADER.pack(MAGIC, sequence, kind, 0, len(body)) + body


def parse_header(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """The sequence number, kind and length of the body that follows."""
    magic, sequence, kind, spare, length = HEADER.unpack_from(data)
    if magic != MAGIC or spare or length > LARGEST:
        raise WireError("these bytes are no message of ebpf" if magic != MAGIC else f"a message of {length} bytes is too long")
    return sequence, kind, length
