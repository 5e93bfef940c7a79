"""The laboratory's network: loopback, an interface `eth0`, and a second host at its other end.

    lab (eth0) ═ (m0) middle (m1) ═ (eth0) second host

eth0 and m0 are one pair of interfaces, m1 and the second host's eth0 another; what stands in the middle is ours, so that a
program on the lab's eth0 really decides which packets come.
"""

import array
import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from ebpf.kernels.daemon.lab import space
from ebpf.sys.rtnetlink import ACK, CREATE, EXCL, NESTED, attribute, exchange, request

LAB_ADDRESS, PEER_ADDRESS = "10.200.0.1", "10.200.0.2"
LAB_ADDRESS6, PEER_ADDRESS6 = "fd00:eb::1", "fd00:eb::2"
_NEWLINK, _NEWADDR = 16, 20
_IFNAME, _LINKINFO, _INFO_KIND, _INFO_DATA, _NET_NS_FD = 3, 18, 1, 2, 28
_PEER = 1
_UP = 1
_ADDRESS, _LOCAL = 1, 2
_NODAD = 2
_ALL = 0x0003
_SOL_PACKET, _IGNORE_OUTGOING, _QDISC_BYPASS = 263, 23, 20
_SIOCETHTOOL, _SIOCGIFHWADDR = 0x8946, 0x8927
_STXCSUM, _STSO, _SGSO = 0x17, 0x1F, 0x24
_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Network:
    """What was built: the namespaces of the middle and of the second host, and packet sockets on the middle's two ends; the
    number and hardware address of the lab's eth0."""

    middle: int
    host: int
    near: socket.socket
    far: socket.socket
    eth0: int
    mac: bytes


def build(lab: int) -> Network:
    """Build it, from within the lab's network namespace `lab` (a descriptor). For a process of one thread.

    Raises OSError where the kernel has no veth.
    """
    up("lo")
    _takes_own()
    host = space.new_network()
    up("lo")
    middle = space.new_network()
    _pair("m0", "eth0", lab)
    _pair("m1", "eth0", host)
    for name in ("m0", "m1"):
        _quiet(name)
        up(name)
    near, far = (_packets(name) for name in ("m0", "m1"))
    for fd, address, address6 in ((host, PEER_ADDRESS, PEER_ADDRESS6), (lab, LAB_ADDRESS, LAB_ADDRESS6)):
        space.enter_network(fd)
        _quiet("eth0")
        whole_frames("eth0")
        add_address("eth0", address, 24)
        with suppress(OSError):
            add_address("eth0", address6, 64)
        up("eth0")
    with suppress(OSError), open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as file:
        file.write("0 2147483647")
    return Network(middle, host, near, far, socket.if_nametoindex("eth0"), _hardware_address("eth0"))


def build_direct(lab: int) -> int:
    """The same without anything in the middle: for programs that the Linux kernel runs. The answer is the second host's namespace."""
    up("lo")
    host = space.new_network()
    up("lo")
    _pair("eth0", "eth0", lab)
    for fd, address, address6 in ((host, PEER_ADDRESS, PEER_ADDRESS6), (lab, LAB_ADDRESS, LAB_ADDRESS6)):
        space.enter_network(fd)
        add_address("eth0", address, 24)
        with suppress(OSError):
            add_address("eth0", address6, 64)
        up("eth0")
    return host


def up(name: str) -> None:
    """Switch an interface on."""
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, socket.if_nametoindex(name), _UP, _UP)
    exchange(request(_NEWLINK, ACK, body), dump=False)


def _takes_own() -> None:
    """Have the loopback take packets that programs send back to it, from addresses of its own."""
    for name in ("route_localnet", "accept_local"):
        with suppress(OSError), open(f"/proc/sys/net/ipv4/conf/lo/{name}", "w", encoding="ascii") as file:
            file.write("1")


def _pair(name: str, peer: str, peer_network: int) -> None:
    """Make a pair of interfaces: `name` here, `peer` in another namespace."""
    nothing = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, 0, 0)
    other = nothing + attribute(_IFNAME, peer.encode() + b"\0") + attribute(_NET_NS_FD, struct.pack("=I", peer_network))
    info = attribute(_INFO_KIND, b"veth") + attribute(_INFO_DATA | NESTED, attribute(_PEER | NESTED, other))
    body = nothing + attribute(_IFNAME, name.encode() + b"\0") + attribute(_LINKINFO | NESTED, info)
    exchange(request(_NEWLINK, ACK | CREATE | EXCL, body), dump=False)


def add_address(name: str, address: str, bits: int) -> None:
    """Give an interface an address."""
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, bits, _NODAD if parsed.version == 6 else 0, 0, socket.if_nametoindex(name))
    body += attribute(_LOCAL, parsed.packed) + attribute(_ADDRESS, parsed.packed)
    exchange(request(_NEWADDR, ACK | CREATE | EXCL, body), dump=False)


def _quiet(name: str) -> None:
    """Send nothing of its own accord, where nobody asked for IPv6."""
    if name.startswith("m"):
        with suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w", encoding="ascii") as file:
            file.write("1")


def whole_frames(name: str) -> None:
    """Have an interface send what a wire carries: frames of its MTU, with their checksums."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for command in (_STXCSUM, _STSO, _SGSO):
            value = array.array("B", struct.pack("=II", command, 0))
            with suppress(OSError):
                fcntl.ioctl(asked, _SIOCETHTOOL, struct.pack("16sP", name.encode(), value.buffer_info()[0]))


def _hardware_address(name: str) -> bytes:
    """The 6 bytes that frames for an interface begin with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("256s", name.encode()))[18:24]


def _packets(name: str) -> socket.socket:
    """A packet socket on an interface: what it receives, not what we send."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    with suppress(OSError):
        found.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
    for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    found.bind((name, _ALL))
    return found


def tap(name: str) -> socket.socket:
    """A packet socket that sees what an interface of this namespace receives."""
    return _packets(name)


def sender(name: str) -> socket.socket:
    """A packet socket that frames are sent by, and that receives none."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    found.bind((name, 0))
    return found


def close(network: Network) -> None:
    """Close what was opened: the interfaces go with the last process in their namespaces."""
    network.near.close()
    network.far.close()
    for fd in (network.middle, network.host):
        with suppress(OSError):
            os.close(fd)
