"""`ebpf map`: list, dump, look up and change maps, in bpftool's grammar."""

import errno
import json
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.noun import Failure, Misuse, Verb, dispatch, done, help_verb, pin_object, status
from ebpf.cli.types import MapTypes, program_type, scalar
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import FormatError, KernelError, UsageError
from ebpf.sys.calls import MapCreate, MapDelete, MapFreeze, MapInfo, MapLookup, MapLookupAndDelete, MapNextKey, MapUpdate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MAP_TYPES, MapType, UpdateFlag

_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)
_OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
# Arrays whose empty places are shown.
_SHOW_ABSENT = (MapType.DEVMAP, MapType.CPUMAP, MapType.XSKMAP, MapType.SOCKMAP)
_ENOTSUPP = 524


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `map` command."""
    return dispatch(context, argv, "map", _VERBS)


def type_name(number: int) -> str:
    """A map type as bpftool prints it."""
    try:
        return MAP_TYPES[MapType(number)].name
    except (ValueError, KeyError):
        return f"type {number}"


def show(context: Context, words: Words) -> int:
    """Print every map, or those a handle names."""
    kernel = context.kernel()
    handle = handles.take(words, "map") if words else None
    words.end()
    with handles.maps(kernel, handle) as found:
        pins = handles.pins(kernel, "map") if context.bpffs else {}
        if handle is not None and not found:
            handles.only(found, handle, "map")
        if context.json:
            rows = [_row(f.info) | handles.pinned_row(pins, f.info.id) for f in found]
            one = handle is not None and len(rows) == 1
            context.write(dumps(rows[0] if one else rows, pretty=context.pretty))
        else:
            for each in found:
                context.write(_text(each.info, pins.get(each.info.id, ())))
        return 0


def _row(info: MapInfo) -> dict[str, Json]:
    row: dict[str, Json] = {"id": info.id, "type": type_name(info.type)}
    if info.name:
        row["name"] = info.name
    row |= {
        "flags": info.map_flags,
        "bytes_key": info.key_size,
        "bytes_value": info.value_size,
        "max_entries": info.max_entries,
        "bytes_memlock": info.memlock,
    }
    if info.owner_prog_type:
        row |= {"owner_prog_type": program_type(info.owner_prog_type), "owner_jited": info.owner_jited}
    row["frozen"] = int(info.frozen)
    if info.btf_id:
        row["btf_id"] = info.btf_id
    return row


def _text(info: MapInfo, pins: Sequence[str] = ()) -> str:
    name = f"  name {info.name}" if info.name else ""
    lines = [
        f"{info.id}: {type_name(info.type)}{name}  flags {info.map_flags:#x}",
        f"\tkey {info.key_size}B  value {info.value_size}B  max_entries {info.max_entries}  memlock {info.memlock}B",
    ]
    if info.owner_prog_type:
        lines.append(f"\towner_prog_type {program_type(info.owner_prog_type)}  owner{' ' if info.owner_jited else ' not '}jited")
    lines += [f"\tpinned {path}" for path in pins]
    last = ([f"btf_id {info.btf_id}"] if info.btf_id else []) + (["frozen"] if info.frozen else [])
    if last:
        lines.append("\t" + "  ".join(last))
    return "\n".join(lines)


def _value_bytes(kernel: Kernel, info: MapInfo) -> int:
    if info.type in _PER_CPU:
        return (info.value_size + 7) // 8 * 8 * kernel.possible_cpus
    return info.value_size


@dataclass(slots=True)
class Walk:
    """All keys of a map, each with its value or the errno that stands for it. `errno` is what ended the walk early, else 0."""

    elements: list[tuple[bytes, bytes | int]]
    errno: int = 0

    @classmethod
    def over(cls, kernel: Kernel, fd: int, info: MapInfo) -> "Walk":
        """Read a map, one key after the other."""
        walk = cls([])
        key: bytes | None = None
        while True:
            try:
                key = kernel.bpf(MapNextKey(fd, key, info.key_size))
            except KernelError as error:
                walk.errno = 0 if error.errno == errno.ENOENT else error.errno
                return walk
            try:
                walk.elements.append((key, kernel.bpf(MapLookup(fd, key, _value_bytes(kernel, info)))))
            except KernelError as error:
                # A program or map that is not there is no element; of a hash one that went meanwhile is none.
                if error.errno != errno.ENOENT or info.type in _SHOW_ABSENT:
                    walk.elements.append((key, error.errno))


def dump(context: Context, words: Words) -> int:
    """Print all that a map holds; of several maps of one name, each with what it is."""
    if len(words.rest) != 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    status = 0
    with handles.maps(kernel, handle) as found:
        if not found:
            handles.only(found, handle, "map")
        several = len(found) > 1
        documents: list[Json] = []
        typed = False
        for each in found:
            types = MapTypes.of(kernel, each.info)
            walk = Walk.over(kernel, each.fd, each.info)
            status = walk.errno or status
            if context.json:
                rows = [_element(kernel, each.info, types, k, v) for k, v in walk.elements]
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            elif types is not None:
                rows = [_formatted(kernel, each.info, types, k, v) for k, v in walk.elements if isinstance(v, bytes)]
                typed = True
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            else:
                if several:
                    context.write(_text(each.info).splitlines()[0])
                for k, v in walk.elements:
                    context.write(_plain(kernel, each.info, k, v))
                there = sum(isinstance(v, bytes) for _, v in walk.elements)
                context.write(f"Found {there} element{'' if there == 1 else 's'}" + ("\n" if several else ""))
        if documents:
            document: Json = documents if several else documents[0]
            context.write(dumps(document, pretty=context.pretty or typed, **({} if context.json else {"scalar": scalar})))
        return -status & 0xFF


def _head(info: MapInfo) -> dict[str, Json]:
    """What heads a map's dump where there are several."""
    return {"id": info.id, "type": type_name(info.type), "name": info.name, "flags": info.map_flags}


