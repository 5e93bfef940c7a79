"""`prog attach` and `prog detach`: bpftool's for maps of sockets and flow dissectors, and ours for every hook that there is."""

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ebpf import attach as hooks
from ebpf.attach import Link
from ebpf.attach.static_probes import USDT_SPECS
from ebpf.btf import Btf
from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.noun import Refused, done, prepare_pin, status
from ebpf.cli.types import open_btf
from ebpf.cli.words import Words, match, number
from ebpf.errors import KernelError, UsageError
from ebpf.object import Map
from ebpf.spec import MapSpec
from ebpf.sys.calls import FdById, GetMapInfo, GetProgInfo, ProgAttach, ProgDetach
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType, Cmd

_EINVAL = 234
#: What bpftool attaches: to a map of sockets, or (None of them) to this network namespace.
_OLD = {
    "sk_msg_verdict": AttachType.SK_MSG_VERDICT,
    "sk_skb_verdict": AttachType.SK_SKB_VERDICT,
    "sk_skb_stream_verdict": AttachType.SK_SKB_STREAM_VERDICT,
    "sk_skb_stream_parser": AttachType.SK_SKB_STREAM_PARSER,
    "flow_dissector": AttachType.FLOW_DISSECTOR,
}


@dataclass(frozen=True, slots=True)
class HeldProgram:
    """A program that is only known by its descriptor."""

    kernel: Kernel
    fd: int
    name: str


@dataclass(frozen=True, slots=True)
class _Probing:
    """A program on USDT probes, with the map that has where their arguments lie."""

    kernel: Kernel
    fd: int
    name: str
    btf: Btf | None
    maps: Mapping[str, Map]


@dataclass(frozen=True, slots=True)
class _Hook:
    """A kind of hook: what follows its name (for the grammar), and how it is attached to."""

    where: str
    make: Callable[[HeldProgram, Words], Link]


def _function(*, ret: bool) -> Callable[[HeldProgram, Words], Link]:
    def make(program: HeldProgram, words: Words) -> Link:
        name, _, offset = words.take("FUNCTION").partition("+")
        return hooks.kprobe(program, name, ret=ret, offset=number(offset or "0", "offset"))

    return make


def _place(*, ret: bool) -> Callable[[HeldProgram, Words], Link]:
    def make(program: HeldProgram, words: Words) -> Link:
        path, place = _in_file(words)
        pid = number(words.take("PID"), "pid") if words.take_if("pid") else 0
        return hooks.uprobe(program, path, place, ret=ret, pid=pid)

    return make


def _in_file(words: Words) -> tuple[str, str]:
    text = words.take("PATH:FUNCTION")
    path, colon, place = text.rpartition(":")
    if not colon:
        raise UsageError(f"a place in a file is written PATH:FUNCTION, not '{text}'")
    return path, place


def _places(program: HeldProgram, words: Words) -> Link:
    path, pattern = _in_file(words)
    return hooks.uprobe_multi(program, path, pattern)


def _usdt(program: HeldProgram, words: Words) -> Link:
    text = words.take("PATH:PROVIDER:NAME")
    rest, _, name = text.rpartition(":")
    path, colon, provider = rest.rpartition(":")
    probe = f"{provider}:{name}"
    if not colon:
        raise UsageError(f"a USDT probe is written PATH:PROVIDER:NAME, not '{text}'")
    pid = number(words.take("PID"), "pid") if words.take_if("pid") else 0
    kernel = program.kernel
    with ExitStack() as stack:
        for id_ in kernel.bpf(GetProgInfo(program.fd)).map_ids:
            fd = kernel.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, id_))
            stack.callback(kernel.close, fd)
            info = kernel.bpf(GetMapInfo(fd))
            if info.name == USDT_SPECS[: len(info.name)] and info.btf_id:
                spec = MapSpec(info.name, info.type, info.key_size, info.value_size, info.max_entries, value_type_id=info.btf_value_type_id)
                held = Map(kernel, fd, spec)
                # Whoever attached it before has rows in use; one that says of no argument can be written over.
                held.taken.update(row for row in range(info.max_entries) if any(held.lookup(row.to_bytes(4, "little")) or b""))
                probing = _Probing(kernel, program.fd, program.name, open_btf(kernel, info.btf_id), {USDT_SPECS: held})
                return hooks.usdt(probing, path, probe, pid=pid)
        return hooks.usdt(_Probing(kernel, program.fd, program.name, None, {}), path, probe, pid=pid)


