"""What a kernel lets programs be attached to: asked by trying, with programs that do nothing and places that are ours."""

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from ebpf.btf import Kind
from ebpf.errors import EbpfError, KernelError, PrivilegeError
from ebpf.isa import Insn, encode
from ebpf.isa.opcodes import EXIT
from ebpf.sys.calls import KprobeMulti, LinkCreate, MapCreate, NetfilterHook, ProgLoad, RawTracepointOpen, UprobeMulti
from ebpf.sys.kernel import VMLINUX, Breakpoint, Counter, Kernel, Kprobe, PerfSource, Tracepoint, Uprobe
from ebpf.sys.types import open_types
from ebpf.uapi import AttachType, MapType, ProgType

_MOV_IMM = 0xB7
#: An interface, descriptor and protocol family that nobody has: what a kernel says of them tells whether it knows the kind of link.
_NO_INTERFACE, _NO_FD, _NO_FAMILY = 0x7FFFFFFF, 0x7FFFFFFF, 255
_FORBIDDEN = "the kernel refuses it without a word (EPERM, empty log): this host forbids trampolines"


@dataclass(frozen=True, slots=True)
class Probed:
    """An answer: `works` is None where it could not be told; `why` says what is missing, `instead` what would work."""

    name: str
    works: bool | None
    why: str = ""
    instead: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A way of attaching: how to try it, the first Linux and the kernel option that it needs, and what works instead."""

    name: str
    tries: "Callable[[_Trial], None]"
    needs: str = ""
    instead: str = ""


class _Trial:
    """One try: what it opens is closed at its end."""

    def __init__(self, kernel: Kernel, stack: ExitStack) -> None:
        self.kernel = kernel
        self._stack = stack

    def keep(self, fd: int) -> int:
        """A descriptor that is closed when the try is over."""
        self._stack.callback(self.kernel.close, fd)
        return fd

    def load(self, kind: ProgType, attach: AttachType | None = None, *, target: int = 0, answer: int = 0, flags: int = 0) -> int:
        """A program that does nothing."""
        insns = encode([Insn(_MOV_IMM, 0, imm=answer), Insn(EXIT)])
        call = ProgLoad(int(kind), insns, "GPL", "probe", flags, expected_attach_type=int(attach or 0), attach_btf_id=target)
        return self.keep(self.kernel.bpf(call).fd)

    def link(self, call: LinkCreate) -> None:
        """Make a link, and drop it."""
        self.keep(self.kernel.bpf(call))

    def known(self, call: LinkCreate, *answers: int) -> None:
        """Ask for a link in a place that there is not: one of `answers` says that the kernel knows the kind."""
        try:
            self.link(call)
        except KernelError as error:
            if isinstance(error, PrivilegeError) or error.errno not in answers:
                raise

    def event(self, source: PerfSource, *, kind: ProgType = ProgType.KPROBE, own: bool = False) -> None:
        """Attach to a source of events."""
        fd = self.keep(self.kernel.perf_event_open(source, pid=os.getpid() if own else -1, cpu=-1 if own else 0))
        self.link(LinkCreate(self.load(kind), fd, int(AttachType.PERF_EVENT)))

    def target(self, name: str, kind: Kind = Kind.FUNC) -> int:
        """The BTF id of something of the kernel's."""
        found = open_types(self.kernel.read_file(VMLINUX), VMLINUX).find(name, kind)
        if found is None:
            raise KernelError(errno.ESRCH, "BTF", f"this kernel's types have no {name}")
        return found.id


