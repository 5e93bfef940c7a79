"""The few netlink messages of XDP and tc: attach, detach, and what is attached where."""

import errno
import socket
import struct

from ebpf.errors import KernelError
from ebpf.kernels.linux.syscall import failure
from ebpf.sys.kernel import TcState, XdpState
from ebpf.sys.rtnetlink import ACK as _ACK
from ebpf.sys.rtnetlink import DUMP as _DUMP
from ebpf.sys.rtnetlink import NESTED as _NESTED
from ebpf.sys.rtnetlink import REQUEST as _REQUEST
from ebpf.sys.rtnetlink import attribute, attributes, exchange

_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_XDP, _NAME = 43, 3
_XDP_FD, _XDP_ATTACHED, _XDP_FLAGS, _XDP_ID, _XDP_DRV_ID, _XDP_SKB_ID, _XDP_HW_ID = 1, 2, 3, 4, 5, 6, 7
_MODES = {1: "xdpdrv", 2: "xdpgeneric", 3: "xdpoffload"}


def xdp_attach(ifindex: int, prog_fd: int, flags: int) -> None:
    """Attach an XDP program to an interface (-1: detach)."""
    nested = attribute(_XDP_FD, struct.pack("=i", prog_fd)) + attribute(_XDP_FLAGS, struct.pack("=I", flags & 0x1F))
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, ifindex, 0, 0) + attribute(_XDP | _NESTED, nested)
    message = struct.pack("=IHHII", 16 + len(body), _SETLINK, _REQUEST | _ACK, 1, 0) + body
    try:
        exchange(message, dump=False)
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
        answers = exchange(message, dump=ifindex is None)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "netlink(RTM_GETLINK)") from error
    out = []
    for answer, data in answers:
        if answer != _NEWLINK:
            continue
        (index,) = struct.unpack_from("=i", data, 4)
        rows = attributes(data[16:])
        xdp = attributes(rows.get(_XDP, b""))
        mode = xdp.get(_XDP_ATTACHED, b"\0")[0]
        name = rows.get(_NAME, b"").rstrip(b"\0").decode()
        if mode in _MODES:
            out.append(XdpState(index, name, _MODES[mode], struct.unpack("=I", xdp[_XDP_ID])[0]))
        elif mode == 4:
            for key, text in ((_XDP_DRV_ID, "xdpdrv"), (_XDP_SKB_ID, "xdpgeneric"), (_XDP_HW_ID, "xdpoffload")):
                if key in xdp:
                    out.append(XdpState(index, name, text, struct.unpack("=I", xdp[key])[0]))
    return out


_GETQDISC, _NEWFILTER, _GETFILTER = 38, 44, 46
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_NAME, _BPF_ID = 7, 11
_TC = struct.Struct("=BxxxiIII")
# The two sides of a clsact: their parents.
_SIDES = (("clsact/ingress", 0xFFFFFFF2), ("clsact/egress", 0xFFFFFFF3))


def tc_query(ifindex: int, ifname: str) -> list[TcState]:
    """The programs in the filters of one interface."""
    out = []
    for _, data in _tc(_GETQDISC, ifindex, 0):
        _, index, handle, _, _ = _TC.unpack_from(data)
        kind = attributes(data[_TC.size :]).get(_TCA_KIND, b"").rstrip(b"\0").decode()
        if index != ifindex:
            continue
        for name, parent in _SIDES if kind == "clsact" else ((kind, handle),):
            for answer, found in _tc(_GETFILTER, ifindex, parent):
                rows = attributes(found[_TC.size :])
                options = attributes(rows.get(_TCA_OPTIONS, b""))
                if answer == _NEWFILTER and rows.get(_TCA_KIND, b"").rstrip(b"\0") == b"bpf" and _BPF_ID in options:
                    text = options.get(_BPF_NAME, b"").rstrip(b"\0").decode()
                    out.append(TcState(ifindex, ifname, name, text, struct.unpack("=I", options[_BPF_ID])[0]))
    return out


def _tc(kind: int, ifindex: int, parent: int) -> list[tuple[int, bytes]]:
    body = _TC.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0)
    try:
        return exchange(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _DUMP, 1, 0) + body, dump=True)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "netlink(tc)") from error


_NEWQDISC, _DELQDISC, _DELFILTER = 36, 37, 45
_CREATE, _EXCL = 0x400, 0x200
_CLSACT_PARENT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_BPF_FD, _BPF_FLAGS, _DIRECT_ACTION, _EVERY_PROTOCOL = 6, 8, 1, 3


def _change(kind: int, flags: int, body: bytes, attributes_: bytes, what: str) -> None:
    message = struct.pack("=IHHII", 16 + len(body) + len(attributes_), kind, _REQUEST | _ACK | flags, 1, 0) + body + attributes_
    try:
        exchange(message, dump=False)
    except OSError as error:
        raise failure(error.errno or errno.EIO, what, str(error.filename or ""), capability="CAP_NET_ADMIN") from error


def _parent(side: str) -> int:
    return dict(_SIDES)[f"clsact/{side}"]


def _make_clsact(ifindex: int) -> bool:
    """Whether it was not there yet."""
    body = _TC.pack(socket.AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    try:
        _change(_NEWQDISC, _CREATE | _EXCL, body, attribute(_TCA_KIND, b"clsact\0"), "tc qdisc add clsact")
    except KernelError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def _filter(ifindex: int, side: str, priority: int, handle: int) -> bytes:
    protocol = socket.htons(_EVERY_PROTOCOL)
    return _TC.pack(socket.AF_UNSPEC, ifindex, handle, _parent(side), priority << 16 | protocol)


def tc_attach(ifindex: int, side: str, prog_fd: int, *, priority: int, handle: int, name: str) -> bool:
    """Make a direct-action filter of a program; whether a clsact had to be made for it."""
    made = _make_clsact(ifindex)
    options = attribute(_BPF_FD, struct.pack("=I", prog_fd)) + attribute(_BPF_NAME, name.encode() + b"\0")
    options += attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    rows = attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS | _NESTED, options)
    try:
        _change(_NEWFILTER, _CREATE | _EXCL, _filter(ifindex, side, priority, handle), rows, f"tc filter add {side}")
    except KernelError:
        if made:
            _drop_clsact(ifindex)
        raise
    return made


def tc_detach(ifindex: int, side: str, *, priority: int, handle: int, clsact: bool) -> None:
    """Remove a filter, and (`clsact`) the clsact, if no other filter is left in it."""
    _change(_DELFILTER, 0, _filter(ifindex, side, priority, handle), attribute(_TCA_KIND, b"bpf\0"), f"tc filter del {side}")
    if clsact and not any(_tc(_GETFILTER, ifindex, parent) for _, parent in _SIDES):
        _drop_clsact(ifindex)


def _drop_clsact(ifindex: int) -> None:
    body = _TC.pack(socket.AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    _change(_DELQDISC, 0, body, attribute(_TCA_KIND, b"clsact\0"), "tc qdisc del clsact")
