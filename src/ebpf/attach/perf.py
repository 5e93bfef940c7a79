"""Programs on perf events: kernel functions, tracepoints, functions of processes, counters and breakpoints."""

import errno
from contextlib import ExitStack

from ebpf.attach.binary import place_in, resolve_binary
from ebpf.attach.link import Attachable, Link
from ebpf.errors import KernelError, NotFoundError, NotSupportedError, PrivilegeError, UsageError, near
from ebpf.object import Program
from ebpf.sys.calls import LinkCreate
from ebpf.sys.kernel import Breakpoint, Counter, Kernel, Kprobe, PerfSource, Tracepoint, Uprobe
from ebpf.uapi import PERF_EVENTS, AttachType, ProgType


def kprobe(program: Attachable, function: str, *, ret: bool = False, offset: int = 0, cookie: int = 0) -> Link:
    """Run a program whenever a kernel function is entered (`ret`: returns).

    Where a kernel has no kprobes, system calls' functions are reached by their tracepoints instead, with the same context.

    Raises NotFoundError for an unknown function, NotSupportedError for one that this kernel cannot reach, VerifierError.
    """
    kind = "kretprobe" if ret else "kprobe"
    source = Kprobe(function, offset, ret)
    try:
        return on_event(program, source, kind, function, cookie=cookie)
    except NotSupportedError as refusal:
        from ebpf.attach.emulate import syscall_kprobe

        link = syscall_kprobe(program, source) if isinstance(program, Program) and not cookie else None
        if link is None:
            raise refusal
        return link


def ksyscall(program: Attachable, name: str, *, ret: bool = False, cookie: int = 0) -> Link:
    """Run a program whenever a system call, by its plain name ("openat"), begins (`ret`: ends)."""
    return kprobe(program, program.kernel.syscall_function(name), ret=ret, cookie=cookie)


def tracepoint(program: Attachable, name: str, *, cookie: int = 0) -> Link:
    """Run a program at a tracepoint, `category:event` (or with a slash, as sections have it)."""
    category, _, event = name.replace("/", ":", 1).partition(":")
    if not event:
        raise UsageError(f"program {program.name!r}: a tracepoint is written category/name, not {name!r}")
    return on_event(program, Tracepoint(category, event), "tracepoint", name, cookie=cookie)


def uprobe(
    program: Attachable,
    path: str,
    place: str | int,
    *,
    ret: bool = False,
    pid: int = 0,
    cookie: int = 0,
    semaphore: int = 0,
) -> Link:
    """Run a program whenever a process (`pid` 0: any) enters (`ret`: leaves) a function of a program or library.

    `path` may be a bare name (libc.so.6, bash), `place` a function, `function+offset`, or an offset in the file; `semaphore` the
    file offset of a counter that is to be up meanwhile. Raises NotFoundError, FormatError.
    """
    path = resolve_binary(path)
    source = Uprobe(path, place if isinstance(place, int) else place_in(path, place, program.name), ret, semaphore)
    return on_event(program, source, "uretprobe" if ret else "uprobe", f"{path}:{place}", pid=pid, cookie=cookie)


def perf_event(
    program: Attachable, event: str = "cpu-clock", *, period: int = 0, frequency: int = 0, pid: int = 0, cpu: int = -1, cookie: int = 0
) -> Link:
    """Run a program each `period` times that something is counted, or `frequency` times a second, on every CPU.

    `event` is a row of PERF_EVENTS (cpu-clock, page-faults, cycles, ...); `pid` counts one process only, `cpu` one CPU only.
    Raises NotFoundError, NotSupportedError for a counter that the machine has not.
    """
    if event not in PERF_EVENTS:
        raise NotFoundError("perf event", event, near=near(event, PERF_EVENTS))
    if not period and not frequency:
        raise UsageError(f"perf event {event!r}: how often? give period or frequency")
    kind, config = PERF_EVENTS[event]
    source = Counter(kind, config, period, frequency)
    if pid or cpu >= 0:
        return on_event(program, source, "perf_event", event, pid=pid, cpu=cpu, cookie=cookie)
    links: list[Link] = []
    with ExitStack() as stack:
        for each in range(program.kernel.possible_cpus):
            try:
                links.append(stack.enter_context(on_event(program, source, "perf_event", event, cpu=each, cookie=cookie)))
            except KernelError as error:
                # A CPU that is possible need not be there.
                if error.errno != errno.ENODEV:
                    raise
        undo = stack.pop_all().close
    return Link("perf_event", event, undo, kernel=program.kernel, fds=[fd for link in links for fd in link.fds])


def breakpoint(program: Attachable, address: int, *, length: int = 8, access: str = "w", pid: int = 0, cookie: int = 0) -> Link:
    """Run a program when a process reads ("r"), writes ("w") or executes ("x") what lies at an address of its memory."""
    bits = {"r": 1, "w": 2, "rw": 3, "x": 4}
    if access not in bits or length not in (1, 2, 4, 8):
        raise UsageError(f"a breakpoint watches 1, 2, 4 or 8 bytes for r, w, rw or x, not {length} for {access!r}")
    source = Breakpoint(address, length, bits[access])
    return on_event(program, source, "breakpoint", f"{address:#x}", pid=pid, cookie=cookie)


def on_event(program: Attachable, source: PerfSource, kind: str, target: str, *, pid: int = 0, cpu: int = -1, cookie: int = 0) -> Link:
    """Attach to any source of events: by a link where the kernel has them, else by the event's descriptor."""
    kernel = program.kernel
    with ExitStack() as stack:
        # The event first: an unknown one is said before the program is loaded.
        event = kernel.perf_event_open(source, pid=pid or -1, cpu=cpu if cpu >= 0 else -1 if pid else 0)
        stack.callback(kernel.close, event)
        scope = kernel.lab.scope
        if scope is None or not isinstance(program, Program):
            fd = program.fd
        else:
            from ebpf.attach import prefix

            code = [prefix.mov(6, 1), *prefix.in_scope(scope), prefix.mov(1, 6)]
            fd = prefix.load_prefixed(program, code, ProgType(program.spec.type))
            stack.callback(kernel.close, fd)
        link = _link(kernel, event, fd, cookie)
        if link is None:
            kernel.perf_set_bpf(event, fd)
        else:
            stack.callback(kernel.close, link)
            kernel.perf_enable(event)
        undo = stack.pop_all().close
    return Link(kind, target, undo, kernel=kernel, fds=() if link is None else (link,))


def _link(kernel: Kernel, event: int, program: int, cookie: int) -> int | None:
    """A link that attaches a program to an event; None where the kernel has no such links."""
    try:
        return kernel.bpf(LinkCreate(program, event, int(AttachType.PERF_EVENT), cookie=cookie))
    except PrivilegeError:
        raise
    except (NotSupportedError, KernelError) as error:
        if cookie:
            raise NotSupportedError("a cookie", "this kernel has no links for perf events (Linux 5.15)") from error
        return None
