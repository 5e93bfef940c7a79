"""rtnetlink: requests with attributes, and the kernel's answers, whoever asks."""

import os
import socket
import struct

REQUEST, ACK, DUMP, CREATE, EXCL = 1, 4, 0x300, 0x400, 0x200
NESTED = 0x8000
_ERROR, _DONE = 2, 3
_EXT_ACK, _SOL_NETLINK = 11, 270
_MESSAGE = 1


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + data.ljust((len(data) + 3) // 4 * 4, b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in bytes, by kind."""
    out, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        out[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) // 4 * 4
    return out


def exchange(message: bytes, *, dump: bool) -> list[tuple[int, bytes]]:
    """Send one request and gather the answers. Raises OSError with the kernel's own words in `filename`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        link.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        link.bind((0, 0))
        link.send(message)
        out: list[tuple[int, bytes]] = []
        while True:
            data = link.recv(1 << 18)
            at = 0
            while at + 16 <= len(data):
                size, kind, flags, _, _ = struct.unpack_from("=IHHII", data, at)
                body = data[at + 16 : at + size]
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        raise OSError(-code, os.strerror(-code), _words(body, flags))
                    return out
                if kind == _DONE:
                    return out
                out.append((kind, body))
                at += (size + 3) // 4 * 4
            if not dump and out:
                return out


def _words(body: bytes, flags: int) -> str:
    """The message of an extended acknowledgement."""
    if not flags & 0x200:
        return ""
    (length,) = struct.unpack_from("=I", body, 4)
    start = 4 + (16 if flags & 0x100 else length)
    return attributes(body[(start + 3) // 4 * 4 :]).get(_MESSAGE, b"").rstrip(b"\0").decode("utf-8", "replace")


def request(kind: int, flags: int, body: bytes) -> bytes:
    """A whole message."""
    return struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, 1, 0) + body
