"""One laboratory from its beginning to its end."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ebpf.errors import NotFoundError, NotSupportedError, PrivilegeError, UsageError
from ebpf.kernels.daemon.lab import host, network, queue, space
from ebpf.kernels.daemon.lab.folder import Folder
from ebpf.kernels.daemon.limits import limits_of
from ebpf.kernels.daemon.server import Server
from ebpf.sys.held import HeldCommand, fork_held, own_group
from ebpf.sys.kernel import Command

_PINS = "/sys/fs/bpf"


@dataclass(slots=True)
class Offer:
    """What this host allows a laboratory: shown when it opens."""

    namespaces: bool = False
    packets: bool = False
    why: str = ""
    lines: list[str] = field(default_factory=list)


def open_lab(argv: Sequence[str], parent: Path, say: Callable[[str], None] | None, *, linux: bool = False) -> int:
    """Run a command (a shell) in a laboratory and return its exit status. `parent` is a private folder; `say` takes the banner.

    With `linux` its programs run in Linux's kernel: then it is namespaces and names alone, for root. For a process of one
    thread that has loaded no LLVM yet.
    """
    if "EBPF_LAB" in os.environ:
        raise UsageError("lab: this is a laboratory already")
    if not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        raise NotSupportedError("the laboratory", "needs Linux 5.3 or later")
    folder = Folder(parent)
    try:
        return (_LinuxLab if linux else _Lab)(list(argv), folder, say).run()
    finally:
        folder.close()


class _Shell(HeldCommand):
    """The lab's command. Where the thread that observes it is told of its end first, that thread has its status."""

    observed: Callable[[], int | None] = staticmethod(lambda: None)

    def _reap(self) -> int | None:
        status = self.observed()
        return status if status is not None else super()._reap()


class _Lab:
    linux = False

    def __init__(self, argv: list[str], folder: Folder, say: Callable[[str], None] | None) -> None:
        self._argv = argv
        self._folder = folder
        self._speak = say
        # What is wrong with the user's own limits is said before anything is built.
        self._limits = limits_of()
        self._host = 0
        self._network: network.Network | None = None
        self._offer = Offer()

    def run(self) -> int:
        self._enter()
        terminal = sys.stdin.isatty() and sys.stderr.isatty()
        env = self._folder.environment(os.environ, linux=self.linux)
        command = Command(_resolved(self._argv, env["PATH"]), env=env, foreground=terminal)
        shell = _Shell(*fork_held(command, _child), foreground=terminal)
        try:
            return self._serve(shell)
        finally:
            shell.close()
            self._end()

    # -- the room

    def _enter(self) -> None:
        try:
            space.enter()
        except OSError as error:
            self._offer.why = (error.strerror or str(error)).lower()
            return
        self._offer.namespaces = True
        # What is pinned shows as files there.
        if os.path.isdir(_PINS):
            space.mount_empty(_PINS)
        space.mount_file(str(self._folder.hosts), "/etc/hosts")
        lab = space.network()
        try:
            self._network = network.build(lab)
            self._offer.packets = True
            built = self._network
            self._start_host(built.host, [built.near.fileno(), built.far.fileno(), built.middle, built.host])
        except OSError as error:
            self._offer.why = f"{error.filename or 'network'}: {(error.strerror or str(error)).lower()}"
        finally:
            space.enter_network(lab)
            os.close(lab)

    def _start_host(self, namespace: int, not_its: list[int]) -> None:
        space.enter_network(namespace)
        read_end, write_end = os.pipe()
        lab = os.getpid()
        self._host = os.fork()
        if not self._host:
            os.close(read_end)
            for fd in not_its:
                os.close(fd)
            host.serve(write_end, lab)
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)

    # -- its life

    def _serve(self, shell: _Shell) -> int:
        from ebpf.kernels.daemon.lab.wires import EnvMaker, LabWires
        from ebpf.kernels.user.hooks.running import RunningProcesses
        from ebpf.kernels.user.state import State

        state = State()
        userns = space.user_namespace() if self._offer.namespaces else ""
        running = RunningProcesses(lambda: state.events.env, userns=userns, root=shell.pid, skip=[self._host] if self._host else [])
        state.running = running
        if self._network is not None:
            try:
                state.wires = LabWires(self._network, EnvMaker(state.trace.address, state.possible_cpus, state.grace.watch_lasting))
            except OSError as error:
                self._offer.packets = False
                self._offer.why = f"{error.filename}: {(error.strerror or '').lower()}"
        shell.observed = running.note_root
        server = Server(self._folder.socket, state, limits=self._limits)
        if self._offer.namespaces:
            server.show_pins(_PINS)
        self._banner()
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
            # The terminal's keys are for the shell.
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _: server.stop(signal.Signals(got).name))
        server.watch_file(shell.descriptor(), lambda: server.stop("the shell has ended") if shell.poll() is not None else None)
        shell.release()
        why = server.run()
        status = shell.poll()
        if status is None:
            # Somebody ended us: the shell goes too, and what it started.
            for pid in [shell.pid, *(pid for pid, _ in (_processes(userns, {os.getpid(), self._host}) if userns else []))]:
                _hang_up(pid)
            self._say(f"lab: {why}")
            status = 128 + (signal.SIGTERM if why == "SIGTERM" else signal.SIGHUP)
        self._farewell(userns)
        return status

    def _say(self, line: str) -> None:
        if self._speak is not None:
            self._speak(line)

    def _banner(self) -> None:
        if self._speak is None:
            return
        offer = self._offer
        if offer.namespaces:
            self._say("lab: a shell with its own ebpfd, network and /sys/fs/bpf; uids, files and processes are the host's. `exit` ends it.")
        else:
            self._say(
                f"lab: a shell with its own ebpfd. No namespaces of its own, for this host refuses them ({offer.why}). `exit` ends it."
            )
        self._say("lab: system calls of everything started here can be traced, by running processes too: python3 hello.py")
        if offer.packets:
            on_lo = "inline on lo too" if queue.possible() else "on lo programs look on, and packets pass"
            self._say(f"lab: XDP: inline on eth0, with `peer` ({network.PEER_ADDRESS}: HTTP on 80, echo on 7) behind it; {on_lo}")
        else:
            reason = f" ({offer.why})" if offer.namespaces else ""
            self._say(f"lab: XDP: over captures only{reason}: ebpf prog run OBJ --pcap FILE")

    # -- its end

    def _farewell(self, userns: str) -> None:
        left = _processes(userns, {os.getpid(), self._host}) if userns else []
        if left:
            names = ", ".join(f"{name} ({pid})" for pid, name in left[:8]) + (", ..." if len(left) > 8 else "")
            self._say(f"lab: still running, without the lab's programs: {names}")

    def _end(self) -> None:
        if self._host:
            with suppress(ProcessLookupError):
                os.kill(self._host, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._host, 0)
        if self._network is not None:
            network.close(self._network)


