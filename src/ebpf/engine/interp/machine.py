"""The interpreter: one row for each opcode says what it does. It is the definition that the JIT is held to."""

import ctypes
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ebpf.engine.interp.memory import Memory, Region
from ebpf.engine.interp.ops import ALU, ATOMIC, JUMP, SIGNED_ALU, Binary, Test, mask, signed, swap
from ebpf.engine.program import Prepared
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.isa import Insn, by_slot, called_register, disasm_one
from ebpf.isa.opcodes import (
    BYTES,
    CALL,
    CALLX,
    EXIT,
    FETCH,
    FP,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
    Alu,
    Atomic,
    Class,
    K,
    Mode,
    Size,
    X,
)
from ebpf.uapi import HELPERS, CallSrc, PseudoSrc

MAX_FRAMES: Final = 8
STACK: Final = 512
MAY_GOTO_LIMIT: Final = 1 << 23
_FULL: Final = mask(64)
_TAIL_CALL: Final = 12
#: An address that nothing has: what ld_imm64 of a function gives, with the function's slot in the low bits.
_FUNCTION: Final = 0xEBF0_0000_0000_0000

#: A number of the packet: the context, the offset and how many bytes; negative where there is none.
PacketLoad = Callable[[int, int, int], int]
HelperBody = Callable[[int, int, int, int, int], int]


class InterpreterFault(EbpfError):
    """The program did what it may not at `slot`: a wild access, an endless loop, an instruction that is none."""

    def __init__(self, program: str, slot: int, insn: str, why: str, *, address: int = 0, size: int = 0) -> None:
        self.program, self.slot, self.insn, self.why, self.address, self.size = program, slot, insn, why, address, size
        super().__init__(f"program {program!r} at insn {slot}" + (f", {insn}: " if insn else ": ") + why)