def _formatted(kernel: Kernel, info: MapInfo, types: MapTypes, key: bytes, value: bytes) -> dict[str, Json]:
    """An element by its types; a per-CPU one has a list of values. Data maps have no key worth showing."""
    row: dict[str, Json] = {}
    if types.has_key:
        row["key"] = types.key(key)
    if info.type in _PER_CPU:
        step = (info.value_size + 7) // 8 * 8
        row["values"] = [
            {"cpu": cpu, "value": types.value(value[cpu * step : cpu * step + info.value_size])} for cpu in range(kernel.possible_cpus)
        ]
    else:
        row["value"] = types.value(value)
    return row


def _element(kernel: Kernel, info: MapInfo, types: MapTypes | None, key: bytes, value: bytes | int) -> dict[str, Json]:
    row: dict[str, Json] = {"key": hex_bytes(key)}
    if isinstance(value, int):
        return row | {"value": {"error": _absent(value)}}
    if info.type in _PER_CPU:
        step = (info.value_size + 7) // 8 * 8
        row["values"] = [
            {"cpu": cpu, "value": hex_bytes(value[cpu * step : cpu * step + info.value_size])} for cpu in range(kernel.possible_cpus)
        ]
    else:
        row["value"] = hex_bytes(value)
    if info.type in _OF_MAPS:
        row["inner_map_id"] = int.from_bytes(value[:4], "little")
    if types is not None:
        row["formatted"] = _formatted(kernel, info, types, key, value)
    return row


def _hex(data: bytes) -> str:
    return " ".join(f"{b:02x}" for b in data)


def _absent(number: int) -> str:
    """What stands for a value that cannot be read."""
    if number == errno.ENOENT:
        return "<no entry>"
    return f"Unknown error {number}" if number == _ENOTSUPP else os.strerror(number)


def _plain(kernel: Kernel, info: MapInfo, key: bytes, value: bytes | int) -> str:
    if isinstance(value, bytes) and info.type in _PER_CPU:
        step = (info.value_size + 7) // 8 * 8
        lines = ["key:", _hex(key)]
        lines += [f"value (CPU {cpu:02d}): {_hex(value[cpu * step : cpu * step + info.value_size])}" for cpu in range(kernel.possible_cpus)]
        return "\n".join(lines)
    if isinstance(value, bytes) and info.type in _OF_MAPS:
        return f"key: {_hex(key)}  inner_map_id: {int.from_bytes(value[:4], 'little')} "
    shown = _hex(value) if isinstance(value, bytes) else _absent(value)
    size = len(value) if isinstance(value, bytes) else len(shown)
    wide = info.key_size > 16 or size > 16
    between = "\n" if wide else " "
    parts = ([f"key:{between}{_hex(key)}"] if info.key_size else []) + ([f"value:{between}{shown}"] if size else [])
    return ("  " if info.key_size + size <= 24 and not wide else "\n").join(parts)


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