def _own_place() -> tuple[str, int]:
    """A file that this process has mapped, and an offset in it that it never runs."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        path = next((line.split()[-1] for line in file if " r-xp " in line and "/" in line), "/proc/self/exe")
    return path, 0


def _uprobe(t: _Trial) -> None:
    path, offset = _own_place()
    t.event(Uprobe(path, offset), own=True)


def _uprobe_multi(kind: AttachType) -> "Callable[[_Trial], None]":
    def tries(t: _Trial) -> None:
        path, offset = _own_place()
        t.link(LinkCreate(t.load(ProgType.KPROBE, kind), 0, int(kind), options=UprobeMulti(path, (offset,), pid=os.getpid())))

    return tries


def _multi(kind: AttachType) -> "Callable[[_Trial], None]":
    def tries(t: _Trial) -> None:
        options = KprobeMulti((t.kernel.syscall_function("getpgid"),))
        t.link(LinkCreate(t.load(ProgType.KPROBE, kind), 0, int(kind), options=options))

    return tries


def _raw(t: _Trial) -> None:
    t.keep(t.kernel.bpf(RawTracepointOpen("sys_enter", t.load(ProgType.RAW_TRACEPOINT))))


def _tp_btf(t: _Trial) -> None:
    target = t.target("btf_trace_sys_enter", Kind.TYPEDEF)
    t.keep(t.kernel.bpf(RawTracepointOpen("", t.load(ProgType.TRACING, AttachType.TRACE_RAW_TP, target=target))))


def _traced(kind: ProgType, attach: AttachType, name: str) -> "Callable[[_Trial], None]":
    # Only loaded: attached they would be everybody's.
    return lambda t: _loaded(t, kind, attach, t.target(name))


def _loaded(t: _Trial, kind: ProgType, attach: AttachType | None = None, target: int = 0, answer: int = 0, flags: int = 0) -> None:
    t.load(kind, attach, target=target, answer=answer, flags=flags)


def _of_type(kind: ProgType, attach: AttachType | None = None, *, answer: int = 0, flags: int = 0) -> "Callable[[_Trial], None]":
    return lambda t: _loaded(t, kind, attach, 0, answer, flags)


def _breakpoint(t: _Trial) -> None:
    watched = ctypes.c_long()
    t.event(Breakpoint(ctypes.addressof(watched)), kind=ProgType.PERF_EVENT, own=True)


def _counter(kind: int, config: int) -> "Callable[[_Trial], None]":
    return lambda t: t.event(Counter(kind, config, period=1 << 40), kind=ProgType.PERF_EVENT, own=True)


def _nowhere(kind: ProgType, attach: AttachType, target: int, *answers: int) -> "Callable[[_Trial], None]":
    return lambda t: t.known(LinkCreate(t.load(kind, attach, answer=1), target, int(attach)), *answers)


def _netfilter(t: _Trial) -> None:
    program = t.load(ProgType.NETFILTER, AttachType.NETFILTER, answer=1)
    call = LinkCreate(program, 0, int(AttachType.NETFILTER), options=NetfilterHook(_NO_FAMILY, 0, 0))
    t.known(call, errno.EAFNOSUPPORT)


def _socket_filter(t: _Trial) -> None:
    left, right = socket.socketpair(type=socket.SOCK_DGRAM)
    with left, right:
        t.kernel.socket_attach(left.fileno(), t.load(ProgType.SOCKET_FILTER))


def _sockmap(t: _Trial) -> None:
    t.load(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, answer=1)
    t.keep(t.kernel.bpf(MapCreate(int(MapType.SOCKMAP), 4, 8, 1)))


def _struct_ops(t: _Trial) -> None:
    t.target("bpf_struct_ops_tcp_congestion_ops", Kind.STRUCT)


_T, _A = ProgType, AttachType
_KPROBE_INSTEAD = "tracepoints and tp_btf; system calls' functions are reached by their tracepoints"
_ROWS = (
    _Row(
        "tracepoint", lambda t: t.event(Tracepoint("syscalls", "sys_enter_getpgid"), kind=_T.TRACEPOINT), "CONFIG_FTRACE_SYSCALLS", "raw_tp"
    ),
    _Row("raw_tp", _raw, "CONFIG_BPF_EVENTS", "tracepoint"),
    _Row("tp_btf", _tp_btf, "CONFIG_DEBUG_INFO_BTF", "raw_tp"),
    _Row("kprobe", lambda t: t.event(Kprobe(t.kernel.syscall_function("getpgid"))), "CONFIG_KPROBE_EVENTS", _KPROBE_INSTEAD),
    _Row("kprobe.multi", _multi(_A.TRACE_KPROBE_MULTI), "Linux 5.18, CONFIG_FPROBE", "a kprobe for each function"),
    _Row("kprobe.session", _multi(_A.TRACE_KPROBE_SESSION), "Linux 6.10, CONFIG_FPROBE", "a kprobe and a kretprobe"),
    _Row(
        "fentry",
        _traced(_T.TRACING, _A.TRACE_FENTRY, "bpf_fentry_test1"),
        "Linux 5.5, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
        "kprobe, tp_btf",
    ),
    _Row(
        "fexit", _traced(_T.TRACING, _A.TRACE_FEXIT, "bpf_fentry_test1"), "Linux 5.5, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "kretprobe"
    ),
    _Row(
        "fmod_ret",
        _traced(_T.TRACING, _A.MODIFY_RETURN, "bpf_modify_return_test"),
        "Linux 5.7, CONFIG_FUNCTION_ERROR_INJECTION",
        "",
    ),
    _Row("lsm", _traced(_T.LSM, _A.LSM_MAC, "bpf_lsm_file_open"), "Linux 5.7, CONFIG_BPF_LSM", "seccomp, or cgroup programs"),
    _Row("uprobe", _uprobe, "CONFIG_UPROBE_EVENTS", ""),
    _Row("uprobe.multi", _uprobe_multi(_A.TRACE_UPROBE_MULTI), "Linux 6.6, CONFIG_UPROBES", "a uprobe for each function"),
    _Row("uprobe.session", _uprobe_multi(_A.TRACE_UPROBE_SESSION), "Linux 6.13, CONFIG_UPROBES", "a uprobe and a uretprobe"),
    _Row("perf_event (clock)", _counter(1, 0), "CONFIG_PERF_EVENTS", ""),
    _Row("perf_event (cycles)", _counter(0, 0), "", "cpu-clock: this machine offers no counters"),
    _Row("perf_event (breakpoint)", _breakpoint, "CONFIG_HAVE_HW_BREAKPOINT", "uprobe"),
    _Row("iter", lambda t: _loaded(t, _T.TRACING, _A.TRACE_ITER, t.target("bpf_iter_task")), "Linux 5.8, CONFIG_DEBUG_INFO_BTF", "/proc"),
    _Row("xdp", _of_type(_T.XDP, _A.XDP, answer=2), "CONFIG_NET", ""),
    _Row("tcx", _nowhere(_T.SCHED_CLS, _A.TCX_INGRESS, _NO_INTERFACE, errno.ENODEV), "Linux 6.6, CONFIG_NET_XGRESS", "filters of clsact"),
    _Row("netkit", _nowhere(_T.SCHED_CLS, _A.NETKIT_PRIMARY, _NO_INTERFACE, errno.ENODEV), "Linux 6.7, CONFIG_NETKIT", "tcx on a veth"),
    _Row("netfilter", _netfilter, "Linux 6.4, CONFIG_NETFILTER_BPF_LINK", "tcx"),
    _Row("cgroup", _nowhere(_T.CGROUP_SKB, _A.CGROUP_INET_EGRESS, _NO_FD, errno.EBADF), "CONFIG_CGROUP_BPF", ""),
    _Row("socket filter", _socket_filter, "CONFIG_NET", ""),
    _Row("sockmap (sk_msg, sk_skb)", _sockmap, "CONFIG_BPF_STREAM_PARSER", ""),
    _Row("sockmap (link)", _nowhere(_T.SK_MSG, _A.SK_MSG_VERDICT, _NO_FD, errno.EBADF), "Linux 6.10", "sockmap without a link"),
    _Row("sk_lookup", _nowhere(_T.SK_LOOKUP, _A.SK_LOOKUP, _NO_FD, errno.EBADF, errno.EINVAL), "Linux 5.9, CONFIG_INET", ""),
    _Row("flow_dissector", _nowhere(_T.FLOW_DISSECTOR, _A.FLOW_DISSECTOR, _NO_FD, errno.EBADF, errno.EINVAL), "CONFIG_NET", ""),
    _Row("sk_reuseport", _of_type(_T.SK_REUSEPORT, _A.SK_REUSEPORT_SELECT, answer=1), "CONFIG_INET", ""),
    _Row("struct_ops", _struct_ops, "Linux 5.6, CONFIG_BPF_JIT", ""),
    _Row("syscall", _of_type(_T.SYSCALL, flags=1 << 4), "Linux 5.14, CONFIG_BPF_SYSCALL", ""),
)


def probe(kernel: Kernel, names: Container[str] | None = None) -> Iterator[Probed]:
    """Try each way of attaching, or only those of these names; nothing stays."""
    for row in _ROWS:
        if names is not None and row.name not in names:
            continue
        with ExitStack() as stack:
            try:
                row.tries(_Trial(kernel, stack))
            except PrivilegeError as error:
                yield Probed(row.name, None, f"needs {error.capability}", "run as root, or with that capability")
                continue
            except KernelError as error:
                yield Probed(row.name, False, _reason(row, error), row.instead)
                continue
            except (EbpfError, OSError) as error:
                yield Probed(row.name, False, f"{error}".split(". ")[0], row.instead)
                continue
        yield Probed(row.name, True)


def _reason(row: _Row, error: KernelError) -> str:
    if error.errno == errno.EPERM and row.name in ("fentry", "fexit", "fmod_ret", "lsm"):
        return _FORBIDDEN
    name = errno.errorcode.get(error.errno, str(error.errno))
    return f"{error.call} gives {name}" + (f": needs {row.needs}" if row.needs else "")
