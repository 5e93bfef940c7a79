"""Keys and values as they are typed: bytes in bpftool's way, JSON by the map's types, maps and programs by their handles."""

import json
import struct
from contextlib import ExitStack
from dataclasses import dataclass

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.elements import OF_MAPS
from ebpf.cli.types import MapTypes
from ebpf.cli.words import Words, number
from ebpf.errors import FormatError, UsageError
from ebpf.sys.calls import MapInfo, MapLookup
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType, UpdateFlag


def _byte(word: str, *, hexadecimal: bool) -> int:
    try:
        value = int(word, 16) if hexadecimal else number(word, "byte")
    except (ValueError, UsageError):
        value = -1
    if not 0 <= value <= 255:
        raise UsageError(f"error parsing byte: {word}")
    return value


def _data(context: Context, words: Words, info: MapInfo, what: str, fd: int) -> bytes:
    """Read a key or value: its bytes, decimal, octal or 0x.. each, or after `hex` in hexadecimal; or JSON, for a map with types."""
    size = info.key_size if what == "key" else info.value_size
    if _is_typed(context, words, size):
        return _by_type(context.kernel(), words.take(what), info, what, fd)
    hexadecimal = words.take_if("hex")
    data = bytearray()
    while words and len(data) < size:
        data.append(_byte(words.take(what), hexadecimal=hexadecimal))
    if len(data) != size:
        raise UsageError(f"{what} expected {size} bytes got {len(data)}")
    return bytes(data)


def _is_typed(context: Context, words: Words, size: int) -> bool:
    """Whether the next word is a whole value: JSON, or (where bpftool takes it for a byte) one number for several bytes."""
    word = words.peek()
    if word[:1] in ("{", "[", '"'):
        return True
    alone = len(words.rest) == 1 or words.rest[1] in ("key", "value", *_FLAGS)
    return context.command != "bpftool" and alone and size > 1 and word[:1] in "-0123456789" + "tf" and word != ""


def _by_type(kernel: Kernel, text: str, info: MapInfo, what: str, fd: int) -> bytes:
    """A key or value that is written as JSON, as the map's types lay it out."""
    types = MapTypes.of(kernel, info)
    if types is None or (what == "key" and not types.has_key):
        raise UsageError(f"{what} {text}: map {info.name!r} has no types, so that its bytes must be given: {what} 1 0 0 0")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{what} {text}: not JSON: {error}") from error
    try:
        if what == "key":
            return types.pack_key(value)
        before = kernel.bpf(MapLookup(fd, bytes(info.key_size), info.value_size)) if types.is_data else b""
        return types.pack_value(value, before)
    except FormatError as error:
        raise UsageError(f"{what} {text}: {error}") from error


@dataclass(slots=True)
class Typed:
    """What was typed of an element."""

    key: bytes | None = None
    value: bytes | None = None
    flags: UpdateFlag | None = None


_FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}


def read_element(
    context: Context, words: Words, found: handles.Found[MapInfo], stack: ExitStack, *, value: bool = False, flags: bool = False
) -> Typed:
    """Read key, value and flags, in any order, each once. What a value names (a map, a program) stays open with `stack`."""
    typed = Typed()
    info, fd = found.info, found.fd
    while words:
        if words.take_if("key"):
            if typed.key is not None:
                raise UsageError("duplicate key")
            typed.key = _data(context, words, info, "key", fd)
        elif words.take_if("value"):
            if not value:
                raise UsageError("unnecessary value")
            if typed.value is not None:
                raise UsageError("duplicate value")
            typed.value = _value(context, words, found, stack)
        elif flags and words.peek() in _FLAGS and typed.flags is None:
            typed.flags = _FLAGS[words.take("flags")]
        else:
            raise UsageError(f"expected key or value, got: {words.peek()}")
    if typed.key is None and typed.value is not None and context.command != "bpftool" and info.max_entries == 1:
        # The variables of a data map stand under its one key.
        types = MapTypes.of(context.kernel(), info)
        typed.key = bytes(info.key_size) if types is not None and types.is_data else None
    if info.key_size and typed.key is None:
        raise UsageError("did not find key")
    if value and info.value_size and typed.value is None:
        raise UsageError("did not find value")
    return typed


def _value(context: Context, words: Words, found: handles.Found[MapInfo], stack: ExitStack) -> bytes:
    kernel, info = context.kernel(), found.info
    if info.type in OF_MAPS:
        handle = handles.take(words, "map")
        return struct.pack("<i", handles.only(stack.enter_context(handles.maps(kernel, handle)), handle, "map").fd)
    if info.type == MapType.PROG_ARRAY:
        handle = handles.take(words, "prog")
        if handle.how == "id":
            context.note(
                "Warning: updating program array via MAP_ID, make sure this map is kept open\n"
                "         by some process or pinned otherwise update will be lost"
            )
        return struct.pack("<i", handles.only(stack.enter_context(handles.programs(kernel, handle)), handle, "prog").fd)
    return _data(context, words, info, "value", found.fd)
