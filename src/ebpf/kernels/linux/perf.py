"""perf events: tracepoints, kprobes, uprobes and output buffers."""

import ctypes
import errno
import fcntl
import os

from ebpf.errors import KernelError, NotFoundError, NotSupportedError, near
from ebpf.kernels.linux.codec import attr
from ebpf.kernels.linux.syscall import failure, perf_event_open, syscall_function
from ebpf.kernels.linux.tracefs import tracepoint_id
from ebpf.sys.kernel import Breakpoint, Counter, Kprobe, PerfOutput, PerfSource, Tracepoint, Uprobe
from ebpf.uapi import SYSCALLS

_SIZE = 120
_TRACEPOINT, _SOFTWARE = 2, 1
_BPF_OUTPUT = 10
_SAMPLE_RAW = 1 << 10
_ENABLE, _SET_BPF = 0x2400, 0x40042408
_CLOEXEC = 8
_PMU = "/sys/bus/event_source/devices"


def _attr(
    kind: int,
    config: int,
    *,
    sample: int = 0,
    period: int = 0,
    flags: int = 0,
    wakeup: int = 0,
    bp_type: int = 0,
    config1: int = 0,
    config2: int = 0,
) -> "ctypes.Array[ctypes.c_char]":
    head = (kind, _SIZE, config, period, sample, 0, flags)
    return attr("IIQQQQQIIQQ", *head, wakeup, bp_type, config1, config2, size=_SIZE)


def open_event(source: PerfSource, *, pid: int, cpu: int) -> int:
    """Open an event, disabled. NotSupportedError where this kernel has no such source, NotFoundError for an unknown name."""
    if isinstance(source, PerfOutput):
        return _open(_attr(_SOFTWARE, _BPF_OUTPUT, sample=_SAMPLE_RAW, period=1, wakeup=source.wakeup_events), -1, cpu, "bpf-output")
    if isinstance(source, Tracepoint):
        number = tracepoint_id(source.category, source.name)
        return _open(_attr(_TRACEPOINT, number, period=1), pid, cpu, f"tracepoint {source.category}:{source.name}")
    if isinstance(source, Kprobe):
        return _kprobe(source, pid, cpu)
    if isinstance(source, Counter):
        return _counter(source, pid, cpu)
    if isinstance(source, Breakpoint):
        return _breakpoint(source, pid, cpu)
    assert isinstance(source, Uprobe)
    kind = _pmu("uprobe", source.path, "System calls' functions and tracepoints can be traced here")
    path = ctypes.create_string_buffer(source.path.encode())
    config = int(source.ret) | source.ref_ctr_offset << 32
    return _open(_attr(kind, config, config1=ctypes.addressof(path), config2=source.offset), pid, cpu, f"uprobe {source.path}")


_FREQUENCY, _NO_KERNEL, _NO_HYPERVISOR = 1 << 10, 1 << 5, 1 << 6
_BREAKPOINT = 5


def _counter(source: Counter, pid: int, cpu: int) -> int:
    flags = _FREQUENCY if source.frequency else 0
    buffer = _attr(source.type, source.config, period=source.frequency or source.period, flags=flags)
    what = f"{'hardware' if not source.type else 'software'} event {source.config}"
    try:
        return _open(buffer, pid, cpu, what)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            hint = "Software events (cpu-clock, page-faults, context-switches) work everywhere"
            raise NotSupportedError(what, "this machine has no such counter (virtual machines often have none)", hint=hint) from error
        raise


def _breakpoint(source: Breakpoint, pid: int, cpu: int) -> int:
    flags = _NO_KERNEL | _NO_HYPERVISOR
    buffer = _attr(
        _BREAKPOINT,
        0,
        period=1,
        flags=flags,
        bp_type=source.access,
        config1=source.address,
        config2=8 if source.access == 4 else source.length,
    )
    return _open(buffer, pid, cpu, f"breakpoint {source.address:#x}")


def _pmu(name: str, target: str, hint: str) -> int:
    try:
        with open(f"{_PMU}/{name}/type", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        raise NotSupportedError(f"{name} {target!r}", f"this kernel has no {name}s (CONFIG_{name.upper()}_EVENTS)", hint=hint) from None


def _kprobe(source: Kprobe, pid: int, cpu: int) -> int:
    # Reading all symbols takes a quarter of a start: only who failed is told whether the name was the reason.
    try:
        kind = _pmu("kprobe", source.function, "System calls' functions (such as __x64_sys_execve) and tracepoints can be traced here")
    except NotSupportedError:
        if source.function not in map(syscall_function, SYSCALLS.get(os.uname().machine, ())):
            require_function(source.function)
        raise
    name = ctypes.create_string_buffer(source.function.encode())
    what = f"{'kretprobe' if source.ret else 'kprobe'} {source.function}"
    try:
        return _open(_attr(kind, int(source.ret), config1=ctypes.addressof(name), config2=source.offset), pid, cpu, what)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            require_function(source.function)
        raise


def require_function(name: str) -> None:
    """Insist that the kernel has a function. Raises NotFoundError with names like it."""
    functions = []
    try:
        with open("/proc/kallsyms", encoding="ascii", errors="replace") as file:
            for line in file:
                parts = line.split()
                if parts[1] in "tTwW":
                    if parts[2] == name:
                        return
                    functions.append(parts[2])
    except OSError:
        return
    raise NotFoundError("kernel function", name, near=near(name, functions, cutoff=0.8))


def _open(buffer: "ctypes.Array[ctypes.c_char]", pid: int, cpu: int, what: str) -> int:
    fd = perf_event_open(buffer, pid, cpu, -1, _CLOEXEC)
    if fd < 0:
        number = errno.EPERM if -fd == errno.EACCES else -fd
        raise failure(number, f"perf_event_open({what})", capability="CAP_PERFMON")
    return fd


def set_bpf(fd: int, prog: int) -> None:
    """Attach a program and enable the event."""
    try:
        fcntl.ioctl(fd, _SET_BPF, prog)
        fcntl.ioctl(fd, _ENABLE, 0)
    except OSError as error:
        raise KernelError(error.errno or 0, "ioctl(PERF_EVENT_IOC_SET_BPF)") from error


def enable(fd: int) -> None:
    """Enable an event."""
    try:
        fcntl.ioctl(fd, _ENABLE, 0)
    except OSError as error:
        raise KernelError(error.errno or 0, "ioctl(PERF_EVENT_IOC_ENABLE)") from error
