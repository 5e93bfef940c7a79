"""The loopback's packets, held back until a program has judged them: a rule of netfilter gives them to a queue that we serve.

The rule is nf_tables' own `queue` where the kernel has it, else iptables' NFQUEUE through nf_tables. Where nobody serves the queue, the
packets pass. All goes with the network namespace.
"""

import os
import socket
import struct
from contextlib import suppress

from ebpf.sys.rtnetlink import ACK, CREATE, NESTED, attribute

NUMBER = 7
_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END, _ERROR = 0x10, 0x11, 2
_TABLES, _QUEUES = 10, 3
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_CONFIG = 2
_REQUEST = 1
_NAME = b"ebpf-lab\0"
_CHAIN = b"lo\0"
# Before connection tracking and all else that would see a packet that is dropped.
_RAW_PRIORITY = -300
_BYPASS = 1
_FAIL_OPEN = 1
_LONGEST_QUEUE = 4096
_BUFFER = 16 << 20


def _be32(number: int) -> bytes:
    return struct.pack(">i" if number < 0 else ">I", number)


def _expression(name: str, *fields: bytes) -> bytes:
    return attribute(1 | NESTED, attribute(1, name.encode() + b"\0") + attribute(2 | NESTED, b"".join(fields)))


def _to_the_queue() -> list[bytes]:
    """The ways to say so in a rule, the best first."""
    own = _expression("queue", *(attribute(kind, struct.pack(">H", value)) for kind, value in ((1, NUMBER), (2, 1), (3, _BYPASS))))
    # struct xt_NFQ_info_v3, aligned to 8 bytes.
    info = struct.pack("=HHHxx", NUMBER, 1, _BYPASS)
    target = _expression("target", attribute(1, b"NFQUEUE\0"), attribute(2, _be32(3)), attribute(3, info))
    return [own, target]


def _message(subsystem: int, kind: int, flags: int, family: int, number: int, body: bytes) -> bytes:
    whole = struct.pack(">BBH", family, 0, number) + body
    return struct.pack("=IHHII", 16 + len(whole), subsystem << 8 | kind, _REQUEST | flags, 0, 0) + whole


def _batch(link: socket.socket, messages: list[bytes]) -> None:
    """Have changes of the tables carried out, all or none. Raises OSError."""
    ends = [struct.pack("=IHHIIBBH", 20, kind, _REQUEST, 0, 0, 0, 0, socket.htons(_TABLES)) for kind in (_BATCH_BEGIN, _BATCH_END)]
    link.send(ends[0] + b"".join(messages) + ends[1])
    _answers(link, len(messages))


def _answers(link: socket.socket, count: int) -> None:
    """Read the answers to `count` messages. Raises OSError with the first error."""
    failed = 0
    while count:
        data = link.recv(1 << 16)
        at = 0
        while at + 20 <= len(data):
            size, kind = struct.unpack_from("=IH", data, at)
            if kind == _ERROR:
                (code,) = struct.unpack_from("=i", data, at + 16)
                failed = failed or -code
                count -= 1
            at += (size + 3) // 4 * 4
        if failed:
            raise OSError(failed, os.strerror(failed), "netfilter")


def _table(family: int, judge: bytes) -> list[bytes]:
    """A table whose one rule gives what comes in at the first interface, which is the loopback, to the queue."""
    hook = attribute(1, _be32(0)) + attribute(2, _be32(_RAW_PRIORITY))
    chain = attribute(1, _NAME) + attribute(3, _CHAIN) + attribute(4 | NESTED, hook) + attribute(7, b"filter\0")
    came_in = _expression("meta", attribute(1, _be32(1)), attribute(2, _be32(4)))
    loopback = attribute(3 | NESTED, attribute(1, struct.pack("=I", 1)))
    is_lo = _expression("cmp", attribute(1, _be32(1)), attribute(2, _be32(0)), loopback)
    rule = attribute(1, _NAME) + attribute(2, _CHAIN) + attribute(4 | NESTED, came_in + is_lo + judge)
    bodies = ((_NEW_TABLE, attribute(1, _NAME)), (_NEW_CHAIN, chain), (_NEW_RULE, rule))
    return [_message(_TABLES, kind, ACK | CREATE, family, 0, body) for kind, body in bodies]


def hold_back() -> socket.socket:
    """Hold the loopback's packets of this network namespace back; the answer receives them, and the verdicts go to it.

    Raises OSError where the kernel cannot, or nobody may.
    """
    queue = bound()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as link:
            _judge(link)
    except OSError:
        queue.close()
        raise
    return queue


def possible() -> bool:
    """Whether packets can be held back here."""
    try:
        with hold_back():
            pass_by()
    except OSError:
        return False
    return True


def _judge(link: socket.socket) -> None:
    ways = _to_the_queue()
    for number, way in enumerate(ways):
        try:
            _batch(link, _table(socket.AF_INET, way))
            with suppress(OSError):
                # Not every kernel has IPv6.
                _batch(link, _table(socket.AF_INET6, way))
            return
        except OSError:
            if number == len(ways) - 1:
                raise


def pass_by() -> None:
    """Hold no more packets back."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as link:
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                _batch(link, [_message(_TABLES, _DELETE_TABLE, ACK, family, 0, attribute(1, _NAME))])


def bound() -> socket.socket:
    """A socket that the queue's packets come to, whoever puts them there. Raises OSError: EBUSY where another one has the queue."""
    queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    try:
        queue.bind((0, 0))
        for option in (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33)):
            with suppress(OSError):
                queue.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        bind = attribute(1, struct.pack(">BxH", 1, 0))
        whole = attribute(2, struct.pack(">IB", 0xFFFF, 2))
        rest = attribute(3, _be32(_LONGEST_QUEUE)) + attribute(4, _be32(_FAIL_OPEN)) + attribute(5, _be32(_FAIL_OPEN))
        for body in (bind, whole, rest):
            queue.send(_message(_QUEUES, _CONFIG, ACK, 0, NUMBER, body))
            _answers(queue, 1)
    except OSError:
        queue.close()
        raise
    return queue
