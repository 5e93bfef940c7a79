"""`ebpf map`: list, dump, look up and change maps, in bpftool's grammar."""

import errno
from collections.abc import Sequence
from contextlib import ExitStack

from ebpf.cli import handles, table
from ebpf.cli.context import Context
from ebpf.cli.elements import PER_CPU, Walk, element, formatted, hex_text, plain, value_bytes
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.noun import Failure, Misuse, Verb, dispatch, done, help_verb, pin_object
from ebpf.cli.typed import read_element
from ebpf.cli.types import MapTypes, scalar
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import MapCreate, MapDelete, MapFreeze, MapInfo, MapLookup, MapLookupAndDelete, MapNextKey, MapUpdate
from ebpf.uapi import MAP_TYPES, MapType, UpdateFlag


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
        elif handle is None and table.wanted(context):
            pins = pins or handles.pins(kernel, "map")
            table.write(context, _COLUMNS, [_cells(each.info, pins.get(each.info.id, ())) for each in found])
        else:
            for each in found:
                context.write(_text(each.info, pins.get(each.info.id, ())))
        return 0


_COLUMNS = (
    table.Column("ID", right=True, colour="36"),
    table.Column("TYPE"),
    table.Column("NAME", colour="1"),
    table.Column("KEY", right=True),
    table.Column("VALUE", right=True),
    table.Column("ENTRIES", right=True),
    table.Column("FLAGS", colour="2"),
    table.Column("MEMORY", right=True),
    table.Column("STATE", colour="33"),
    table.Column("PINNED", colour="32"),
)


def _cells(info: MapInfo, pins: Sequence[str]) -> tuple[object, ...]:
    flags = f"{info.map_flags:#x}" if info.map_flags else ""
    sizes = (f"{info.key_size}B", f"{info.value_size}B", info.max_entries, flags, f"{info.memlock}B")
    return (info.id, type_name(info.type), info.name, *sizes, "frozen" if info.frozen else "", " ".join(pins))


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
        row |= {"owner_prog_type": handles.program_type(info.owner_prog_type), "owner_jited": info.owner_jited}
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
        lines.append(f"\towner_prog_type {handles.program_type(info.owner_prog_type)}  owner{' ' if info.owner_jited else ' not '}jited")
    lines += [f"\tpinned {path}" for path in pins]
    last = ([f"btf_id {info.btf_id}"] if info.btf_id else []) + (["frozen"] if info.frozen else [])
    if last:
        lines.append("\t" + "  ".join(last))
    return "\n".join(lines)


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
                rows = [element(each.info, types, k, v) for k, v in walk.elements]
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            elif types is not None:
                rows = [formatted(each.info, types, k, v) for k, v in walk.elements if isinstance(v, bytes)]
                typed = True
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            else:
                if several:
                    context.write(_text(each.info).splitlines()[0])
                for k, v in walk.elements:
                    context.write(plain(each.info, k, v))
                there = sum(isinstance(v, bytes) for _, v in walk.elements)
                context.write(f"Found {there} element{'' if there == 1 else 's'}" + ("\n" if several else ""))
        if documents:
            document: Json = documents if several else documents[0]
            context.write(dumps(document, pretty=context.pretty or typed, **({} if context.json else {"scalar": scalar})))
        return -status & 0xFF


def _head(info: MapInfo) -> dict[str, Json]:
    """What heads a map's dump where there are several."""
    return {"id": info.id, "type": type_name(info.type), "name": info.name, "flags": info.map_flags}


def lookup(context: Context, words: Words) -> int:
    """Print the value under one key; a queue's, stack's or bloom filter's without one."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        key = read_element(context, words, each, stack).key or b""
        try:
            value = kernel.bpf(MapLookup(each.fd, key, value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise Failure("lookup failed", error.errno) from error
            context.write("null" if context.json else f"key:\n{hex_text(key)}\n\nNot found")
            return -errno.ENOENT & 0xFF
        _show(context, each.info, key, value)
    return 0


def _show(context: Context, info: MapInfo, key: bytes, value: bytes) -> None:
    """Print one element."""
    kernel = context.kernel()
    types = MapTypes.of(kernel, info)
    if context.json:
        context.write(dumps(element(info, types, key, value), pretty=context.pretty))
    elif types is not None:
        context.write(dumps(formatted(info, types, key, value), pretty=True, scalar=scalar))
    else:
        context.write(plain(info, key, value))


def getnext(context: Context, words: Words) -> int:
    """Print the key after one, or the first."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        key = read_element(context, words, each, stack).key if words else None
        try:
            following = kernel.bpf(MapNextKey(each.fd, key, each.info.key_size))
        except KernelError as error:
            raise Failure("can't get next key", error.errno) from error
        if context.json:
            row: dict[str, Json] = {"key": hex_bytes(key) if key is not None else None, "next_key": hex_bytes(following)}
            context.write(dumps(row, pretty=context.pretty))
        else:
            context.write(("key: None" if key is None else f"key:\n{hex_text(key)}") + f"\nnext key:\n{hex_text(following)}")
    return 0


def update(context: Context, words: Words) -> int:
    """Write a value under a key, or into a queue or stack; a per-CPU map gets it on every CPU."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found, ExitStack() as stack:
        each = handles.only(found, handle, "map")
        typed = read_element(context, words, each, stack, value=True, flags=True)
        value = typed.value or b""
        if each.info.type in PER_CPU:
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
        key = read_element(context, words, each, stack).key or b""
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
            value = kernel.bpf(MapLookupAndDelete(each.fd, bytes(each.info.key_size), value_bytes(kernel, each.info)))
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
    "pin": handles.pin_verb("map"),
    "event_pipe": event_pipe,
    "create": create,
    "peek": lookup,
    "push": update,
    "enqueue": update,
    "pop": pop,
    "dequeue": pop,
    "freeze": freeze,
}
