"""What attaches programs, in `union bpf_attr`: links and their kinds, and the older commands. Layouts: linux/bpf.h."""

import ctypes
import errno
import struct
from collections.abc import Callable, Sequence
from typing import Any

from ebpf.kernels.linux.codec import as_buffer, attr, fill_info, run, where
from ebpf.kernels.linux.syscall import bpf, failure
from ebpf.sys import calls
from ebpf.sys.calls import Call
from ebpf.uapi import AttachType, LinkType

_INFO_LINK = 128

# A link's own part of bpf_link_info, from byte 16: its fields in order, as struct has them; where a text's address and size
# belong; the name of the text. A perf event's part has its own kinds, from byte 24.
_LINKS: dict[int, tuple[str, tuple[str, ...], str]] = {
    LinkType.RAW_TRACEPOINT: ("QI4xQ", ("", "", "cookie"), "tp_name"),
    LinkType.TRACING: ("III4xQ", ("attach_type", "target_obj_id", "target_btf_id", "cookie"), ""),
    LinkType.CGROUP: ("QI", ("cgroup_id", "attach_type"), ""),
    LinkType.ITER: ("QIIQI", ("", "", "map_id", "cgroup_id", "order"), "target_name"),
    LinkType.NETNS: ("II", ("netns_ino", "attach_type"), ""),
    LinkType.XDP: ("I", ("ifindex",), ""),
    LinkType.STRUCT_OPS: ("I", ("map_id",), ""),
    LinkType.NETFILTER: ("IIiI", ("pf", "hook", "prio", "flags"), ""),
    LinkType.TCX: ("II", ("ifindex", "attach_type"), ""),
    LinkType.NETKIT: ("II", ("ifindex", "attach_type"), ""),
    LinkType.SOCKMAP: ("II", ("map_id", "attach_type"), ""),
    LinkType.KPROBE_MULTI: ("8xIIQ", ("func_cnt", "flags", "missed"), ""),
    LinkType.UPROBE_MULTI: ("32xIIII", ("", "func_cnt", "flags", "pid"), ""),
}
_PERF: dict[int, tuple[str, str, tuple[str, ...], str]] = {
    1: ("uprobe", "QIIQ", ("", "", "offset", "cookie"), "file"),
    2: ("uretprobe", "QIIQ", ("", "", "offset", "cookie"), "file"),
    3: ("kprobe", "QIIQQQ", ("", "", "offset", "addr", "missed", "cookie"), "func"),
    4: ("kretprobe", "QIIQQQ", ("", "", "offset", "addr", "missed", "cookie"), "func"),
    5: ("tracepoint", "QI4xQ", ("", "", "cookie"), "tracepoint"),
    6: ("event", "QI4xQ", ("event_config", "event_type_number", "cookie"), ""),
}


def _link_info(call: calls.GetLinkInfo) -> calls.LinkInfo:
    raw = ctypes.create_string_buffer(_INFO_LINK)
    fill_info(call.fd, raw)
    kind, id_, prog = struct.unpack_from("=III", raw)
    detail: dict[str, int | str] = {}
    at = 16
    if kind == LinkType.PERF_EVENT:
        at = 24
        (event,) = struct.unpack_from("=I", raw, 16)
        detail["event"], layout, names, text = _PERF.get(event, ("", "", (), ""))
    else:
        layout, names, text = _LINKS.get(kind, ("", (), ""))
    if text:
        name = ctypes.create_string_buffer(256)
        raw = ctypes.create_string_buffer(_INFO_LINK)
        struct.pack_into("=QI", raw, at, where(name), len(name))
        fill_info(call.fd, raw)
        detail[text] = name.value.decode(errors="replace")
    detail |= {field: value for field, value in zip(names, struct.unpack_from("=" + layout, raw, at), strict=True) if field}
    return calls.LinkInfo(kind, id_, prog, detail)


def _attach(call: calls.ProgAttach) -> None:
    run(call.cmd, attr("IIII", call.target_fd, call.prog_fd, call.attach_type, call.flags, size=32))


def _detach(call: calls.ProgDetach) -> None:
    run(call.cmd, attr("III", call.target_fd, call.prog_fd, call.attach_type, size=32))


def _query(call: calls.ProgQuery) -> calls.Attached:
    room, known = 64, 3
    while True:
        arrays = [ctypes.create_string_buffer(4 * room) for _ in range(4)]
        ids, *more = (where(array) for array in arrays)
        more = [place if number < known else 0 for number, place in enumerate(more)]
        a = attr("IIIIQIIQQQQ", call.target, call.attach_type, call.flags, 0, ids, room, 0, *more, 0, size=64)
        result = bpf(int(call.cmd), a)
        if result == -errno.ENOSPC:
            room *= 2
        elif result == -errno.EINVAL and known:
            # Linux before 6.6 tells nothing of links, and before 6.0 only programs: whoever asks for more is refused.
            known = {3: 1, 1: 0}[known]
        else:
            break
    if result < 0:
        raise failure(-result, "bpf(PROG_QUERY)", capability="CAP_NET_ADMIN")
    (flags,) = struct.unpack_from("=I", a, 12)
    (count,) = struct.unpack_from("=I", a, 24)
    lists: list[tuple[int, ...]] = [struct.unpack_from(f"={count}I", array) for array in arrays]
    return calls.Attached(lists[0], lists[1], lists[2], lists[3], flags)