@dataclass(slots=True)
class Frame:
    """A function that runs: where its caller goes on, the caller's r6 to r10, and what is left of its may_goto budget.

    `depth` counts the functions of its program that wait for it, itself included: another program's after a tail call do not.
    """

    back: int
    saved: tuple[int, ...]
    depth: int = 1
    budget: int = MAY_GOTO_LIMIT
    #: The caller's program, where a tail call led into another.
    before: "Program | None" = None


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and where the data of its maps lies by their descriptors: what a tail call goes on in."""

    prepared: Prepared
    map_value: Callable[[int], int] | None = None


class Machine:
    """A program with its registers, stack and memory, run step by step.

    `helpers` maps helper numbers to bodies; `map_value` gives the address of a map's data by its descriptor. A run ends
    with InterpreterFault after `limit` instructions. A helper `unwinds` that returns 0 ends the whole program with 0.
    What a program does to memory is atomic towards Python code alone.
    `tails` gives the program that the helper of tail calls answered with, `packet_load` what LD_ABS and LD_IND load,
    `kernel` calls a function of the kernel's: its number and five arguments.
    """

    def __init__(
        self,
        prepared: Prepared,
        memory: Memory,
        helpers: Mapping[int, HelperBody],
        *,
        limit: int = 10_000_000,
        map_value: Callable[[int], int] | None = None,
        unwinds: int = -1,
        tails: Callable[[int], Program] | None = None,
        packet_load: PacketLoad | None = None,
        kernel: Callable[..., int] | None = None,
    ) -> None:
        if sys.byteorder != "little":
            raise NotSupportedError("the interpreter", "this machine is big-endian")
        self.memory, self.helpers, self.limit = memory, helpers, limit
        self._unwinds, self._tails, self._packet_load, self._kernel = unwinds, tails, packet_load, kernel
        self._first = Program(prepared, map_value)
        self._switch(self._first)
        self._stacks: list[Region] = []
        self.start(0)

    def start(self, ctx: int) -> None:
        """Stand at the first instruction with the context's address in r1."""
        self.registers = [0] * 11
        self.registers[1] = ctx & _FULL
        self.pc = 0
        self.steps = 0
        self._switch(self._first)
        self.frames = [Frame(-1, ())]
        self.registers[FP] = self._fresh_stack()

    @property
    def running(self) -> bool:
        """Whether the program has not reached its exit."""
        return bool(self.frames)

    @property
    def insn(self) -> Insn:
        """The instruction that comes next."""
        insn = self._slots[self.pc] if 0 <= self.pc < len(self._slots) else None
        if insn is None:
            inside = 0 <= self.pc < len(self._slots)
            raise self.fault("the middle of a ld_imm64" if inside else "the program ran past its end", known=False)
        return insn

    def step(self) -> bool:
        """Carry out one instruction; the answer is whether the program goes on."""
        insn = self.insn
        act = OPS.get(insn.opcode)
        if act is None:
            raise self.fault(f"opcode {insn.opcode:#04x} is not an instruction that the interpreter has")
        if self.steps >= self.limit:
            raise self.fault(f"the program did not end within {self.limit} instructions")
        self.steps += 1
        act(self, insn)
        return self.running

    def run(self, ctx: int = 0) -> int:
        """Run from the beginning to the exit; the answer is r0."""
        self.start(ctx)
        while self.step():
            pass
        return self.registers[0]

    def call(self, function: int, *args: int) -> int:
        """Call a function of the program by the value that ld_imm64 gave for it: what a helper does with a callback."""
        slot = function - _FUNCTION
        if not 0 <= slot < len(self._slots):
            raise self.fault(f"{function:#x} is not a function of the program")
        kept, back, depth = self.registers[:], self.pc, len(self.frames)
        self.registers[1:6] = [arg & _FULL for arg in (*args, 0, 0, 0, 0, 0)[:5]]
        self.enter(slot, back)
        while len(self.frames) > depth:
            self.step()
        result, self.registers = self.registers[0], kept
        return result

    def call_helper(self, number: int) -> None:
        """Call a helper with r1 to r5; its result is r0."""
        body = self.helpers.get(number)
        if body is None:
            name = HELPERS[number].name if number in HELPERS else f"#{number}"
            raise NotSupportedError(f"insn {self.pc} of program {self.prepared.name!r}", f"helper {name} has no body here")
        result = body(self.registers[1], self.registers[2], self.registers[3], self.registers[4], self.registers[5])
        if number == _TAIL_CALL and result:
            self.tail(result)
            return
        self.set(0, result)
        self.pc += 1
        if number == self._unwinds and not self.registers[0]:
            self.frames.clear()

    def call_kernel(self, number: int) -> None:
        """Call a function of the kernel's with r1 to r5; its result is r0."""
        if self._kernel is None:
            raise NotSupportedError(f"insn {self.pc} of program {self.prepared.name!r}", "there are no kernel functions here")
        self.set(0, self._kernel(number, *self.registers[1:6]))
        self.pc += 1

    def call_register(self, insn: Insn) -> None:
        """Call what a register holds: a function of the program, or a helper by its number."""
        value = self.registers[called_register(insn)]
        slot = value - _FUNCTION
        if 0 <= slot < len(self._slots):
            self.enter(slot, self.pc + 1)
        elif value in self.helpers:
            self.call_helper(value)
        else:
            raise self.fault(f"call of {value:#x}, which is no function of the program and no helper")

    # -- what the rows of OPS are made of

    def fault(self, why: str, *, address: int = 0, size: int = 0, known: bool = True) -> InterpreterFault:
        """A fault at the instruction that runs."""
        text = disasm_one(self.insn, self.pc) if known else ""
        return InterpreterFault(self.prepared.name, self.pc, text, why, address=address, size=size)

    def set(self, register: int, value: int) -> None:
        """Set a register to the low 64 bits of a number; r10 is read-only."""
        if register >= FP:
            raise self.fault(f"r{register} cannot be written")
        self.registers[register] = value & _FULL

    def load(self, address: int, size: int) -> int:
        """The number at a checked address."""
        return self.memory.read(self._checked(address, size, writing=False), size)

    def store(self, address: int, size: int, value: int) -> None:
        """Store a number at a checked address."""
        self.memory.write(self._checked(address, size, writing=True), size, value & mask(8 * size))

    def _checked(self, address: int, size: int, *, writing: bool) -> int:
        address &= _FULL
        why = self.memory.why_not(address, size, writing=writing)
        if why:
            verb = "write" if writing else "read"
            raise self.fault(f"{verb} of {size} bytes at {address:#x}: {why}", address=address, size=size)
        return address

    def enter(self, slot: int, back: int) -> None:
        """Begin a function at `slot`; its exit goes on at `back`."""
        depth = self.frames[-1].depth + 1 if self.frames else 1
        if depth > MAX_FRAMES:
            raise self.fault(f"calls nest deeper than {MAX_FRAMES} functions")
        self.frames.append(Frame(back, tuple(self.registers[6:]), depth))
        self.registers[FP] = self._fresh_stack()
        self.pc = slot

    def _switch(self, program: Program) -> None:
        self._program = program
        self.prepared = program.prepared
        self._map_value = program.map_value
        self._slots = by_slot(program.prepared.insns)

    def tail(self, target: int) -> None:
        """Go on in another program; its exit is that of the function that called."""
        if self._tails is None:
            raise NotSupportedError(f"insn {self.pc} of program {self.prepared.name!r}", "tail calls lead nowhere here")
        frame = self.frames[-1]
        frame.before = frame.before or self._program
        frame.budget, frame.depth = MAY_GOTO_LIMIT, 1
        self._switch(self._tails(target))
        self.registers[FP] = self._fresh_stack()
        self.pc = 0

    def load_packet(self, offset: int, size: int) -> None:
        """Load a number of the packet into r0; where there is none, the function ends with 0."""
        if self._packet_load is None:
            raise NotSupportedError(f"insn {self.pc} of program {self.prepared.name!r}", "there is no packet here")
        value = self._packet_load(self.registers[6], offset, size)
        self.set(0, max(value, 0))
        if value < 0:
            self.leave()
        else:
            self.pc += 1

    def leave(self) -> None:
        """End a function, or the program."""
        frame = self.frames.pop()
        if frame.before is not None:
            self._switch(frame.before)
        if frame.saved:
            self.registers[6:] = frame.saved
            self.pc = frame.back

    def _fresh_stack(self) -> int:
        """The top of the stack of the frame that was just pushed, cleared. Stacks do not touch each other."""
        place = len(self.frames) - 1
        if place == len(self._stacks):
            stack = (ctypes.c_uint64 * (STACK // 8 + 2))()
            base = ctypes.addressof(stack) + 8
            self._stacks.append(self.memory.add(base, STACK, writable=True, name=f"stack of frame {place}", keep=stack))
        region = self._stacks[place]
        ctypes.memset(region.base, 0, region.size)
        return region.base + region.size

    def wide(self, insn: Insn) -> int:
        """The value of a ld_imm64."""
        if insn.src == PseudoSrc.NONE:
            return (insn.imm & mask(32)) | (insn.imm_hi & mask(32)) << 32
        if insn.src == PseudoSrc.FUNC:
            return _FUNCTION + self.pc + 1 + insn.imm
        if insn.src == PseudoSrc.MAP_FD and insn.imm in self.prepared.maps:
            return self.prepared.maps[insn.imm].address
        if insn.src == PseudoSrc.MAP_VALUE and self._map_value is not None:
            return self._map_value(insn.imm) + insn.imm_hi
        raise self.fault(f"ld_imm64 of kind {insn.src} with {insn.imm} means nothing here")


Op = Callable[[Machine, Insn], None]


def _alu(compute: Binary, compute_signed: Binary | None, bits: int, *, register: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        right = (m.registers[insn.src] if register else insn.imm) & mask(bits)
        left = m.registers[insn.dst] & mask(bits)
        function = compute_signed if insn.off == 1 and compute_signed is not None else compute
        m.set(insn.dst, function(left, right, bits) & mask(bits))
        m.pc += 1

    return act


def _mov(bits: int, *, register: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        value = m.registers[insn.src] if register else insn.imm
        if register and insn.off:
            if insn.off not in (8, 16, 32):
                raise m.fault(f"move with offset {insn.off} is not built yet")
            value = signed(value, insn.off)
        m.set(insn.dst, value & mask(bits))
        m.pc += 1

    return act


def _neg(bits: int) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        m.set(insn.dst, -m.registers[insn.dst] & mask(bits))
        m.pc += 1

    return act


def _end(*, reverse: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        if insn.imm not in (16, 32, 64):
            raise m.fault(f"byte order of {insn.imm} bits")
        value = m.registers[insn.dst]
        m.set(insn.dst, swap(value, insn.imm) if reverse else value & mask(insn.imm))
        m.pc += 1

    return act


def _jump(test: Test, bits: int, *, register: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        right = (m.registers[insn.src] if register else insn.imm) & mask(bits)
        left = m.registers[insn.dst] & mask(bits)
        m.pc += 1 + (insn.off if test(left, right, bits) else 0)

    return act


def _ja(m: Machine, insn: Insn) -> None:
    m.pc += 1 + insn.off


def _gotol(m: Machine, insn: Insn) -> None:
    m.pc += 1 + insn.imm


def _may_goto(m: Machine, insn: Insn) -> None:
    """Fall through while there is budget; jump (out of the loop) when it is used up."""
    frame = m.frames[-1]
    spent = frame.budget == 0
    frame.budget -= not spent
    m.pc += 1 + (insn.off if spent else 0)


def _call(m: Machine, insn: Insn) -> None:
    if insn.src == CallSrc.PSEUDO_CALL:
        m.enter(m.pc + 1 + insn.imm, m.pc + 1)
        return
    if insn.src == CallSrc.KFUNC_CALL:
        m.call_kernel(insn.imm)
        return
    if insn.src != CallSrc.HELPER:
        raise m.fault(f"a call of kind {insn.src}")
    m.call_helper(insn.imm)


def _callx(m: Machine, insn: Insn) -> None:
    m.call_register(insn)


def _exit(m: Machine, insn: Insn) -> None:
    del insn
    m.leave()


def _ld_imm64(m: Machine, insn: Insn) -> None:
    m.set(insn.dst, m.wide(insn))
    m.pc += 2


def _load(size: int, *, extend: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        value = m.load(m.registers[insn.src] + insn.off, size)
        m.set(insn.dst, signed(value, 8 * size) if extend else value)
        m.pc += 1

    return act


def _packet(size: int, *, register: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        m.load_packet(signed((m.registers[insn.src] if register else 0) + insn.imm, 32), size)

    return act


def _store(size: int, *, register: bool) -> Op:
    def act(m: Machine, insn: Insn) -> None:
        m.store(m.registers[insn.dst] + insn.off, size, m.registers[insn.src] if register else insn.imm)
        m.pc += 1

    return act


def _atomic(size: int) -> Op:
    """The widths that RFC 9669 allows a read-modify-write are 4 and 8; load-acquire and store-release take all."""

    def act(m: Machine, insn: Insn) -> None:
        bits = 8 * size
        if insn.imm == Atomic.LOAD_ACQ:
            m.set(insn.dst, m.load(m.registers[insn.src] + insn.off, size))
            m.pc += 1
            return
        address, by = m.registers[insn.dst] + insn.off, m.registers[insn.src] & mask(bits)
        if insn.imm == Atomic.STORE_REL:
            m.store(address, size, by)
            m.pc += 1
            return
        if size < 4:
            raise m.fault(f"atomic operation {insn.imm:#x} on {size} bytes")
        if address % size:
            raise m.fault(f"atomic operation at {address:#x}: not aligned to {size} bytes", address=address, size=size)
        old = m.load(address, size)
        if insn.imm == Atomic.XCHG:
            m.store(address, size, by)
            m.set(insn.src, old)
        elif insn.imm == Atomic.CMPXCHG:
            m.store(address, size, by if old == m.registers[0] & mask(bits) else old)
            m.set(0, old)
        elif insn.imm & ~FETCH in ATOMIC:
            m.store(address, size, ATOMIC[Atomic(insn.imm & ~FETCH)](old, by))
            if insn.imm & FETCH:
                m.set(insn.src, old)
        else:
            raise m.fault(f"atomic operation {insn.imm:#x} is none")
        m.pc += 1

    return act


def _rows() -> dict[int, Op]:
    rows: dict[int, Op] = {
        LD_IMM64: _ld_imm64,
        JA: _ja,
        GOTOL: _gotol,
        MAY_GOTO: _may_goto,
        CALL: _call,
        CALLX: _callx,
        EXIT: _exit,
        Class.ALU | Alu.END | K: _end(reverse=False),
        Class.ALU | Alu.END | X: _end(reverse=True),
        Class.ALU64 | Alu.END | K: _end(reverse=True),
    }
    for kind, jump, bits in ((Class.ALU, Class.JMP32, 32), (Class.ALU64, Class.JMP, 64)):
        rows[kind | Alu.NEG] = _neg(bits)
        for source in (K, X):
            rows[kind | Alu.MOV | source] = _mov(bits, register=source == X)
            for op, compute in ALU.items():
                rows[kind | op | source] = _alu(compute, SIGNED_ALU.get(op), bits, register=source == X)
            for condition, test in JUMP.items():
                rows[jump | condition | source] = _jump(test, bits, register=source == X)
    for size, width in BYTES.items():
        rows[Class.LDX | Mode.MEM | size] = _load(width, extend=False)
        if size != Size.DW:
            rows[Class.LDX | Mode.MEMSX | size] = _load(width, extend=True)
            rows[Class.LD | Mode.ABS | size] = _packet(width, register=False)
            rows[Class.LD | Mode.IND | size] = _packet(width, register=True)
        rows[Class.ST | Mode.MEM | size] = _store(width, register=False)
        rows[Class.STX | Mode.MEM | size] = _store(width, register=True)
        rows[Class.STX | Mode.ATOMIC | size] = _atomic(width)
    return rows


#: What each opcode does.
OPS: Final[Mapping[int, Op]] = _rows()