def _event(program: HeldProgram, words: Words) -> Link:
    event = words.take("EVENT")
    how = match(words.take("period|frequency"), {"period": "period", "frequency": "frequency"})
    if how is None:
        raise UsageError("how often? write period N or frequency N")
    count = number(words.take("N"), how)
    pid = number(words.take("PID"), "pid") if words.take_if("pid") else 0
    return hooks.perf_event(program, event, period=count if how == "period" else 0, frequency=count if how == "frequency" else 0, pid=pid)


def _xdp(program: HeldProgram, words: Words) -> Link:
    interface = words.take("INTERFACE")
    mode = words.take("MODE") if words.peek() in ("generic", "driver", "native", "offload") else ""
    return hooks.xdp(program, interface, mode=mode, link=True)


def _netfilter(program: HeldProgram, words: Words) -> Link:
    family, hook = words.take("ip|ip6"), words.take("HOOK")
    sign = -1 if words.rest[1:2] and words.rest[1].startswith("-") else 1
    priority = sign * number(words.take("N").lstrip("-"), "priority") if words.take_if("priority") else 0
    return hooks.netfilter(program, hook, family=family, priority=priority)


def _replacement(program: HeldProgram, words: Words) -> Link:
    handle = handles.take(words, "prog")
    with handles.programs(program.kernel, handle) as found:
        into = handles.only(found, handle, "prog", status=_EINVAL)
        return hooks.freplace(program, HeldProgram(program.kernel, into.fd, into.info.name), words.take("FUNCTION"))


def _cgroup(program: HeldProgram, words: Words) -> Link:
    path, name = words.take("PATH"), words.take("ATTACH_TYPE")
    kinds = {kind.name.lower(): kind for kind in AttachType if kind.name.startswith("CGROUP_")}
    kind = match(name, kinds)
    if kind is None:
        raise UsageError(f"no attach type '{name}' of cgroups; there is {', '.join(kinds)}")
    return hooks.cgroup(program, path, kind)


_NAMESPACE = "/proc/self/ns/net"
_HOOKS: dict[str, _Hook] = {
    "kprobe": _Hook("FUNCTION[+OFFSET]", _function(ret=False)),
    "kretprobe": _Hook("FUNCTION", _function(ret=True)),
    "kprobe.multi": _Hook("PATTERN", lambda p, w: hooks.kprobe_multi(p, w.take("PATTERN"))),
    "kretprobe.multi": _Hook("PATTERN", lambda p, w: hooks.kprobe_multi(p, w.take("PATTERN"), ret=True)),
    "kprobe.session": _Hook("PATTERN", lambda p, w: hooks.kprobe_multi(p, w.take("PATTERN"), session=True)),
    "ksyscall": _Hook("NAME", lambda p, w: hooks.ksyscall(p, w.take("NAME"))),
    "kretsyscall": _Hook("NAME", lambda p, w: hooks.ksyscall(p, w.take("NAME"), ret=True)),
    "tracepoint": _Hook("CATEGORY:NAME", lambda p, w: hooks.tracepoint(p, w.take("CATEGORY:NAME"))),
    "raw_tp": _Hook("NAME", lambda p, w: hooks.raw_tracepoint(p, w.take("NAME"))),
    "trace": _Hook("(what it was loaded for: tp_btf, fentry, lsm, ...)", lambda p, w: hooks.trace(p)),
    "freplace": _Hook("PROG FUNCTION", _replacement),
    "uprobe": _Hook("PATH:FUNCTION [pid PID]", _place(ret=False)),
    "uretprobe": _Hook("PATH:FUNCTION [pid PID]", _place(ret=True)),
    "uprobe.multi": _Hook("PATH:PATTERN", _places),
    "usdt": _Hook("PATH:PROVIDER:NAME [pid PID]", _usdt),
    "perf_event": _Hook("EVENT {period|frequency} N [pid PID]", _event),
    "xdp": _Hook("INTERFACE [generic|driver|offload]", _xdp),
    "tcx_ingress": _Hook("INTERFACE", lambda p, w: hooks.tcx(p, w.take("INTERFACE"), "ingress")),
    "tcx_egress": _Hook("INTERFACE", lambda p, w: hooks.tcx(p, w.take("INTERFACE"), "egress")),
    "tc_ingress": _Hook("INTERFACE", lambda p, w: hooks.tc(p, w.take("INTERFACE"), "ingress")),
    "tc_egress": _Hook("INTERFACE", lambda p, w: hooks.tc(p, w.take("INTERFACE"), "egress")),
    "netkit": _Hook("INTERFACE {primary|peer}", lambda p, w: hooks.netkit(p, w.take("INTERFACE"), w.take("END"))),
    "netfilter": _Hook("{ip|ip6} HOOK [priority N]", _netfilter),
    "cgroup": _Hook("PATH ATTACH_TYPE", _cgroup),
    "sk_lookup": _Hook("[NETNS]", lambda p, w: hooks.sk_lookup(p, w.take("NETNS") if w and w.peek() != "pin" else _NAMESPACE)),
}


