"""`ebpf link`: list, pin and detach links, in bpftool's grammar."""

import os
from collections.abc import Mapping, Sequence

from ebpf.cli import handles, table
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Refused, Verb, dispatch, done, help_verb
from ebpf.cli.words import Words
from ebpf.errors import KernelError
from ebpf.sys.calls import FdById, GetProgInfo, LinkDetach, LinkInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType, Cmd, LinkType

_FAMILIES = {2: "ip", 10: "ip6", 7: "bridge", 3: "arp", 1: "inet"}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `link` command."""
    return dispatch(context, argv, "link", _VERBS)


def attach_name(number: int) -> str:
    """An attach type as bpftool prints it."""
    try:
        return AttachType(number).name.lower()
    except ValueError:
        return str(number)


def _type_name(number: int) -> str:
    try:
        return LinkType(number).name.lower()
    except ValueError:
        return f"type {number}"


def show(context: Context, words: Words) -> int:
    """Print every link, or the one a handle names."""
    handle = handles.take(words, "link") if words else None
    words.end()
    kernel = context.kernel()
    with handles.links(kernel, handle) as found:
        pins = handles.pins(kernel, "link") if context.bpffs else {}
        names = {index: name for name, index in kernel.interfaces().items()}
        if context.json:
            rows = [_row(kernel, each.info, names) | handles.pinned_row(pins, each.info.id) for each in found]
            context.write(dumps(rows if handle is None else rows[0], pretty=context.pretty))
        elif handle is None and table.wanted(context):
            pins = pins or handles.pins(kernel, "link")
            table.write(context, _COLUMNS, [_cells(_row(kernel, each.info, names), pins.get(each.info.id, ())) for each in found])
        else:
            for each in found:
                context.write(_text(kernel, each.info, names, pins.get(each.info.id, ())))
    return 0


def netfilter(detail: Mapping[str, int | str]) -> str:
    """Where a netfilter program stands, in a few words."""
    family, hook = int(detail["pf"]), int(detail["hook"])
    text = _FAMILIES.get(family, f"pf: {family}")
    text += f" {_HOOKS[hook]}" if hook < len(_HOOKS) else f" hook {hook}"
    return text + f" prio {detail['prio']}" + (" defrag" if int(detail["flags"]) & 1 else "")


def _program(kernel: Kernel, id_: int) -> str:
    """The type of the program with an id."""
    try:
        fd = kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, id_))
    except KernelError:
        return "?"
    try:
        return handles.program_type(kernel.bpf(GetProgInfo(fd)).type)
    finally:
        kernel.close(fd)


def _row(kernel: Kernel, info: LinkInfo, names: Mapping[int, str]) -> dict[str, Json]:
    detail = dict(info.detail)
    row: dict[str, Json] = {"id": info.id, "type": _type_name(info.type)}
    if info.type == LinkType.STRUCT_OPS:
        return row | {"map_id": detail.get("map_id", 0)}
    row["prog_id"] = info.prog_id
    if info.type == LinkType.TRACING:
        row["prog_type"] = _program(kernel, info.prog_id)
    if info.type == LinkType.PERF_EVENT:
        return {**row, **_perf_row(detail)}
    if info.type == LinkType.ITER:
        return row | {key: detail[key] for key in ("target_name", "map_id") if key == "target_name" or "map" in str(detail["target_name"])}
    if "ifindex" in detail:
        row["devname"] = names.get(int(detail["ifindex"]), "(unknown)")
    for key, value in detail.items():
        row[key] = attach_name(int(value)) if key == "attach_type" else value
    return row


_COLUMNS = (
    table.Column("ID", right=True, colour="36"),
    table.Column("TYPE"),
    table.Column("PROG", right=True, colour="1"),
    table.Column("WHERE"),
    table.Column("PINNED", colour="32"),
)


def _cells(row: Mapping[str, Json], pins: Sequence[str]) -> tuple[object, ...]:
    where = "  ".join(f"{key} {value}" for key, value in row.items() if key not in ("id", "type", "prog_id") and value not in (0, "", None))
    return (row["id"], row["type"], row.get("prog_id", ""), where, " ".join(pins))


def _perf_row(detail: dict[str, int | str]) -> Mapping[str, Json]:
    event = str(detail.pop("event"))
    if event in ("uprobe", "uretprobe"):
        return {
            "event_type": event,
            "file": detail["file"],
            "offset": detail["offset"],
            "cookie": detail["cookie"],
        } | {"retprobe": event == "uretprobe"}
    return {"event_type": event, **detail}


def _text(kernel: Kernel, info: LinkInfo, names: Mapping[int, str], pins: Sequence[str]) -> str:
    detail = info.detail
    head = f"{info.id}: {_type_name(info.type)}  "
    head += f"map {detail.get('map_id', 0)}  " if info.type == LinkType.STRUCT_OPS else f"prog {info.prog_id}  "
    line = ""
    match info.type:
        case LinkType.RAW_TRACEPOINT:
            line = f"tp '{detail.get('tp_name', '')}'  "
        case LinkType.TRACING:
            line = f"prog_type {_program(kernel, info.prog_id)}  "
        case LinkType.CGROUP:
            line = f"cgroup_id {detail['cgroup_id']}  "
        case LinkType.NETNS:
            line = f"netns_ino {detail['netns_ino']}  "
        case LinkType.XDP | LinkType.TCX | LinkType.NETKIT:
            index = int(detail["ifindex"])
            line = f"ifindex {names.get(index, '(detached)')}({index})  "
        case LinkType.SOCKMAP:
            line = f"map_id {detail['map_id']}  "
        case LinkType.ITER:
            line = f"target_name {detail['target_name']}  "
            line += f"map_id {detail['map_id']}  " if "map" in str(detail["target_name"]) else ""
        case LinkType.NETFILTER:
            line = netfilter(detail)
        case LinkType.PERF_EVENT:
            line = _perf_text(detail)
        case LinkType.KPROBE_MULTI | LinkType.UPROBE_MULTI:
            line = f"func_cnt {detail['func_cnt']}  "
    if "attach_type" in detail:
        line += f"attach_type {attach_name(int(detail['attach_type']))}  "
    if detail.get("target_obj_id") or detail.get("target_btf_id"):
        line += f"\n\ttarget_obj_id {detail['target_obj_id']}  target_btf_id {detail['target_btf_id']}  "
    if detail.get("cookie"):
        line += f"cookie {detail['cookie']}  "
    return "\n\t".join([head, *([line] if line else []), *(f"pinned {path}" for path in pins)])


def _perf_text(detail: Mapping[str, int | str]) -> str:
    event = detail["event"]
    if event in ("uprobe", "uretprobe"):
        return f"{event} {detail['file']}+{detail['offset']:#x}  "
    if event in ("kprobe", "kretprobe"):
        return f"{event} {detail['addr']:x} {detail['func']}" + (f"+{detail['offset']:#x}" if detail["offset"] else "") + "  "
    if event == "tracepoint":
        return f"tracepoint {detail['tracepoint']}  "
    return f"event {detail.get('event_type_number', '?')}:{detail.get('event_config', '?')}  "


def detach(context: Context, words: Words) -> int:
    """Take a link's program off its place, whoever holds the link."""
    if len(words.rest) != 2:
        raise Refused(
            "link specifier is invalid or missing\n" if context.command == "bpftool" else "link specifier is invalid or missing", 1
        )
    handle = handles.take(words, "link")
    kernel = context.kernel()
    with handles.links(kernel, handle) as found:
        try:
            kernel.bpf(LinkDetach(found[0].fd))
        except KernelError as error:
            raise Refused(f"failed link detach: {os.strerror(error.errno)}", 1) from error
    done(context)
    return 0


_VERBS: dict[str, Verb] = {"show": show, "list": show, "help": help_verb("link"), "pin": handles.pin_verb("link"), "detach": detach}
