"""One program on many functions at once: kprobe.multi, kprobe.session, uprobe.multi, uprobe.session."""

import errno
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ebpf.attach.binary import place_in, places_like, resolve_binary
from ebpf.attach.link import Attachable, Link, create
from ebpf.errors import AttachError, NotFoundError, UsageError, near
from ebpf.sys.calls import KprobeMulti, LinkCreate, UprobeMulti
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType

_LISTS = ("/sys/kernel/tracing/available_filter_functions", "/sys/kernel/debug/tracing/available_filter_functions")
_NO_FPROBE = "this kernel cannot hook many functions at once (CONFIG_FPROBE)"
_WHY_KPROBE = {
    errno.EOPNOTSUPP: (_NO_FPROBE, "attach a kprobe to each function, or use a tracepoint"),
    errno.EINVAL: ("the program was not loaded for this", 'its section is SEC("kprobe.multi/...") or SEC("kprobe.session/...")'),
    errno.ESRCH: ("one of the functions cannot be traced", "available_filter_functions in tracefs lists those that can"),
    errno.EPERM: ("the kernel refuses it without a word", "attach a kprobe to each function, or use a tracepoint"),
}
_WHY_UPROBE = {
    errno.EINVAL: ("this kernel has no uprobe.multi (Linux 6.6), or the program was not loaded for it", "attach a uprobe to each function"),
    errno.ESRCH: ("there is no such process", ""),
}


def kprobe_multi(
    program: Attachable,
    functions: str | Sequence[str],
    *,
    ret: bool = False,
    session: bool = False,
    cookies: Sequence[int] = (),
) -> Link:
    """Run a program at the beginning (`ret`: end; `session`: both) of many kernel functions: a list, or a pattern with `*` and `?`.

    Raises NotFoundError where nothing matches or a function cannot be traced, AttachError for what this kernel cannot do.
    """
    target = functions if isinstance(functions, str) else f"{len(functions)} functions"
    names = _matching(program.kernel, functions) if isinstance(functions, str) else list(functions)
    _same_length(cookies, names)
    kind = AttachType.TRACE_KPROBE_SESSION if session else AttachType.TRACE_KPROBE_MULTI
    call = LinkCreate(program.fd, 0, int(kind), options=KprobeMulti(tuple(names), tuple(cookies), ret))
    try:
        return create(program.kernel, call, "kprobe.session" if session else "kprobe.multi", target, _WHY_KPROBE)
    except AttachError as error:
        known = _traceable(program.kernel) if error.errno == errno.ESRCH else []
        missing = next((name for name in names if known and name not in known), None)
        if missing is None:
            raise
        raise NotFoundError("kernel function", missing, near=near(missing, known, cutoff=0.8), errno=errno.ESRCH) from error


def _matching(kernel: Kernel, pattern: str) -> list[str]:
    if not any(c in pattern for c in "*?"):
        return [pattern]
    names = [name for name in _traceable(kernel) if fnmatchcase(name, pattern)]
    if not names:
        raise NotFoundError("kernel function", pattern)
    return names


def _traceable(kernel: Kernel) -> list[str]:
    """The functions that can be traced; where their list cannot be read, all that the kernel names."""
    for path in _LISTS:
        try:
            return [line.split()[0] for line in kernel.read_file(path).decode().splitlines() if line and "[" not in line]
        except OSError:
            continue
    try:
        text = kernel.read_file("/proc/kallsyms").decode(errors="replace")
    except OSError:
        return []
    rows = (line.split() for line in text.splitlines())
    return sorted({row[2] for row in rows if len(row) == 3 and row[1] in "tT"})


def _same_length(cookies: Sequence[int], places: Sequence[object]) -> None:
    if cookies and len(cookies) != len(places):
        raise UsageError(f"{len(cookies)} cookies for {len(places)} places: each has its own")


def uprobe_multi(
    program: Attachable,
    path: str,
    places: str | Sequence[str | int],
    *,
    ret: bool = False,
    session: bool = False,
    pid: int = 0,
    cookies: Sequence[int] = (),
    semaphores: Sequence[int] = (),
) -> Link:
    """Run a program at many functions of a program or library: a list (names or file offsets), or a pattern with `*` and `?`.

    `ret` is their end, `session` both; `pid` sees one process only. Raises NotFoundError, AttachError.
    """
    path = resolve_binary(path)
    if isinstance(places, str):
        found = list(places_like(path, places).values())
    else:
        found = [place if isinstance(place, int) else place_in(path, place, program.name) for place in places]
    # Two names of one function are one place.
    offsets = tuple(dict.fromkeys(found))
    _same_length(cookies, offsets)
    kind = AttachType.TRACE_UPROBE_SESSION if session else AttachType.TRACE_UPROBE_MULTI
    options = UprobeMulti(path, offsets, tuple(semaphores), tuple(cookies), ret, pid)
    target = f"{path}:{places}" if isinstance(places, str) else f"{path}: {len(offsets)} places"
    return create(
        program.kernel,
        LinkCreate(program.fd, 0, int(kind), options=options),
        "uprobe.session" if session else "uprobe.multi",
        target,
        _WHY_UPROBE,
    )
