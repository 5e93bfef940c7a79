"""`ebpf map`: list, dump, look up and change maps, in bpftool's grammar."""

from collections.abc import Iterator

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.noun import Verb, dispatch, done, help_verb
from ebpf.cli.types import MapTypes, scalar
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import MapDelete, MapInfo, MapLookup, MapNextKey, MapUpdate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MAP_TYPES, MapType, UpdateFlag

USAGE = """usage: ebpf map show|list [MAP]
       ebpf map dump MAP
       ebpf map lookup MAP key DATA
       ebpf map update MAP key DATA value DATA [any|exist|noexist]
       ebpf map delete MAP key DATA
       MAP := { id N | name NAME | pinned FILE }
       DATA := [hex] BYTES"""

_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)
_ENOENT = 2


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
        if context.json:
            rows = [_row(f.info) for f in found]
            one = handle is not None and len(rows) == 1
            context.write(dumps(rows[0] if one else rows, pretty=context.pretty))
        else:
            for each in found:
                context.write(_text(each.info))
        return 0 if found or handle is None else 255


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
        "frozen": int(info.frozen),
    }
    if info.btf_id:
        row["btf_id"] = info.btf_id
    return row


def _text(info: MapInfo) -> str:
    name = f"  name {info.name}" if info.name else ""
    lines = [
        f"{info.id}: {type_name(info.type)}{name}  flags {info.map_flags:#x}",
        f"\tkey {info.key_size}B  value {info.value_size}B  max_entries {info.max_entries}  memlock {info.memlock}B",
    ]
    last = ([f"btf_id {info.btf_id}"] if info.btf_id else []) + (["frozen"] if info.frozen else [])
    if last:
        lines.append("\t" + "  ".join(last))
    return "\n".join(lines)


def _value_bytes(kernel: Kernel, info: MapInfo) -> int:
    if info.type in _PER_CPU:
        return (info.value_size + 7) // 8 * 8 * kernel.possible_cpus
    return info.value_size