def _typed(
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
    if info.type in _OF_MAPS:
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


def lookup(context: Context, words: Words) -> int:
    """Print the value under one key; a queue's, stack's or bloom filter's without one."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        key = _typed(context, words, each, stack).key or b""
        try:
            value = kernel.bpf(MapLookup(each.fd, key, _value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise Failure("lookup failed", error.errno) from error
            context.write("null" if context.json else f"key:\n{_hex(key)}\n\nNot found")
            return -errno.ENOENT & 0xFF
        _show(context, each.info, key, value)
    return 0


def _show(context: Context, info: MapInfo, key: bytes, value: bytes) -> None:
    """Print one element."""
    kernel = context.kernel()
    types = MapTypes.of(kernel, info)
    if context.json:
        context.write(dumps(_element(kernel, info, types, key, value), pretty=context.pretty))
    elif types is not None:
        context.write(dumps(_formatted(kernel, info, types, key, value), pretty=True, scalar=scalar))
    else:
        context.write(_plain(kernel, info, key, value))


def getnext(context: Context, words: Words) -> int:
    """Print the key after one, or the first."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        key = _typed(context, words, each, stack).key if words else None
        try:
            following = kernel.bpf(MapNextKey(each.fd, key, each.info.key_size))
        except KernelError as error:
            raise Failure("can't get next key", error.errno) from error
        if context.json:
            row: dict[str, Json] = {"key": hex_bytes(key) if key is not None else None, "next_key": hex_bytes(following)}
            context.write(dumps(row, pretty=context.pretty))
        else:
            context.write(("key: None" if key is None else f"key:\n{_hex(key)}") + f"\nnext key:\n{_hex(following)}")
    return 0


def update(context: Context, words: Words) -> int:
    """Write a value under a key, or into a queue or stack; a per-CPU map gets it on every CPU."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        typed = _typed(context, words, each, stack, value=True, flags=True)
        value = typed.value or b""
        if each.info.type in _PER_CPU:
            value = value.ljust((len(value) + 7) // 8 * 8, b"\0") * kernel.possible_cpus
        try:
            kernel.bpf(MapUpdate(each.fd, typed.key or b"", value, int(typed.flags or UpdateFlag.ANY)))
        except KernelError as error:
            raise Failure("update failed", error.errno) from error
    done(context)
    return 0


def delete(context: Context, words: Words) -> int:
    """Remove a key."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        key = _typed(context, words, each, stack).key or b""
        try:
            kernel.bpf(MapDelete(each.fd, key))
        except KernelError as error:
            raise Failure("delete failed", error.errno) from error
    done(context)
    return 0


def pop(context: Context, words: Words) -> int:
    """Take a value out of a queue or stack and print it."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    words.end()
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        try:
            value = kernel.bpf(MapLookupAndDelete(each.fd, bytes(each.info.key_size), _value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise Failure("pop failed", error.errno) from error
            context.write("null" if context.json else "Error: empty map")
            return -errno.ENOENT & 0xFF
        _show(context, each.info, b"", value)
    return 0


def create(context: Context, words: Words) -> int:
    """Make a map and pin it."""
    words.need(7, "create")
    path = words.take("FILE")
    sizes = {"key": 0, "value": 0, "entries": 0, "flags": 0}
    kind: MapType | None = None
    name = ""
    seen: set[str] = set()
    kernel = context.kernel()
    with ExitStack() as stack:
        inner = 0
        while words:
            word = words.take("attribute")
            what = next((w for w in ("type", "name", "key", "value", "entries", "flags", "inner_map") if is_prefix(word, w)), None)
            if what is None:
                raise UsageError(f"unknown arg {word}")
            if what in seen:
                raise UsageError(f"{what} already specified" if what != "entries" else "max entries already specified")
            seen.add(what)
            if what == "inner_map":
                handle = handles.take(words, "map")
                inner = handles.only(stack.enter_context(handles.maps(kernel, handle)), handle, "map").fd
                continue
            text = words.take(what)
            if what == "type":
                kind = next((t for t, row in MAP_TYPES.items() if row.name == text), None)
                if kind is None:
                    raise UsageError(f"unrecognized map type: {text}")
            elif what == "name":
                name = text
            else:
                sizes[what] = number(text, what)
                if sizes[what] >= 1 << 32:
                    raise UsageError(f"can't parse {what} '{text}'")
        if not name:
            raise UsageError("map name not specified")
        if kind is None:
            raise UsageError("map type not specified")
        call = MapCreate(int(kind), sizes["key"], sizes["value"], sizes["entries"], sizes["flags"], name[:15], inner_map_fd=inner)
        try:
            fd = kernel.bpf(call)
        except KernelError as error:
            raise Failure("map create failed", error.errno, status=255) from error
        stack.callback(kernel.close, fd)
        pin_object(context, path, fd)
    done(context)
    return 0


def pin(context: Context, words: Words) -> int:
    """Give a map a path."""
    with status(234):
        words.need(3, "pin")
    handle = handles.take(words, "map")
    path = words.take("FILE")
    words.end()
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        pin_object(context, path, handles.only(found, handle, "map").fd)
    done(context)
    return 0


def event_pipe(context: Context, words: Words) -> int:
    """Print what programs give to a perf event array."""
    from ebpf.cli.event_pipe import run as copy

    if len(words.rest) < 2:
        raise Misuse("map")
    return copy(context, words)


def freeze(context: Context, words: Words) -> int:
    """Forbid later writes from user space."""
    words.need(2, "freeze")
    handle = handles.take(words, "map")
    words.end()
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        try:
            kernel.bpf(MapFreeze(each.fd))
        except KernelError as error:
            raise Failure("failed to freeze map", error.errno) from error
    done(context)
    return 0


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "help": help_verb("map"),
    "dump": dump,
    "update": update,
    "lookup": lookup,
    "getnext": getnext,
    "delete": delete,
    "pin": pin,
    "event_pipe": event_pipe,
    "create": create,
    "peek": lookup,
    "push": update,
    "enqueue": update,
    "pop": pop,
    "dequeue": pop,
    "freeze": freeze,
}