class _LinuxLab(_Lab):
    """The same commands on Linux's kernel: a network and a /sys/fs/bpf of its own, and no daemon."""

    linux = True

    def _enter(self) -> None:
        try:
            space.enter_as_root()
        except OSError as error:
            raise PrivilegeError(error.errno or 1, "unshare", "CAP_SYS_ADMIN", "a laboratory on Linux's kernel is for root") from error
        if os.path.isdir(_PINS):
            space.mount_bpffs(_PINS)
        space.mount_file(str(self._folder.hosts), "/etc/hosts")
        self._offer.namespaces = True
        lab = space.network()
        try:
            built = network.build_direct(lab)
            self._offer.packets = True
            self._start_host(built, [built])
            os.close(built)
        except OSError as error:
            self._offer.why = f"{error.filename or 'network'}: {(error.strerror or str(error)).lower()}"
        finally:
            space.enter_network(lab)
            os.close(lab)

    def _serve(self, shell: _Shell) -> int:
        self._say("lab: a shell on Linux's kernel, with a network and /sys/fs/bpf of its own. `exit` ends it and its pins.")
        self._say("lab: tracing programs see the whole machine, as Linux has it")
        if self._offer.packets:
            self._say(f"lab: `peer` ({network.PEER_ADDRESS}: HTTP on 80, echo on 7) is at the other end of eth0")
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: _hang_up(shell.pid))
        return shell.wait()


def _processes(userns: str, without: set[int]) -> list[tuple[int, str]]:
    """The processes of a user namespace."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in without:
            continue
        with suppress(OSError):
            if os.readlink(f"/proc/{entry}/ns/user") == userns:
                name = Path(f"/proc/{entry}/comm").read_text().strip()
                found.append((int(entry), name))
    return sorted(found)


def _resolved(argv: list[str], path: str) -> tuple[str, ...]:
    """A command as a shell of the lab finds it: the lab's own names come first."""
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise NotFoundError("command", argv[0], where="" if "/" in argv[0] else "PATH")
    return (found, *argv[1:])


def _hang_up(pid: int) -> None:
    """What a shell is told when its terminal goes."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGCONT)


def _child(command: Command, pipe: int) -> NoReturn:
    """The shell: wait to be let go, then exec. Never returns to Python's callers."""
    if not os.read(pipe, 1):
        os._exit(127)
    own_group(command)
    try:
        os.execve(command.argv[0], list(command.argv), dict(command.env))
    except OSError as error:
        os.write(2, f"ebpf: {command.argv[0]}: {(error.strerror or '').lower()}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
