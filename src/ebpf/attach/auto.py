"""A program attached as its section says."""

from collections.abc import Callable

from ebpf.attach.link import Link
from ebpf.attach.perf import kprobe, ksyscall, tracepoint, uprobe
from ebpf.attach.raw import raw_tracepoint, trace
from ebpf.errors import UsageError
from ebpf.object import Program


def by_section(program: Program) -> Link | None:
    """Attach a program as its section says; None if it does not say (it needs an interface, a cgroup, ...).

    Raises UsageError for a target that is not written as it must be, and what the attachment raises.
    """
    kind = program.spec.section.removeprefix("?").partition("/")[0]
    kind = kind.removesuffix(".s").removesuffix(".w")
    make = _KINDS.get(kind)
    return make(program, program.spec.attach_to) if make is not None and program.spec.attach_to else None


def _tracepoint(program: Program, target: str) -> Link:
    return tracepoint(program, target)


def _raw(program: Program, target: str) -> Link:
    return raw_tracepoint(program, target)


def _kprobe(*, ret: bool) -> Callable[[Program, str], Link]:
    def make(program: Program, target: str) -> Link:
        name, _, offset = target.partition("+")
        try:
            at = int(offset or "0", 0)
        except ValueError:
            raise UsageError(f"program {program.name!r}: {offset!r} is no offset") from None
        return kprobe(program, name, ret=ret, offset=at)

    return make


def _ksyscall(*, ret: bool) -> Callable[[Program, str], Link]:
    return lambda program, target: ksyscall(program, target, ret=ret)


def _in_file(program: Program, target: str, what: str = "function") -> tuple[str, str]:
    path, colon, place = target.rpartition(":")
    if not colon:
        raise UsageError(f"program {program.name!r}: a place in a file is written path:{what}, not {target!r}")
    return path, place


def _uprobe(*, ret: bool) -> Callable[[Program, str], Link]:
    return lambda program, target: uprobe(program, *_in_file(program, target), ret=ret)


def _kprobe_multi(*, ret: bool = False, session: bool = False) -> Callable[[Program, str], Link]:
    def make(program: Program, target: str) -> Link:
        from ebpf.attach.multi import kprobe_multi

        return kprobe_multi(program, target, ret=ret, session=session)

    return make


def _uprobe_multi(*, ret: bool = False, session: bool = False) -> Callable[[Program, str], Link]:
    def make(program: Program, target: str) -> Link:
        from ebpf.attach.multi import uprobe_multi

        return uprobe_multi(program, *_in_file(program, target, "pattern"), ret=ret, session=session)

    return make


def _usdt(program: Program, target: str) -> Link:
    from ebpf.attach.static_probes import usdt

    rest, _, name = target.rpartition(":")
    path, colon, provider = rest.rpartition(":")
    if not colon:
        raise UsageError(f"program {program.name!r}: a USDT probe is written path:provider:name, not {target!r}")
    return usdt(program, path, f"{provider}:{name}")


def _by_btf(program: Program, target: str) -> Link:
    # What it is for was said when it was loaded.
    del target
    return trace(program)


def _iterator(program: Program, target: str) -> Link:
    from ebpf.attach.iterator import iterate

    del target
    return iterate(program)


_KINDS: dict[str, Callable[[Program, str], Link]] = {
    "tracepoint": _tracepoint,
    "tp": _tracepoint,
    "kprobe": _kprobe(ret=False),
    "kretprobe": _kprobe(ret=True),
    "kprobe.multi": _kprobe_multi(),
    "kretprobe.multi": _kprobe_multi(ret=True),
    "kprobe.session": _kprobe_multi(session=True),
    "ksyscall": _ksyscall(ret=False),
    "kretsyscall": _ksyscall(ret=True),
    "uprobe": _uprobe(ret=False),
    "uretprobe": _uprobe(ret=True),
    "uprobe.multi": _uprobe_multi(),
    "uretprobe.multi": _uprobe_multi(ret=True),
    "uprobe.session": _uprobe_multi(session=True),
    "usdt": _usdt,
    "raw_tracepoint": _raw,
    "raw_tp": _raw,
    "tp_btf": _by_btf,
    "fentry": _by_btf,
    "fexit": _by_btf,
    "fmod_ret": _by_btf,
    "fsession": _by_btf,
    "freplace": _by_btf,
    "lsm": _by_btf,
    "iter": _iterator,
}
