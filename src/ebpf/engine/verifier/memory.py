"""Loads and stores: what a pointer may reach, and what comes back."""

from ebpf.engine.program import Code, MapDesc
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.scalar import Scalar, known, truncate, unsigned_range
from ebpf.engine.verifier.state import ANY_SCALAR, INVALID, MISC, ZERO, Kind, Reg, Slot, State
from ebpf.uapi import CONTEXTS, PROGRAM_TYPES, Context, FieldKind, MapFlag, ProgType

_STACK = 512
_EMPTY = (INVALID,) * 8
_TRACEPOINT_BYTES = 8192
_POINTER = {FieldKind.PACKET: Kind.PACKET, FieldKind.PACKET_END: Kind.PACKET_END, FieldKind.PACKET_META: Kind.PACKET_META}
_WRITES_PACKETS = frozenset({ProgType.XDP, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.LWT_XMIT, ProgType.SK_SKB, ProgType.SK_MSG})


def inner_fd(fd: int) -> int:
    """What stands for the inner maps of the map of maps `fd`, and back: which one it is, is known only when the program runs."""
    return ~fd


class Memory:
    """The rules of memory for one program; remembers context accesses and how deep each function's stack goes."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._type = ProgType(code.prog_type)
        self._row = PROGRAM_TYPES[self._type]
        self._context: Context | None = CONTEXTS.get(self._row.context)
        self._context_name = self._row.context
        self.ctx_access: dict[int, tuple[int, int]] = {}
        self.pointer_kinds: dict[int, Kind] = {}
        self.depth: dict[int, int] = {}

    def map_of(self, reg: Reg) -> MapDesc:
        """The map that a register's pointer belongs to."""
        if reg.fd < 0:
            inner = self._code.maps[inner_fd(reg.fd)].inner
            assert inner is not None
            return inner
        return self._code.maps[reg.fd]

    # -- entry points

    def load(self, state: State, slot: int, number: int, off: int, size: int) -> Reg:
        """What a load of `size` bytes through register `number` gives."""
        reg = state.regs[number]
        self._same_kind(slot, reg, number)
        if reg.kind == Kind.STACK:
            return self._load_stack(state, reg, off, size, slot)
        if reg.kind == Kind.CTX:
            return self._load_ctx(reg, number, off, size, slot)
        self.check(reg, number, off, size, slot, write=False)
        return _sized(size)

    def store(self, state: State, slot: int, number: int, off: int, size: int, value: Reg) -> None:
        """Check a store of `size` bytes of `value` through register `number` and carry it out on the stack."""
        reg = state.regs[number]
        self._same_kind(slot, reg, number)
        if reg.kind == Kind.STACK:
            self._store_stack(state, reg, off, size, value, slot)
        elif reg.kind == Kind.CTX:
            self._store_ctx(reg, number, off, size, slot)
        else:
            if value.is_pointer and reg.kind != Kind.MAP_VALUE:
                raise Refusal("a pointer would leak into memory that others can read", f"R{number} leaks addr into mem", slot)
            self.check(reg, number, off, size, slot, write=True)

    def _same_kind(self, slot: int, reg: Reg, number: int) -> None:
        if not reg.is_pointer or reg.null:
            what = f"R{number} invalid mem access '{reg.name}'"
            if reg.null:
                raise Refusal(f"r{number} may be null here: test it before it is used", what, slot)
            cause = "an address must be a pointer; this is a number"
            if reg.kind == Kind.NOT_INIT:
                cause, what = f"r{number} was never written on this path", f"R{number} !read_ok"
            raise Refusal(cause, what, slot)
        # Context accesses are rewritten at load, so that a place must always mean the context or never.
        kind = Kind.CTX if reg.kind == Kind.CTX else Kind.STACK
        if self.pointer_kinds.setdefault(slot, kind) != kind:
            raise Refusal(
                "the same access means the context on one path and other memory on another",
                "same insn cannot be used with different pointers",
                slot,
            )

    # -- memory with bounds

    def check(self, reg: Reg, number: int, off: int, size: int, slot: int, *, write: bool) -> None:
        """Check an access of `size` bytes at `off` through a pointer that is neither context nor stack."""
        num, start = reg.num, reg.off + off
        if reg.kind in (Kind.MAP_PTR, Kind.PACKET_END, Kind.CTX):
            raise Refusal(f"a {reg.name} pointer cannot be read or written through", f"R{number} invalid mem access '{reg.name}'", slot)
        if num.smin < 0:
            raise Refusal(
                f"the offset in r{number} may be negative (as low as {num.smin})",
                f"R{number} min value is negative, either use unsigned index or do a if (index >=0) check.",
                slot,
            )
        if reg.kind in (Kind.PACKET, Kind.PACKET_META):
            self._check_packet(reg, number, start, size, slot, write=write)
            return
        whole = self.map_of(reg).value_size if reg.kind == Kind.MAP_VALUE else reg.size
        what = "map value" if reg.kind == Kind.MAP_VALUE else "memory"
        if start + num.umin < 0 or start + num.umax + size > whole or num.umax > 1 << 29:
            reach = f"byte {start + num.umax + size - 1}" if num.umax <= 1 << 29 else "any byte"
            raise Refusal(
                f"the access may reach {reach} of a {what} of {whole} bytes",
                f"invalid access to {what}, value_size={whole} off={start + num.umax if num.umax < 1 << 32 else start} size={size}",
                slot,
            )
        if reg.kind == Kind.MAP_VALUE:
            flags = self.map_of(reg).flags
            if write and flags & MapFlag.RDONLY_PROG:
                raise Refusal(
                    "the map is read-only for programs",
                    f"write into map forbidden, value_size={whole} off={start} size={size}",
                    slot,
                )
            if not write and flags & MapFlag.WRONLY_PROG:
                raise Refusal(
                    "the map is write-only for programs",
                    f"read from map forbidden, value_size={whole} off={start} size={size}",
                    slot,
                )

    def _check_packet(self, reg: Reg, number: int, start: int, size: int, slot: int, *, write: bool) -> None:
        if write and self._type not in _WRITES_PACKETS:
            raise Refusal("programs of this type may not write to packets", "cannot write into packet", slot)
        if start < 0 or start + size > reg.rng:
            raise Refusal(
                f"bytes {start} to {start + size - 1} of the packet are needed, {reg.rng} are proved to be there: "
                "compare with data_end first",
                f"invalid access to packet, off={start} size={size}, R{number}(id={reg.id},off={reg.off},r={reg.rng})",
                slot,
            )

    def region(self, state: State, reg: Reg, number: int, size: Scalar, slot: int, *, write: bool, init: bool) -> None:
        """Check `size` (at most size.umax) bytes of memory that a helper is given; `init`: it reads them."""
        most = size.umax
        if not reg.is_pointer or reg.null:
            raise Refusal(
                f"argument {number} must point to memory, it is {'possibly null' if reg.null else 'a number'}",
                f"R{number} type={reg.name} expected=fp, pkt, pkt_meta, map_key, map_value, mem",
                slot,
            )
        if not most:
            return
        if reg.kind == Kind.STACK:
            self._stack_region(state, reg, number, most, slot, write=write, init=init)
        else:
            self.check(reg, number, 0, most, slot, write=write)

    # -- the context

    def _load_ctx(self, reg: Reg, number: int, off: int, size: int, slot: int) -> Reg:
        at = self._ctx_place(reg, number, off, size, slot)
        context = self._context
        if context is None:
            if self._type == ProgType.TRACEPOINT and at >= 0 and at + size <= _TRACEPOINT_BYTES and at % size == 0:
                return _sized(size)
            raise self._bad_ctx(at, size, slot)
        if context.words:
            if at >= 0 and at + size <= context.size and size == 8 and at % 8 == 0:
                return ANY_SCALAR
            raise self._bad_ctx(at, size, slot)
        for field in context.fields:
            if field.offset <= at and at + size <= field.offset + field.size:
                if field.kind == FieldKind.POINTER or field.name in self._row.hidden:
                    break
                if field.kind in _POINTER:
                    if at != field.offset or size != field.size:
                        break
                    return Reg(_POINTER[field.kind])
                if at % size or (size < field.size and not field.narrow):
                    break
                return _sized(size)
        raise self._bad_ctx(at, size, slot)

    def _store_ctx(self, reg: Reg, number: int, off: int, size: int, slot: int) -> None:
        at = self._ctx_place(reg, number, off, size, slot)
        for field in self._context.fields if self._context is not None else ():
            if field.offset == at and field.size == size and field.writable and self._may_write(field.name):
                return
        raise self._bad_ctx(at, size, slot)

    def _may_write(self, name: str) -> bool:
        return name in self._row.writes if self._row.writes is not None else name not in self._row.hidden

    def _ctx_place(self, reg: Reg, number: int, off: int, size: int, slot: int) -> int:
        if reg.num.const != 0:
            raise Refusal(
                "the context is read at an offset that is not constant",
                f"variable ctx access var_off={reg.num!r} off={reg.off + off} size={size}",
                slot,
            )
        at = reg.off + off
        if self.ctx_access.setdefault(slot, (at, size)) != (at, size):
            raise Refusal(
                "the same instruction reads different fields of the context on different paths",
                f"dereference of modified ctx ptr R{number} off={at} disallowed",
                slot,
            )
        return at

    def _bad_ctx(self, at: int, size: int, slot: int) -> Refusal:
        near = ""
        if self._context is not None and self._context.fields:
            field = min(self._context.fields, key=lambda f: abs(f.offset - at))
            near = f"; the nearest field is {field.name} (offset {field.offset}, {field.size} bytes)"
        name = f"struct {self._context_name}" if self._context_name else "the context"
        return Refusal(
            f"{name} has nothing that may be used so at offset {at}, {size} bytes{near}",
            f"invalid bpf_context access off={at} size={size}",
            slot,
        )

    # -- the stack

    def _stack_place(self, state: State, reg: Reg, off: int, size: int, slot: int) -> tuple[int, int]:
        """The lowest and highest offset from the frame's top at which an access may begin."""
        low, high = reg.off + off + reg.num.smin, reg.off + off + reg.num.smax
        if low < -_STACK or high + size > 0:
            where = f"off={low}" if low == high else f"var_off={reg.num!r} off={reg.off + off}"
            raise Refusal(
                f"the access leaves the stack of {_STACK} bytes",
                f"invalid {'variable-offset ' if low != high else ''}access to stack {where} size={size}",
                slot,
            )
        start = state.frames[reg.frame].start
        self.depth[start] = max(self.depth.get(start, 0), -low)
        return low, high

    def _load_stack(self, state: State, reg: Reg, off: int, size: int, slot: int) -> Reg:
        low, high = self._stack_place(state, reg, off, size, slot)
        stack = state.frames[reg.frame].stack
        if low == high and size == 8 and low % 8 == 0 and isinstance(whole := stack.get(low), Reg):
            return whole
        if low == high:
            at = low // 8 * 8
            spilled = stack.get(at)
            if isinstance(spilled, Reg) and at == low and spilled.kind == Kind.SCALAR:
                return Reg(Kind.SCALAR, truncate(spilled.num, size * 8))
        zero = True
        for byte in range(low, high + size):
            at = byte // 8 * 8
            held = stack.get(at, _EMPTY)
            if isinstance(held, Reg):
                if held.is_pointer:
                    raise Refusal("part of a pointer is read from the stack", f"invalid read from stack off {byte}+0 size {size}", slot)
                zero = False
            elif held[byte - at] == INVALID:
                raise Refusal(
                    f"the stack is read at offset {byte}, where nothing was written",
                    f"invalid read from stack off {low}+{byte - low} size {size}",
                    slot,
                )
            elif held[byte - at] != ZERO:
                zero = False
        return Reg(Kind.SCALAR, known(0)) if zero else _sized(size)

    def _store_stack(self, state: State, reg: Reg, off: int, size: int, value: Reg, slot: int) -> None:
        low, high = self._stack_place(state, reg, off, size, slot)
        stack = state.frames[reg.frame].stack
        if low == high and size == 8 and low % 8 == 0:
            stack[low] = value
            return
        if value.is_pointer:
            raise Refusal(
                "a pointer is stored in part, or not at a multiple of 8",
                f"attempt to corrupt spilled pointer on stack, size {size}",
                slot,
            )
        tag = ZERO if low == high and value.num.const is not None and value.num.const & ((1 << 8 * size) - 1) == 0 else MISC
        self.smear(stack, low, high + size, tag, slot, exact=low == high)

    def smear(self, stack: dict[int, Slot], low: int, high: int, tag: int, slot: int, *, exact: bool) -> None:
        """Mark bytes [low, high) as written with something; unless `exact`, only some of them are, and none becomes initialised."""
        for byte in range(low, high):
            at = byte // 8 * 8
            held = stack.get(at, _EMPTY)
            if isinstance(held, Reg):
                if held.is_pointer and (at < low or at + 8 > high):
                    raise Refusal("a pointer on the stack is overwritten in part", "attempt to corrupt spilled pointer on stack", slot)
                held = (MISC,) * 8
            row = list(held)
            if exact or row[byte - at] != INVALID:
                row[byte - at] = tag
            stack[at] = tuple(row)

    def _stack_region(self, state: State, reg: Reg, number: int, size: int, slot: int, *, write: bool, init: bool) -> None:
        low, high = self._stack_place(state, reg, 0, size, slot)
        stack = state.frames[reg.frame].stack
        if init:
            for byte in range(low, high + size):
                at = byte // 8 * 8
                held = stack.get(at, _EMPTY)
                if not isinstance(held, Reg) and held[byte - at] == INVALID:
                    raise Refusal(
                        f"argument {number} has {size} bytes on the stack, and byte {byte - low} was never written",
                        f"invalid read from stack R{number} off {low}+{byte - low} size {size}",
                        slot,
                    )
        if write:
            for byte in range(low, high + size):
                at = byte // 8 * 8
                held = stack.get(at, _EMPTY)
                row = [MISC] * 8 if isinstance(held, Reg) else list(held)
                if low == high or row[byte - at] != INVALID:
                    row[byte - at] = MISC
                stack[at] = tuple(row)


def _sized(size: int) -> Reg:
    return ANY_SCALAR if size == 8 else Reg(Kind.SCALAR, unsigned_range(0, (1 << 8 * size) - 1))
