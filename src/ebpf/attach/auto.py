"""A program attached as its section says, by a link that a pin can hold."""

from collections.abc import Callable

from ebpf.elf import file_offset
from ebpf.errors import UsageError
from ebpf.object import Program
from ebpf.sys.calls import LinkCreate, RawTracepointOpen
from ebpf.sys.kernel import Kprobe, PerfSource, Tracepoint, Uprobe
from ebpf.uapi import AttachType


def link_by_section(program: Program) -> int | None:
    """A descriptor of a link that attaches the program as its section says (the caller's to close); None if it does not say.

    Raises UsageError for a target that is not written as it must be, KernelError, NotFoundError, NotSupportedError.
    """
    kind = program.spec.section.removeprefix("?").partition("/")[0].removesuffix(".s")
    make = _KINDS.get(kind)
    return make(program, program.spec.attach_to) if make is not None and program.spec.attach_to else None


def _on_event(program: Program, source: PerfSource) -> int:
    kernel = program.kernel
    event = kernel.perf_event_open(source)
    try:
        link = kernel.bpf(LinkCreate(program.fd, event, int(AttachType.PERF_EVENT)))
        try:
            kernel.perf_enable(event)
        except BaseException:
            kernel.close(link)
            raise
        return link
    finally:
        # The link holds the event.
        kernel.close(event)


def _tracepoint(program: Program, target: str) -> int:
    category, slash, name = target.partition("/")
    if not slash:
        raise UsageError(f"program {program.name!r}: a tracepoint is written category/name, not {target!r}")
    return _on_event(program, Tracepoint(category, name))


def _function(*, ret: bool) -> Callable[[Program, str], int]:
    def make(program: Program, target: str) -> int:
        name, _, offset = target.partition("+")
        return _on_event(program, Kprobe(name, _number(program, offset), ret))

    return make


def _user_function(*, ret: bool) -> Callable[[Program, str], int]:
    def make(program: Program, target: str) -> int:
        path, colon, place = target.rpartition(":")
        if not colon:
            raise UsageError(f"program {program.name!r}: a place in a file is written path:function, not {target!r}")
        name, _, offset = place.partition("+")
        at = _number(program, offset)
        at += _number(program, name) if name[:1].isdigit() else file_offset(path, name)
        return _on_event(program, Uprobe(path, at, ret))

    return make


def _number(program: Program, text: str) -> int:
    try:
        return int(text, 0) if text else 0
    except ValueError:
        raise UsageError(f"program {program.name!r}: {text!r} is no offset") from None


def _raw(program: Program, target: str) -> int:
    return program.kernel.bpf(RawTracepointOpen(target, program.fd))


def _by_btf(program: Program, target: str) -> int:
    # What it is for was said when it was loaded.
    del target
    return program.kernel.bpf(RawTracepointOpen("", program.fd))


_KINDS: dict[str, Callable[[Program, str], int]] = {
    "tracepoint": _tracepoint,
    "tp": _tracepoint,
    "kprobe": _function(ret=False),
    "kretprobe": _function(ret=True),
    "uprobe": _user_function(ret=False),
    "uretprobe": _user_function(ret=True),
    "raw_tracepoint": _raw,
    "raw_tp": _raw,
    "tp_btf": _by_btf,
    "fentry": _by_btf,
    "fexit": _by_btf,
    "fmod_ret": _by_btf,
    "lsm": _by_btf,
}
