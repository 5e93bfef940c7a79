"""The second host: a process in a network namespace of its own that answers HTTP and echoes UDP and TCP."""

import ctypes
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import NoReturn

HTTP_PORT, ECHO_PORT = 80, 7
_PR_SET_PDEATHSIG = 1
PAGE = b"<!doctype html><title>peer</title><p>This is the second host of the laboratory.</p>\n"


def serve(ready: int, lab: int) -> NoReturn:
    """Answer until killed, or until the process `lab` that forked us ends: never returns. A byte on `ready` says that it listens."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        # Whatever way the lab ends, we end with it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != lab:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        http, echo, udp = (
            _listen(kind, port)
            for kind, port in ((socket.SOCK_STREAM, HTTP_PORT), (socket.SOCK_STREAM, ECHO_PORT), (socket.SOCK_DGRAM, ECHO_PORT))
        )
        os.write(ready, b"y")
        os.close(ready)
        threading.Thread(target=_accept, args=(http, _page), daemon=True).start()
        threading.Thread(target=_accept, args=(echo, _echo), daemon=True).start()
        while True:
            with suppress(OSError):
                data, sender = udp.recvfrom(65536)
                udp.sendto(data, sender)
    finally:
        os._exit(1)


def _listen(kind: int, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6, kind | socket.SOCK_CLOEXEC)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    found.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        found.listen(64)
    return found


def _accept(listener: socket.socket, answer: "object") -> None:
    assert callable(answer)
    while True:
        with suppress(OSError):
            peer, _ = listener.accept()
            threading.Thread(target=answer, args=(peer,), daemon=True).start()


def _page(peer: socket.socket) -> None:
    with peer, suppress(OSError):
        peer.settimeout(10)
        asked = b""
        while b"\r\n\r\n" not in asked and len(asked) < 65536:
            part = peer.recv(4096)
            if not part:
                return
            asked += part
        words = asked.split(b"\r\n", 1)[0].split()
        status, body = (b"200 OK", PAGE) if words[:1] in ([b"GET"], [b"HEAD"]) else (b"405 Method Not Allowed", b"")
        head = b"HTTP/1.1 %b\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
        peer.sendall(head + (b"" if words[:1] == [b"HEAD"] else body))


def _echo(peer: socket.socket) -> None:
    with peer, suppress(OSError):
        while data := peer.recv(65536):
            peer.sendall(data)
