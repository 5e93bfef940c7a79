"""The daemon: one thread that serves every client, and threads for what takes long."""

import errno
import os
import resource
import selectors
import signal
import socket
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebpf.errors import EbpfError, KernelError
from ebpf.kernels.daemon.client import Client
from ebpf.kernels.daemon.journal import Journal
from ebpf.kernels.daemon.limits import Limits
from ebpf.kernels.daemon.shown import ShownPins
from ebpf.kernels.daemon.watch import Watch
from ebpf.kernels.user.jobs import Job
from ebpf.kernels.user.objects import BtfObject, LinkObject, MapObject, ProgramObject
from ebpf.kernels.user.state import State
from ebpf.sys import wire

if TYPE_CHECKING:
    from ebpf.kernels.daemon.saved import Saved

_CLIENTS = 4096
# How long the end waits for work that is under way.
_WORK_ENDS_S = 2.0
# How long nobody is let in when there are no descriptors left.
_DEAF_S = 0.1


class Server:
    """Serves a user kernel's state on a socket until it is stopped, or nobody has needed it for `idle_s` seconds."""

    def __init__(
        self,
        path: Path,
        state: State,
        *,
        idle_s: float | None = None,
        log: Callable[[str], None] = lambda line: None,
        limits: Limits | None = None,
        saved: "Saved | None" = None,
    ) -> None:
        self.path = path
        self.state = state
        self.began = time.monotonic()
        self.served = 0
        self._idle_s = idle_s
        self._log = log
        self._limits = limits or Limits()
        self._together = self._limits.together()
        self._watch = Watch(state.grace, self._limits.cpu_s)
        self._clients: set[Client] = set()
        self._leaving: set[Client] = set()
        self._workers: dict[Client, threading.Thread] = {}
        self._done: deque[Callable[[], None]] = deque()
        self._stop: str | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._quiet_since = time.monotonic()
        self._deaf_until = 0.0
        self._shown: ShownPins | None = None
        #: The folder where pins are files too; "" where they are not.
        self.shown_pins = ""
        self._listen()
        self.journal = Journal(path.with_suffix(".pins"))
        self._saved = saved
        state.pinned = self._remember
        if saved is not None:
            self.journal.restored(saved.restore(state), saved.when)
        if self.journal.news():
            log(self.journal.news())
            for row in self.journal.lost:
                log(f"lost: {row}")

    def _listen(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with suppress(FileNotFoundError):
            # Whoever listened here is gone: the starter holds the lock and could not connect.
            os.unlink(self.path)
        old = os.umask(0o177)
        try:
            with wire.socket_address(self.path) as address:
                self._socket.bind(address)
        finally:
            os.umask(old)
        self._socket.listen(512)
        self._selector.register(self._socket, selectors.EVENT_READ, None)

    # -- the loop

    def run(self) -> str:
        """Serve. Returns why it ended."""
        try:
            while self._stop is None:
                for key, events in self._selector.select(self._patience()):
                    if key.fileobj is self._socket:
                        self._accept()
                    elif callable(key.data):
                        key.data()
                    elif key.data is None:
                        with suppress(BlockingIOError):
                            os.read(self._wake_in, 4096)
                    else:
                        client: Client = key.data
                        if events & selectors.EVENT_WRITE and not client.closed:
                            client.writable()
                        if events & selectors.EVENT_READ and not client.closed:
                            client.readable()
                while self._done:
                    self._done.popleft()()
                self._bid_farewell()
                self._listen_again()
                self._maybe_leave()
            return self._stop
        finally:
            self.close()

    def _patience(self) -> float | None:
        if self._done:
            return 0
        if self._deaf_until:
            return _DEAF_S
        return None if self._idle_s is None else max(min(self._idle_s / 4, 1.0), 0.01)

    def _accept(self) -> None:
        for _ in range(64):
            try:
                peer, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # Out of descriptors: those who are here go on, and newcomers wait until there may be some again.
                self._selector.unregister(self._socket)
                self._deaf_until = time.monotonic() + _DEAF_S
                return
            _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid() or len(self._clients) >= _CLIENTS:
                self._log(f"refused a connection of user {uid}")
                _turn_away(peer, "it serves another user" if uid != os.getuid() else f"it has {_CLIENTS} clients, as many as it can")
                continue
            peer.setblocking(False)
            client = Client(self, peer, self._limits.one(self._together))
            self._clients.add(client)
            self.served += 1
            self._selector.register(peer, selectors.EVENT_READ, client)

    def _listen_again(self) -> None:
        if self._deaf_until and time.monotonic() >= self._deaf_until:
            self._deaf_until = 0.0
            self._selector.register(self._socket, selectors.EVENT_READ, None)

    def watch(self, client: Client) -> None:
        """Wait for what a client is ready for."""
        if client.closed:
            return
        events = (selectors.EVENT_READ if client.wants_to_read else 0) | (selectors.EVENT_WRITE if client.wants_to_write else 0)
        try:
            known = self._selector.get_key(client.peer)
        except KeyError:
            if events:
                self._selector.register(client.peer, events, client)
            return
        if not events:
            self._selector.unregister(client.peer)
        elif known.events != events:
            self._selector.modify(client.peer, events, client)

    def drop(self, client: Client) -> None:
        """A client leaves: at once, or when the work that is done for it ends."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.peer)
        if client.busy:
            client.kernel.stop_runs(leaving=True)
            self._leaving.add(client)
            return
        self._leaving.discard(client)
        self._clients.discard(client)
        client.close()
        self._quiet_since = time.monotonic()

    def _bid_farewell(self) -> None:
        for client in [c for c in self._leaving if not c.busy]:
            self.drop(client)

    def watch_file(self, fd: int, callback: Callable[[], None]) -> None:
        """Call something whenever a descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    # -- long work

    def work(self, client: Client, sequence: int, job: Job) -> None:
        """Do a job beside the loop, and answer the client when it is done."""
        self.watch(client)

        def run() -> None:
            result: Any = None
            failure: EbpfError | None = None
            self._watch.begin(client.kernel.stop_runs)
            try:
                result = job.work()
            except EbpfError as error:
                failure = error
            except MemoryError:
                failure = KernelError(errno.ENOMEM, "bpf")
            except Exception as error:  # noqa: BLE001  # whatever it is, the client is to know, and the daemon to go on
                self.report(error)
                failure = KernelError(errno.EIO, "bpf", f"ebpfd failed: {type(error).__name__}: {error}")
            finally:
                self._watch.end()
            self._done.append(lambda: finish(result, failure))
            with suppress(BlockingIOError):
                os.write(self._wake_out, b"x")

        def finish(result: Any, failure: EbpfError | None) -> None:
            client.busy = False
            self._workers.pop(client, None)
            try:
                answer = job.finish(result, failure)
            except EbpfError as error:
                client.fail(sequence, error)
            else:
                client.reply(sequence, answer)
            self.watch(client)
            client.serve()

        thread = threading.Thread(target=run, name="ebpfd-work", daemon=True)
        self._workers[client] = thread
        thread.start()

    def report(self, error: Exception) -> None:
        """Write a fault of ours into the log."""
        self._log("".join(traceback.format_exception(error)).rstrip())

    # -- pins outlive clients

    def show_pins(self, folder: str) -> None:
        """Show the pins below a folder as files in it."""
        self._shown = ShownPins(folder, self.state)
        self.shown_pins = folder
        self._selector.register(self._shown, selectors.EVENT_READ, self._shown.changed)
        self._shown.show()

    def _remember(self) -> None:
        self.journal.remember({path: _what(held) for path, held in self.state.pins.items()})
        if self._shown is not None:
            self._shown.show()

    # -- its end

    def _maybe_leave(self) -> None:
        if self._idle_s is None:
            return
        if self._clients or self.state.pins or (self.state.wires is not None and self.state.wires.query()):
            self._quiet_since = time.monotonic()
        elif time.monotonic() - self._quiet_since > self._idle_s:
            self._stop = "nobody needs it"

    def stop(self, why: str) -> None:
        """End soon."""
        self._stop = why
        with suppress(BlockingIOError):
            os.write(self._wake_out, b"x")

    def status(self) -> dict[str, Any]:
        """What is told of it: pid, uptime in seconds, clients and objects."""
        registry = self.state.registry
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * 4096
        return {
            "pid": os.getpid(),
            "socket": os.fspath(self.path),
            "uptime_s": int(time.monotonic() - self.began),
            "clients": len(self._clients),
            "served": self.served,
            "programs": registry.count(ProgramObject),
            "maps": registry.count(MapObject),
            "links": registry.count(LinkObject),
            "btfs": registry.count(BtfObject),
            "pins": sorted(self.state.pins),
            "lost": self.journal.lost,
            "resident_bytes": resident,
            "saved": str(self._saved.path) if self._saved is not None else "",
            "limits": self._limits.told(),
        }

    def close(self) -> None:
        """Close everything. Idempotent."""
        unused = self._end_work()
        self._save()
        for client in list(self._clients):
            # What is written already should still reach it.
            with suppress(OSError):
                client.writable()
            if unused:
                client.close()
        self._clients.clear()
        if self._socket.fileno() >= 0:
            self._socket.close()
            with suppress(OSError):
                self.path.unlink()
        if self._stop is not None:
            # A fault of ours is no wanted end: the next one is to tell.
            self.journal.close()
        self._watch.close()
        if self._shown is not None:
            self._shown.close()
        self._selector.close()
        for fd in (self._wake_in, self._wake_out):
            with suppress(OSError):
                os.close(fd)
        if unused:
            self.state.close()

    def _save(self) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        try:
            for row in saved.save(self.state):
                self._log(f"not saved: {row}")
        except (EbpfError, OSError) as error:
            self._log(f"nothing could be saved: {error}")

    def _end_work(self) -> bool:
        """Have test runs end. Whether all did: else what they use goes with this process."""
        for client in self._workers:
            client.kernel.stop_runs(leaving=True)
        deadline = time.monotonic() + _WORK_ENDS_S
        for thread in self._workers.values():
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._workers.values())


def _turn_away(peer: socket.socket, why: str) -> None:
    """Say why a connection is not served, and end it."""
    peer.setblocking(False)
    error = KernelError(errno.EPERM, "connect", f"ebpfd does not serve you: {why}")
    with suppress(OSError):
        peer.send(wire.frame(0, wire.Kind.ERROR, wire.encode_error(error)))
    peer.close()


def _what(held: object) -> str:
    if isinstance(held, ProgramObject):
        return f"program {held.program.call.name}"
    if isinstance(held, MapObject):
        return f"map {held.map.spec.name}"
    return "link"


def raise_descriptors() -> None:
    """Let this process have as many descriptors as it may: maps and clients need one each, or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop_on_signals(server: Server) -> None:
    """SIGTERM, SIGINT and SIGHUP end the daemon."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: server.stop(signal.Signals(got).name))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
