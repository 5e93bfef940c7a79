"""What a register holds. Registers never change and are shared between states; what changes is which one a place has."""

from typing import Final

from ebpf.btf import Btf
from ebpf.engine.verifier.num import UNKNOWN, ZERO, Num, bits_text, known, ranges, s64, signed_text, unsigned_text

NOT_INIT: Final = 0
SCALAR: Final = 1
CTX: Final = 2
MAP_PTR: Final = 3
MAP_VALUE: Final = 4
MAP_KEY: Final = 5
STACK: Final = 6
PACKET_META: Final = 7
PACKET: Final = 8
PACKET_END: Final = 9
FLOW_KEYS: Final = 10
SOCKET: Final = 11
SOCK_COMMON: Final = 12
TCP_SOCK: Final = 13
TP_BUFFER: Final = 14
XDP_SOCK: Final = 15
BTF_ID: Final = 16
MEM: Final = 17
BUF: Final = 18
FUNC: Final = 19
DYNPTR: Final = 20
ARENA: Final = 21

MAYBE_NULL: Final = 1
RDONLY: Final = 2
RINGBUF: Final = 4
TRUSTED: Final = 8
RCU: Final = 16
UNTRUSTED: Final = 32
USER: Final = 64
PERCPU: Final = 128
ALLOC: Final = 256
NON_OWN: Final = 512
UNINIT: Final = 1024
#: Of a number: it differs by `off` from the others with its id.
LINKED: Final = 2048
#: The same of the low 32 bits; the high ones are zero.
LINKED32: Final = 4096
#: Of memory: it is a piece of a packet, void when that moves.
PIECE: Final = 8192
ANY_LINK: Final = LINKED | LINKED32

_NAMES: Final = {
    NOT_INIT: "?",
    SCALAR: "scalar",
    CTX: "ctx",
    MAP_PTR: "map_ptr",
    MAP_VALUE: "map_value",
    MAP_KEY: "map_key",
    STACK: "fp",
    PACKET_META: "pkt_meta",
    PACKET: "pkt",
    PACKET_END: "pkt_end",
    FLOW_KEYS: "flow_keys",
    SOCKET: "sock",
    SOCK_COMMON: "sock_common",
    TCP_SOCK: "tcp_sock",
    TP_BUFFER: "tp_buffer",
    XDP_SOCK: "xdp_sock",
    BTF_ID: "ptr_",
    MEM: "mem",
    BUF: "buf",
    FUNC: "func",
    DYNPTR: "dynptr_ptr",
    ARENA: "arena",
}
_PREFIXES: Final = (
    (RDONLY, "rdonly_"),
    (RINGBUF, "ringbuf_"),
    (USER, "user_"),
    (PERCPU, "percpu_"),
    (UNTRUSTED, "untrusted_"),
    (TRUSTED, "trusted_"),
    (RCU, "rcu_"),
)
#: Ends of packets met: a comparison said that the pointer is at, or beyond, the end.
AT_END: Final = -1
BEYOND_END: Final = -2