def _raw_tracepoint(call: calls.RawTracepointOpen) -> int:
    # A program on a BTF target said its name when it was loaded, and has none here.
    name = ctypes.create_string_buffer(call.name.encode()) if call.name else None
    result = bpf(int(call.cmd), attr("QIIQ", where(name), call.prog_fd, 0, call.cookie))
    if result < 0:
        raise failure(-result, "bpf(RAW_TRACEPOINT_OPEN)", f"raw tracepoint {call.name!r}" if call.name else "", capability="CAP_PERFMON")
    return result


_TRACING = frozenset(kind for kind in AttachType if kind.name.startswith("TRACE_") or kind in (AttachType.PERF_EVENT, AttachType.LSM_MAC))
_Held = list["ctypes.Array[ctypes.c_char]"]


def _link_create(call: calls.LinkCreate) -> int:
    held: _Held = []
    head = (call.prog_fd, call.target, call.attach_type, call.flags)
    layout, values = ("Q", (call.cookie,)) if call.options is None else _OPTIONS[type(call.options)](call.options, call, held)
    result = bpf(int(call.cmd), attr("IIII" + layout, *head, *values, size=64))
    if result < 0:
        raise failure(-result, "bpf(LINK_CREATE)", capability="CAP_PERFMON" if call.attach_type in _TRACING else "CAP_NET_ADMIN")
    return result


def _array(held: _Held, layout: str, numbers: Sequence[int]) -> int:
    """The address of numbers in memory (0: there are none); what holds them goes into `held`."""
    if not numbers:
        return 0
    held.append(as_buffer(struct.pack(f"={len(numbers)}{layout}", *numbers)))
    return where(held[-1])


def _kprobe_multi(options: calls.KprobeMulti, _: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    names = [as_buffer(name.encode() + b"\0") for name in options.functions]
    held += names
    symbols = _array(held, "Q", [where(name) for name in names])
    return "IIQQQ", (int(options.ret), len(names), symbols, 0, _array(held, "Q", options.cookies))


def _uprobe_multi(options: calls.UprobeMulti, _: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    held.append(as_buffer(options.path.encode() + b"\0"))
    path = where(held[-1])
    arrays = [_array(held, "Q", numbers) for numbers in (options.offsets, options.ref_ctr_offsets, options.cookies)]
    return "QQQQIII", (path, *arrays, len(options.offsets), int(options.ret), options.pid)


def _netfilter(options: calls.NetfilterHook, _: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    return "IIiI", (options.family, options.hook, options.priority, options.flags)


def _anchor(options: calls.Anchor, _: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    return "I4xQ", (options.relative_fd, options.revision)


def _iter_target(options: calls.IterTarget, _: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    if options.map_fd:
        info = struct.pack("=I", options.map_fd)
    elif options.order:
        info = struct.pack("=IIQ", options.order, options.cgroup_fd, 0)
    else:
        info = struct.pack("=III", options.tid, options.pid, 0)
    held.append(as_buffer(info.ljust(16, b"\0")))
    return "QI", (where(held[-1]), 16)


def _traced_function(options: calls.TracedFunction, call: calls.LinkCreate, held: _Held) -> tuple[str, tuple[int, ...]]:
    return "I4xQ", (options.btf_id, call.cookie)


_OPTIONS: dict[type, Callable[[Any, calls.LinkCreate, _Held], tuple[str, tuple[int, ...]]]] = {
    calls.KprobeMulti: _kprobe_multi,
    calls.UprobeMulti: _uprobe_multi,
    calls.NetfilterHook: _netfilter,
    calls.Anchor: _anchor,
    calls.IterTarget: _iter_target,
    calls.TracedFunction: _traced_function,
}
_REPLACE = 1 << 2


def _link_update(call: calls.LinkUpdate) -> None:
    run(call.cmd, attr("IIII", call.link_fd, call.new_fd, _REPLACE if call.old_fd else 0, call.old_fd))


def _link_detach(call: calls.LinkDetach) -> None:
    run(call.cmd, attr("I", call.link_fd, size=16))


def _iter_create(call: calls.IterCreate) -> int:
    return run(call.cmd, attr("II", call.link_fd, 0))


def _enable_stats(call: calls.EnableStats) -> int:
    return run(call.cmd, attr("I", call.kind))


#: How each call is carried out.
LINK_COMMANDS: dict[type[Call[Any]], Callable[[Any], Any]] = {
    calls.ProgAttach: _attach,
    calls.ProgDetach: _detach,
    calls.ProgQuery: _query,
    calls.GetLinkInfo: _link_info,
    calls.RawTracepointOpen: _raw_tracepoint,
    calls.LinkCreate: _link_create,
    calls.LinkUpdate: _link_update,
    calls.LinkDetach: _link_detach,
    calls.IterCreate: _iter_create,
    calls.EnableStats: _enable_stats,
}