def attach(context: Context, words: Words) -> int:
    """Attach a loaded program: as bpftool does, or to any hook, until Ctrl-C or by a link that is pinned."""
    with status(_EINVAL):
        words.need(3 if context.command == "bpftool" else 2, "attach")
        handle = handles.take(words, "prog")
        with handles.programs(context.kernel(), handle) as found:
            program = handles.only(found, handle, "prog", status=_EINVAL)
            name = words.take("ATTACH_TYPE")
            if name in _OLD:
                return _change(context, words, name, program.fd, detach=False)
            hook = _HOOKS.get(name) if context.command != "bpftool" else None
            if hook is None:
                more = "" if context.command == "bpftool" else f" '{name}'; there is {', '.join([*_OLD, *_HOOKS])}"
                raise UsageError(f"invalid attach/detach type{more}")
            held = HeldProgram(context.kernel(), program.fd, program.info.name)
            with hook.make(held, words) as link:
                if words.take_if("pin"):
                    path = words.take("FILE")
                    words.end()
                    prepare_pin(context, path)
                    link.pin(path)
                    done(context)
                    return 0
                words.end()
                _until_interrupted(context, f"attached: {link.describe()}; Ctrl-C detaches")
    return 0


def _until_interrupted(context: Context, said: str) -> None:
    try:
        context.note(said)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return


def detach(context: Context, words: Words) -> int:
    """Take a program off a map of sockets, or off this network namespace."""
    with status(_EINVAL):
        words.need(3, "detach")
        handle = handles.take(words, "prog")
        with handles.programs(context.kernel(), handle) as found:
            program = handles.only(found, handle, "prog", status=_EINVAL)
            name = words.take("ATTACH_TYPE")
            if name not in _OLD:
                error = UsageError("invalid attach/detach type")
                error.hint = "what a link holds is detached by ebpf link detach, what is on an interface by ebpf net detach"
                raise error
            return _change(context, words, name, program.fd, detach=True)


def _change(context: Context, words: Words, name: str, fd: int, *, detach: bool) -> int:
    kind = _OLD[name]
    if kind == AttachType.FLOW_DISSECTOR:
        _carry_out(context, kind, 0, fd, detach=detach)
    else:
        words.need(2, name)
        handle = handles.take(words, "map")
        with handles.maps(context.kernel(), handle) as found:
            _carry_out(context, kind, handles.only(found, handle, "map", status=_EINVAL).fd, fd, detach=detach)
    words.end()
    done(context)
    return 0


def _carry_out(context: Context, kind: AttachType, target: int, fd: int, *, detach: bool) -> None:
    kernel = context.kernel()
    try:
        if detach:
            kernel.bpf(ProgDetach(target, fd, int(kind)))
        else:
            kernel.bpf(ProgAttach(target, fd, int(kind)))
    except KernelError as error:
        what = "failed prog detach from map" if detach else "failed prog attach to map"
        raise Refused(what if context.command == "bpftool" else f"{what}: {error}", _EINVAL) from error