class Reg:
    """A register's content. A pointer is its base, the fixed offset `off` and the variable part `num`.

    `id` says which registers move or are tested together, `ref` which reference stands behind a pointer, `fd` a map
    (negative: what the maps inside map `~fd` are like), `size` memory's bytes, `rng` how many bytes of the packet are
    proved, `frame` the stack's, `btf` and `type_id` a kernel object's type.
    """

    __slots__ = ("btf", "fd", "flags", "frame", "id", "kind", "num", "off", "ref", "rng", "size", "type_id", "uid")

    def __init__(
        self,
        kind: int,
        num: Num = ZERO,
        off: int = 0,
        id: int = 0,
        flags: int = 0,
        fd: int = 0,
        size: int = 0,
        rng: int = 0,
        ref: int = 0,
        frame: int = 0,
        btf: Btf | None = None,
        type_id: int = 0,
        uid: int = 0,
    ) -> None:
        self.kind = kind
        self.num = num
        self.off = off
        self.id = id
        self.flags = flags
        self.fd = fd
        self.size = size
        self.rng = rng
        self.ref = ref
        self.frame = frame
        self.btf = btf
        self.type_id = type_id
        self.uid = uid

    def same(self, num: Num, off: int, id: int, flags: int, rng: int) -> "Reg":
        """The same kind of pointer at another place."""
        return Reg(self.kind, num, off, id, flags, self.fd, self.size, rng, self.ref, self.frame, self.btf, self.type_id, self.uid)

    def moved(self, num: Num, off: int) -> "Reg":
        """The pointer with another offset."""
        return self.same(num, off, self.id, self.flags, self.rng)

    def flagged(self, flags: int) -> "Reg":
        """The same with other flags."""
        return self.same(self.num, self.off, self.id, flags, self.rng)

    def with_id(self, id: int) -> "Reg":
        """The same with another id."""
        return self.same(self.num, self.off, id, self.flags, self.rng)

    @property
    def is_pointer(self) -> bool:
        """Whether it points somewhere."""
        return self.kind > SCALAR

    @property
    def maybe_null(self) -> bool:
        """Whether it may be null."""
        return self.flags & MAYBE_NULL != 0

    @property
    def is_null(self) -> bool:
        """Whether it is the number 0."""
        return self.kind == SCALAR and not self.num.mask and not self.num.value

    @property
    def const(self) -> int | None:
        """The number that it surely is, 0 to 2^64 - 1."""
        return self.num.value if self.kind == SCALAR and not self.num.mask else None

    @property
    def name(self) -> str:
        """Linux's name of the type."""
        text = _NAMES[self.kind]
        for flag, prefix in reversed(_PREFIXES):
            if self.flags & flag and self.kind != SCALAR:
                text = prefix + text
        if self.flags & MAYBE_NULL:
            text += "or_null_" if self.kind == BTF_ID else "_or_null"
        return text

    def text(self, frame: int, *, precise: bool = False, map_text: str = "") -> str:
        """The register as the log of Linux shows it in a function of depth `frame`."""
        if self.kind == SCALAR:
            mark = "P" if precise else ""
            if not self.num.mask:
                return mark + signed_text(s64(self.num.value))
        else:
            mark = ""
        out = mark + self.name
        if self.kind == ARENA:
            return out
        if self.kind == STACK:
            if self.frame != frame:
                out += f"[{self.frame}]"
            if not self.num.mask:
                return out + signed_text(self.off + s64(self.num.value))
        if self.kind == BTF_ID and self.btf is not None:
            out += self.btf.type(self.type_id).name
        parts: list[str] = []
        if self.id:
            text = f"id={self.id}"
            if self.flags & ANY_LINK:
                text += f"{self.off:+d}"
            parts.append(text)
        if self.ref:
            parts.append(f"ref_obj_id={self.ref}")
        if map_text:
            parts.append(map_text)
        if self.kind != SCALAR and self.off:
            parts.append("off=" + signed_text(self.off))
        if self.kind in (PACKET, PACKET_META):
            parts.append("r=" + unsigned_text(self.rng & ((1 << 64) - 1)))
        if self.kind == MEM:
            parts.append("sz=" + unsigned_text(self.size))
        if not self.num.mask:
            if self.num.value:
                parts.append("imm=" + signed_text(s64(self.num.value)))
        else:
            more = ranges(self.num)
            if more:
                parts.append(more)
        return f"{out}({','.join(parts)})"

    def __repr__(self) -> str:
        return self.text(self.frame)


def equal(a: Reg, b: Reg) -> bool:
    """Whether two registers hold the same but for their ids."""
    return a is b or (
        a.kind == b.kind
        and a.off == b.off
        and a.flags == b.flags
        and a.fd == b.fd
        and a.uid == b.uid
        and a.size == b.size
        and a.rng == b.rng
        and a.frame == b.frame
        and a.type_id == b.type_id
        and a.btf is b.btf
        and a.num == b.num
    )


NOTHING: Final = Reg(NOT_INIT, UNKNOWN)
ANY: Final = Reg(SCALAR, UNKNOWN)
NULL: Final = Reg(SCALAR, ZERO)
#: What is left of a packet pointer after the packet moved: a number, but one whose use has a reason of its own.
VOID_PACKET: Final = Reg(SCALAR, UNKNOWN)
_CONSTANTS: dict[int, Reg] = {}


def constant(x: int) -> Reg:
    """A register with the number `x`."""
    x &= (1 << 64) - 1
    found = _CONSTANTS.get(x)
    if found is None:
        found = Reg(SCALAR, known(x))
        if len(_CONSTANTS) < 4096:
            _CONSTANTS[x] = found
    return found


def number(num: Num) -> Reg:
    """A register with a number."""
    if not num.mask:
        return constant(num.value)
    return Reg(SCALAR, num)


def offset_text(num: Num) -> str:
    """The bits of an offset, as messages show them."""
    return bits_text(num.value, num.mask) if num.mask else unsigned_text(num.value)
