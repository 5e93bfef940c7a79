"""One client of the daemon: its connection, its descriptors, and what it may ask."""

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ebpf.errors import EbpfError, KernelError, UsageError
from ebpf.kernels.user import UserKernel
from ebpf.kernels.user.objects import Account
from ebpf.sys import wire
from ebpf.sys.calls import Call, MapLookup, MapLookupAndDelete, MapLookupBatch, MapTakeBatch
from ebpf.sys.kernel import FUNCTIONS, Kprobe, PerfOutput, Tracepoint, Uprobe
from ebpf.sys.wire import HEADER, Kind, WireError

if TYPE_CHECKING:
    from ebpf.kernels.daemon.server import Server

_READ = 1 << 18
# What a client may leave unread before nothing more is done for it.
_BACKLOG = 1 << 20
# What is taken in of a client that work is done for.
_AHEAD = 1 << 16
# What an answer has besides the elements.
_AROUND = 1 << 12


class Client:
    """A connection. Frames come in, each is answered in order; long work is done beside, one piece a client at a time."""

    def __init__(self, server: "Server", peer: socket.socket, account: Account) -> None:
        self.server = server
        self.peer = peer
        self.kernel = UserKernel(server.state, account)
        self.kernel.local = False
        self.busy = False
        self.greeted = False
        self.closed = False
        self._in = bytearray()
        self._out: deque[tuple[bytes, list[int]]] = deque()
        self._waiting = 0

    # -- in

    def readable(self) -> None:
        """Bytes have come."""
        try:
            data = self.peer.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.server.drop(self)
            return
        self._in += data
        self.serve()
        if self.busy:
            self.server.watch(self)

    def serve(self) -> None:
        """Answer the whole frames that there are."""
        while not self.busy and not self.closed and self._waiting < _BACKLOG and len(self._in) >= HEADER.size:
            try:
                sequence, kind, length = wire.parse_header(self._in)
            except WireError as error:
                self._refuse(0, error)
                return
            whole = HEADER.size + length
            if len(self._in) < whole:
                return
            body = bytes(memoryview(self._in)[HEADER.size : whole])
            del self._in[:whole]
            try:
                if kind != Kind.CALL:
                    raise WireError(f"a client sends calls, not frames of kind {kind}")
                value = wire.decode(body)
                if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], list)):
                    raise WireError("a call is a method and its arguments")
            except WireError as error:
                self._refuse(sequence, error)
                return
            self._answer(sequence, *value)

    def _refuse(self, sequence: int, error: WireError) -> None:
        """Who sends what is no message is told so and leaves: what follows cannot be understood either."""
        self.fail(sequence, KernelError(errno.EPROTO, "ebpfd", str(error)))
        self.server.drop(self)

    def _answer(self, sequence: int, method: str, arguments: list[Any]) -> None:
        try:
            row = _METHODS.get(method)
            if row is None:
                raise UsageError(f"ebpfd has no '{method[:40]}'")
            if not self.greeted and method != "hello":
                raise KernelError(errno.EPROTO, "ebpfd", "the first call is hello")
            function, types = row
            if len(arguments) != len(types) or not all(isinstance(a, t) for a, t in zip(arguments, types, strict=True)):
                raise KernelError(errno.EINVAL, method[:40], "these are not its arguments")
            function(self, sequence, *arguments)
        except EbpfError as error:
            self.fail(sequence, error)
        except (ValueError, TypeError, OverflowError) as error:
            self.fail(sequence, KernelError(errno.EINVAL, method[:40], str(error)))
        except MemoryError:
            self.fail(sequence, KernelError(errno.ENOMEM, method[:40]))
        except OSError as error:
            self.fail(sequence, KernelError(error.errno or errno.EIO, method[:40]))
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end what others rely on
            self.server.report(error)
            self.fail(sequence, KernelError(errno.EIO, method[:40], f"ebpfd failed: {type(error).__name__}: {error}"))

    # -- out

    def reply(self, sequence: int, value: object, files: list[int] | None = None) -> None:
        """Answer a call; `files` go with it (and stay open here)."""
        self._send(wire.frame(sequence, Kind.ANSWER, wire.encode(value)), files or [])

    def fail(self, sequence: int, error: EbpfError) -> None:
        """Answer a call with an error."""
        self._send(wire.frame(sequence, Kind.ERROR, wire.encode_error(error)), [])

    def _send(self, data: bytes, files: list[int]) -> None:
        if self.closed:
            return
        # Files may be closed before a slow client reads: what waits has descriptors of its own.
        self._out.append((data, [os.dup(fd) for fd in files]))
        self._waiting += len(data)
        self.writable()

    def writable(self) -> None:
        """Send what the client takes."""
        try:
            while self._out:
                data, files = self._out[0]
                sent = socket.send_fds(self.peer, [data], files) if files else self.peer.send(data)
                for fd in files:
                    os.close(fd)
                self._waiting -= sent
                if sent < len(data):
                    self._out[0] = (data[sent:], [])
                else:
                    self._out.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.server.drop(self)
            return
        self.server.watch(self)

    @property
    def wants_to_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    @property
    def wants_to_read(self) -> bool:
        """Whether more calls can be taken in."""
        # While work is done for it too: only who reads sees a client leave.
        return self._waiting < _BACKLOG and not (self.busy and len(self._in) >= _AHEAD)

    def close(self) -> None:
        """Let go all that the client held. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for _, files in self._out:
            for fd in files:
                os.close(fd)
        self._out.clear()
        self.peer.close()
        self.kernel.shutdown()

    # -- the calls

    def _hello(self, sequence: int, protocol: int) -> None:
        if protocol != wire.PROTOCOL:
            raise KernelError(
                errno.EPROTONOSUPPORT,
                "hello",
                f"this ebpfd speaks version {wire.PROTOCOL} of the protocol, its client version {protocol}: `ebpf daemon stop`, then again",
            )
        self.greeted = True
        state = self.server.state
        news = self.server.journal.news()
        hello = {"cpus": state.possible_cpus, "system_wide": state.running is not None, "news": news, "pins": self.server.shown_pins}
        self.reply(sequence, hello)

    def _told(self, sequence: int) -> None:
        self.server.journal.told()
        self.reply(sequence, None)

    def _require_room(self, call: Call[Any]) -> None:
        """Refuse what no message could answer before it is done."""
        if isinstance(call, (MapLookupBatch, MapTakeBatch)):
            held = self.kernel.map_at(call.map_fd, "bpf").map
            size = min(call.count, held.header.max_entries) * (held.spec.key_size + held.value_bytes)
        elif isinstance(call, (MapLookup, MapLookupAndDelete)):
            size = self.kernel.map_at(call.map_fd, "bpf").map.value_bytes
        else:
            return
        if size > wire.LARGEST - _AROUND:
            raise KernelError(errno.EMSGSIZE, f"bpf({call.cmd.name})", f"{size} bytes: ebpfd answers with up to {wire.LARGEST} at once")

    def _bpf(self, sequence: int, call: Call[Any]) -> None:
        self._require_room(call)
        job = self.kernel.job(call)
        if job is None:
            self.reply(sequence, self.kernel.bpf(call))
            return
        self.busy = True
        self.server.work(self, sequence, job)

    def _close(self, sequence: int, fd: int) -> None:
        self.kernel.close(fd)
        self.reply(sequence, None)

    def _mmap(self, sequence: int, fd: int, length: int, offset: int) -> None:
        pieces = self.kernel.files(fd, length, offset)
        self.reply(sequence, [[at, size, may] for _, at, size, may in pieces], [file for file, _, _, _ in pieces])

    def _ready(self, sequence: int, fds: list[Any]) -> None:
        self.reply(sequence, self.kernel.ready([int(fd) for fd in fds]))

    def _event(self, sequence: int, fd: int) -> None:
        event = self.kernel.event_file(fd)
        self.reply(sequence, None, [event] if event >= 0 else [])

    def _perf_event_open(self, sequence: int, source: "Kprobe | Tracepoint | Uprobe | PerfOutput", pid: int, cpu: int) -> None:
        self.reply(sequence, self.kernel.perf_event_open(source, pid=pid, cpu=cpu))

    def _perf_set_bpf(self, sequence: int, event_fd: int, prog_fd: int) -> None:
        self.kernel.perf_set_bpf(event_fd, prog_fd)
        self.reply(sequence, None)

    def _perf_enable(self, sequence: int, event_fd: int) -> None:
        self.kernel.perf_enable(event_fd)
        self.reply(sequence, None)

    def _xdp_attach(self, sequence: int, ifindex: int, prog_fd: int, flags: int) -> None:
        self.kernel.xdp_attach(ifindex, prog_fd, flags)
        self.reply(sequence, None)

    def _xdp_query(self, sequence: int, ifindex: int | None) -> None:
        self.reply(sequence, self.kernel.xdp_query(ifindex))

    def _interfaces(self, sequence: int) -> None:
        self.reply(sequence, dict(self.kernel.interfaces()))

    def _functions(self, sequence: int) -> None:
        self.reply(sequence, self.kernel.read_file(FUNCTIONS))

    def _syscall_function(self, sequence: int, syscall: str) -> None:
        self.reply(sequence, self.kernel.syscall_function(syscall))

    def _pinned(self, sequence: int) -> None:
        self.reply(sequence, self.kernel.pinned())

    def _unpin(self, sequence: int, path: str) -> None:
        self.kernel.unpin(path)
        self.reply(sequence, None)

    def _trace_open(self, sequence: int) -> None:
        self.reply(sequence, self.kernel.trace_open())

    def _trace_read(self, sequence: int, fd: int) -> None:
        self.reply(sequence, self.kernel.trace_read(fd))

    def _status(self, sequence: int) -> None:
        self.reply(sequence, self.server.status())

    def _stop(self, sequence: int) -> None:
        self.reply(sequence, None)
        self.server.stop("a client asked for it")


_METHODS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "hello": (Client._hello, (int,)),
    "told": (Client._told, ()),
    "bpf": (Client._bpf, (Call,)),
    "close": (Client._close, (int,)),
    "mmap": (Client._mmap, (int, int, int)),
    "ready": (Client._ready, (list,)),
    "event": (Client._event, (int,)),
    "perf_event_open": (Client._perf_event_open, ((Kprobe, Tracepoint, Uprobe, PerfOutput), int, int)),
    "perf_set_bpf": (Client._perf_set_bpf, (int, int)),
    "perf_enable": (Client._perf_enable, (int,)),
    "xdp_attach": (Client._xdp_attach, (int, int, int)),
    "xdp_query": (Client._xdp_query, ((int, type(None)),)),
    "interfaces": (Client._interfaces, ()),
    "functions": (Client._functions, ()),
    "syscall_function": (Client._syscall_function, (str,)),
    "pinned": (Client._pinned, ()),
    "unpin": (Client._unpin, (str,)),
    "trace_open": (Client._trace_open, ()),
    "trace_read": (Client._trace_read, (int,)),
    "status": (Client._status, ()),
    "stop": (Client._stop, ()),
}
