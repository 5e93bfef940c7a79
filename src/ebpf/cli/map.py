"""`ebpf map`: list, dump, look up and change maps, in bpftool's grammar."""

from collections.abc import Sequence
from contextlib import ExitStack

from ebpf.cli import handles, table
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Failure, Misuse, Verb, dispatch, done, help_verb, later, pin_object
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import MapCreate, MapFreeze, MapInfo
from ebpf.uapi import MAP_TYPES, MapType


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
                context.write(text(each.info, pins.get(each.info.id, ())))
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


def text(info: MapInfo, pins: Sequence[str] = ()) -> str:
    """A map as bpftool describes it, in two or three lines."""
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


# They read types, which takes longer to import than all that the others need.
_ELEMENTS = "ebpf.cli.mapdata"
_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "help": help_verb("map"),
    "dump": later(_ELEMENTS, "dump"),
    "update": later(_ELEMENTS, "update"),
    "lookup": later(_ELEMENTS, "lookup"),
    "getnext": later(_ELEMENTS, "getnext"),
    "delete": later(_ELEMENTS, "delete"),
    "pin": handles.pin_verb("map"),
    "event_pipe": event_pipe,
    "create": create,
    "peek": later(_ELEMENTS, "lookup"),
    "push": later(_ELEMENTS, "update"),
    "enqueue": later(_ELEMENTS, "update"),
    "pop": later(_ELEMENTS, "pop"),
    "dequeue": later(_ELEMENTS, "pop"),
    "freeze": freeze,
}
