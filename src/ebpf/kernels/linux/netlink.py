"""The few netlink messages of XDP: attach, detach, and what is attached where."""

import errno
import os
import socket
import struct

from ebpf.errors import KernelError
from ebpf.kernels.linux.syscall import failure
from ebpf.sys.kernel import XdpState

_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_XDP, _NAME = 43, 3
_XDP_FD, _XDP_ATTACHED, _XDP_FLAGS, _XDP_ID, _XDP_DRV_ID, _XDP_SKB_ID, _XDP_HW_ID = 1, 2, 3, 4, 5, 6, 7
_NESTED = 0x8000
_MODES = {1: "xdpdrv", 2: "xdpgeneric", 3: "xdpoffload"}
_EXT_ACK, _SOL_NETLINK = 11, 270
_MESSAGE = 1


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data.ljust((len(data) + 3) // 4 * 4, b"\0")


def _attributes(data: bytes) -> dict[int, bytes]:
    out, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        out[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) // 4 * 4
    return out


def _exchange(message: bytes, *, dump: bool) -> list[tuple[int, bytes]]:
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
    return _attributes(body[(start + 3) // 4 * 4 :]).get(_MESSAGE, b"").rstrip(b"\0").decode("utf-8", "replace")


def xdp_attach(ifindex: int, prog_fd: int, flags: int) -> None:
    """Attach an XDP program to an interface (-1: detach)."""
    nested = _attribute(_XDP_FD, struct.pack("=i", prog_fd)) + _attribute(_XDP_FLAGS, struct.pack("=I", flags & 0x1F))
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, ifindex, 0, 0) + _attribute(_XDP | _NESTED, nested)
    message = struct.pack("=IHHII", 16 + len(body), _SETLINK, _REQUEST | _ACK, 1, 0) + body
    try:
        _exchange(message, dump=False)
    except OSError as error:
        why = str(error.filename or "")
        number = error.errno or errno.EIO
        raise failure(
            number, "interface xdp attach" if prog_fd >= 0 else "interface xdp detach", why, capability="CAP_NET_ADMIN"
        ) from error


def xdp_query(ifindex: int | None) -> list[XdpState]:
    """What XDP programs are attached."""
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, ifindex or 0, 0, 0)
    kind = _REQUEST | (_DUMP if ifindex is None else _ACK)
    message = struct.pack("=IHHII", 16 + len(body), _GETLINK, kind, 1, 0) + body
    try:
        answers = _exchange(message, dump=ifindex is None)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "netlink(RTM_GETLINK)") from error
    out = []
    for answer, data in answers:
        if answer != _NEWLINK:
            continue
        (index,) = struct.unpack_from("=i", data, 4)
        rows = _attributes(data[16:])
        xdp = _attributes(rows.get(_XDP, b""))
        mode = xdp.get(_XDP_ATTACHED, b"\0")[0]
        name = rows.get(_NAME, b"").rstrip(b"\0").decode()
        if mode in _MODES:
            out.append(XdpState(index, name, _MODES[mode], struct.unpack("=I", xdp[_XDP_ID])[0]))
        elif mode == 4:
            for key, text in ((_XDP_DRV_ID, "xdpdrv"), (_XDP_SKB_ID, "xdpgeneric"), (_XDP_HW_ID, "xdpoffload")):
                if key in xdp:
                    out.append(XdpState(index, name, text, struct.unpack("=I", xdp[key])[0]))
    return out