def entries(kernel: Kernel, fd: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a map, read one after the other."""
    key: bytes | None = None
    while True:
        try:
            key = kernel.bpf(MapNextKey(fd, key, info.key_size))
        except KernelError as error:
            if error.errno == _ENOENT:
                return
            raise
        try:
            value = kernel.bpf(MapLookup(fd, key, _value_bytes(kernel, info)))
        except KernelError as error:
            if error.errno == _ENOENT:
                continue
            raise
        yield key, value


def dump(context: Context, words: Words) -> int:
    """Print all that a map holds."""
    handle = handles.take(words, "map")
    words.end()
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        documents: list[Json] = []
        for each in found:
            types = MapTypes.of(kernel, each.info)
            elements = list(entries(kernel, each.fd, each.info))
            if context.json:
                documents.append([_element(kernel, each.info, types, k, v) for k, v in elements])
            elif types is not None:
                context.write(dumps([_formatted(kernel, each.info, types, k, v) for k, v in elements], pretty=True, scalar=scalar))
            else:
                for k, v in elements:
                    context.write(_plain(kernel, each.info, k, v))
                context.write(f"Found {len(elements)} element{'' if len(elements) == 1 else 's'}")
        if context.json and found:
            context.write(dumps(documents[0] if len(documents) == 1 else documents, pretty=context.pretty))
        return 0 if found else 255


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


def _element(kernel: Kernel, info: MapInfo, types: MapTypes | None, key: bytes, value: bytes) -> dict[str, Json]:
    row: dict[str, Json] = {"key": hex_bytes(key)}
    if info.type in _PER_CPU:
        step = (info.value_size + 7) // 8 * 8
        row["values"] = [
            {"cpu": cpu, "value": hex_bytes(value[cpu * step : cpu * step + info.value_size])} for cpu in range(kernel.possible_cpus)
        ]
    else:
        row["value"] = hex_bytes(value)
    if types is not None:
        row["formatted"] = _formatted(kernel, info, types, key, value)
    return row


def _hex(data: bytes) -> str:
    return " ".join(f"{b:02x}" for b in data)


def _plain(kernel: Kernel, info: MapInfo, key: bytes, value: bytes) -> str:
    if info.type in _PER_CPU:
        step = (info.value_size + 7) // 8 * 8
        lines = ["key:", _hex(key)]
        lines += [f"value (CPU {cpu:02d}): {_hex(value[cpu * step : cpu * step + info.value_size])}" for cpu in range(kernel.possible_cpus)]
        return "\n".join(lines)
    if info.key_size > 16 or info.value_size > 16 or "\n" in _hex(key):
        return f"key:\n{_hex(key)}\nvalue:\n{_hex(value)}"
    return f"key: {_hex(key)}  value: {_hex(value)}"


def _data(words: Words, size: int, what: str, stop: tuple[str, ...]) -> bytes:
    """Read `size` bytes, decimal or 0x.. each, or after `hex` in hexadecimal. Raises UsageError for any that is no byte."""
    hexadecimal = words.take_if("hex")
    data = bytearray()
    while words and not any(words.peek() and is_prefix(words.peek(), s) for s in stop if not words.peek()[0].isdigit()):
        word = words.take(what)
        value = int(word, 16) if hexadecimal and all(c in "0123456789abcdefABCDEFx" for c in word) else number(word, "byte")
        if not 0 <= value <= 255:
            raise UsageError(f"{what}: '{word}' is not a byte (0 to 255)")
        data.append(value)
    if len(data) != size:
        raise UsageError(f"{what} needs {size} bytes, got {len(data)}")
    return bytes(data)


def lookup(context: Context, words: Words) -> int:
    """Print the value under one key."""
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        key = _key(words, each.info)
        words.end()
        try:
            value = kernel.bpf(MapLookup(each.fd, key, _value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != _ENOENT:
                raise
            if context.json:
                context.write("null")
            else:
                context.write(f"key:\n{_hex(key)}\n\nNot found")
            return 254
        types = MapTypes.of(kernel, each.info)
        if context.json:
            context.write(dumps(_element(kernel, each.info, types, key, value), pretty=context.pretty))
        elif types is not None:
            context.write(dumps(_formatted(kernel, each.info, types, key, value), pretty=True, scalar=scalar))
        else:
            context.write(_plain(kernel, each.info, key, value))
    return 0


def _key(words: Words, info: MapInfo) -> bytes:
    if not words.take_if("key"):
        raise UsageError(f"expected 'key', got: '{words.peek()}'")
    return _data(words, info.key_size, "key", ("value", "any", "exist", "noexist"))


def update(context: Context, words: Words) -> int:
    """Write a value under a key; a per-CPU map gets it on every CPU."""
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        key = value = b""
        flags = UpdateFlag.ANY
        while words:
            if is_prefix(words.peek(), "key"):
                key = _key(words, each.info)
            elif words.take_if("value"):
                value = _data(words, each.info.value_size, "value", ("key", "any", "exist", "noexist"))
            elif words.take_if("any"):
                flags = UpdateFlag.ANY
            elif words.take_if("exist"):
                flags = UpdateFlag.EXIST
            elif words.take_if("noexist"):
                flags = UpdateFlag.NOEXIST
            else:
                words.end()
        if len(value) != each.info.value_size or len(key) != each.info.key_size:
            raise UsageError(f"map update needs a key of {each.info.key_size} and a value of {each.info.value_size} bytes")
        if each.info.type in _PER_CPU:
            value = value.ljust((len(value) + 7) // 8 * 8, b"\0") * kernel.possible_cpus
        kernel.bpf(MapUpdate(each.fd, key, value, int(flags)))
    done(context)
    return 0


def delete(context: Context, words: Words) -> int:
    """Remove a key."""
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        key = _key(words, each.info)
        words.end()
        kernel.bpf(MapDelete(each.fd, key))
    done(context)
    return 0


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "help": help_verb(USAGE),
    "dump": dump,
    "update": update,
    "lookup": lookup,
    "delete": delete,
}
