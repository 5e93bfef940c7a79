"""A connection to a daemon: frames out, frames in, descriptors beside them."""

import errno
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from ebpf.errors import EbpfError, KernelError
from ebpf.sys import wire
from ebpf.sys.wire import HEADER, Kind, WireError

_MOST_FDS = 8
_ROOM = socket.CMSG_SPACE(_MOST_FDS * 4) if hasattr(socket, "CMSG_SPACE") else 0


class Connection:
    """One client's end. Calls are answered in order; an interrupted call's answer is dropped when it comes."""

    def __init__(self, peer: socket.socket, path: str) -> None:
        self._socket = peer
        self._path = path
        self._sequence = 0
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._lock = threading.RLock()
        self._dead = False

    def fileno(self) -> int:
        """The socket's descriptor: it can be read when the daemon is gone."""
        return self._socket.fileno()

    def call(self, method: str, *arguments: Any) -> tuple[Any, list[int]]:
        """Ask for something; the answer, and the descriptors that came with it (the caller's to close)."""
        with self._lock:
            if self._dead:
                raise self._gone(method)
            # 0 is the daemon's, for what concerns the connection itself.
            wanted = self._sequence = self._sequence % 0xFFFFFFFF + 1
            try:
                with suppress(ConnectionError):
                    # A daemon that does not take it may still have said why.
                    self._socket.sendall(wire.frame(wanted, Kind.CALL, wire.encode([method, list(arguments)])))
                while True:
                    sequence, kind, body = self._receive()
                    fds, self._fds = self._fds, []
                    if sequence == wanted or (kind == Kind.ERROR and not sequence):
                        break
                    _close_all(fds)
            except (ConnectionError, OSError, EOFError) as error:
                self._dead = True
                raise self._gone(method) from error
            except WireError as error:
                self._dead = True
                raise KernelError(errno.EPROTO, method, f"ebpfd's answer makes no sense: {error}") from error
            if kind == Kind.ANSWER:
                return wire.decode(body), fds
            _close_all(fds)
            raise self._error(body, method)

    def _error(self, body: bytes, method: str) -> EbpfError:
        try:
            return wire.decode_error(body)
        except WireError as error:
            return KernelError(errno.EPROTO, method, f"ebpfd's answer makes no sense: {error}")

    def _gone(self, method: str) -> KernelError:
        return KernelError(
            errno.ECONNRESET, method, f"ebpfd at {self._path} has ended, and what was not pinned with it; run the command again to start it"
        )

    def _receive(self) -> tuple[int, int, bytes]:
        while len(self._buffer) < HEADER.size:
            self._fill(1 << 16)
        sequence, kind, length = wire.parse_header(self._buffer)
        whole = HEADER.size + length
        while len(self._buffer) < whole:
            self._fill(max(whole - len(self._buffer), 1 << 16))
        body = bytes(memoryview(self._buffer)[HEADER.size : whole])
        del self._buffer[:whole]
        return sequence, kind, body

    def _fill(self, most: int) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(most, _ROOM)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = struct.unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4])
                for number in numbers:
                    os.set_inheritable(number, False)
                self._fds.extend(numbers)
        if not data:
            raise EOFError("the daemon closed the connection")
        self._buffer += data

    def close(self) -> None:
        """Leave; the daemon closes what this client held. Idempotent."""
        self._dead = True
        _close_all(self._fds)
        self._fds = []
        self._socket.close()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
