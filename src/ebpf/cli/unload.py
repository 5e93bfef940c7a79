"""`ebpf prog unload`: let go of whatever keeps a program loaded, and say what is left."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.noun import Refused
from ebpf.cli.words import Words
from ebpf.errors import KernelError
from ebpf.sys.calls import FdById, LinkDetach
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd, XdpFlag

_FLAGS = {"xdpgeneric": XdpFlag.SKB_MODE, "xdpdrv": XdpFlag.DRV_MODE, "xdpoffload": XdpFlag.HW_MODE}
# A kernel frees a program a moment after its last holder went.
_GONE_WITHIN_S = 1.0


def unload(context: Context, words: Words) -> int:
    """Detach a program from interfaces and links, and unpin it and them. Exit status 1 if something else still holds it."""
    handle = handles.take(words, "prog")
    words.end()
    kernel = context.kernel()
    with handles.programs(kernel, handle) as found:
        info = handles.only(found, handle, "prog").info
    done = list(_let_go(kernel, info.id))
    if not _there(kernel, info.id):
        done.append(f"unloaded {info.name or 'program'} (id {info.id})")
        _say(context, done)
        return 0
    _say(context, done)
    holders = [f"{name} (pid {pid})" for pid, name in _processes(info.id)]
    holders += [f"filter {state.name} of {state.ifname} {state.kind}" for state in kernel.tc_query() if state.prog_id == info.id]
    by = ", ".join(holders) or "a map of programs, another program, a socket, or a process that is not seen from here"
    raise Refused(f"program {info.name!r} (id {info.id}) is still held by {by}", 1)


def _say(context: Context, lines: list[str]) -> None:
    if not context.json:
        for line in lines:
            context.write(line)


def _let_go(kernel: Kernel, id_: int) -> Iterator[str]:
    """Take a program off its places and remove its pins. Yields what was done."""
    for state in kernel.xdp_query(None):
        if state.prog_id == id_:
            with suppress(KernelError):
                kernel.xdp_attach(state.ifindex, -1, int(_FLAGS.get(state.mode, XdpFlag(0))))
                yield f"detached from {state.ifname}"
    paths = handles.pins(kernel, "link")
    with handles.links(kernel) as links:
        for link in links:
            if link.info.prog_id != id_:
                continue
            with suppress(KernelError):
                kernel.bpf(LinkDetach(link.fd))
                yield f"detached link {link.info.id}"
            for path in paths.get(link.info.id, ()):
                kernel.unpin(path)
                yield f"removed {path}"
    for path in handles.pins(kernel, "prog").get(id_, ()):
        kernel.unpin(path)
        yield f"removed {path}"


def _there(kernel: Kernel, id_: int) -> bool:
    """Whether a program is still loaded, a moment from now."""
    end = time.monotonic() + _GONE_WITHIN_S
    while True:
        try:
            kernel.close(kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, id_)))
        except KernelError:
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.02)


def _processes(id_: int) -> Iterator[tuple[int, str]]:
    """The processes that have a descriptor of a program of Linux's, as far as they can be seen."""
    wanted = f"prog_id:\t{id_}\n"
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        with suppress(OSError):
            for fd in (place / "fdinfo").iterdir():
                with suppress(OSError):
                    if os.readlink(place / "fd" / fd.name) == "anon_inode:bpf-prog" and wanted in fd.read_text():
                        yield int(place.name), (place / "comm").read_text().strip()
                        break
