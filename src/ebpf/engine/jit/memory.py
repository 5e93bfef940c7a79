"""Loads, stores and atomic operations as IR."""

from ebpf.engine.jit.writer import Writer, signed
from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, FETCH, Atomic, Class, Mode, Size

_RMW = {Atomic.ADD: "add", Atomic.OR: "or", Atomic.AND: "and", Atomic.XOR: "xor"}


class Memory(Writer):
    """Writes what reads and writes memory. All addresses come from `_pointer`."""

    def _load(self, insn: Insn, slot: int) -> None:
        bits = 8 * BYTES[Size(insn.opcode & 0x18)]
        mode = insn.opcode & 0xE0
        value = self._new(f"load i{bits}, ptr {self._pointer(insn.src, insn.off, bits // 8, slot)}, align 1")
        if mode == Mode.MEMSX and bits < 64:
            self._set(insn.dst, self._new(f"sext i{bits} {value} to i64"))
        elif mode == Mode.MEM:
            self._set(insn.dst, value, bits)
        else:
            raise self._refuse(f"load of mode {mode:#x}", slot)

    def _store(self, insn: Insn, slot: int) -> None:
        bits = 8 * BYTES[Size(insn.opcode & 0x18)]
        mode = insn.opcode & 0xE0
        atomic = insn.opcode & 7 == Class.STX and mode == Mode.ATOMIC
        if atomic and insn.imm == Atomic.LOAD_ACQ:
            source = self._pointer(insn.src, insn.off, bits // 8, slot)
            self._set(insn.dst, self._new(f"load atomic i{bits}, ptr {source} acquire, align {bits // 8}"), bits)
            return
        pointer = self._pointer(insn.dst, insn.off, bits // 8, slot, atomic=atomic)
        if insn.opcode & 7 == Class.ST:
            self._emit(f"store i{bits} {signed(insn.imm, bits)}, ptr {pointer}, align 1")
        elif mode == Mode.MEM:
            self._emit(f"store i{bits} {self._get(insn.src, bits)}, ptr {pointer}, align 1")
        elif atomic:
            self._atomic(insn, slot, bits, pointer)
        else:
            raise self._refuse(f"store of mode {mode:#x}", slot)

    def _atomic(self, insn: Insn, slot: int, bits: int, pointer: str) -> None:
        t, align = f"i{bits}", bits // 8
        value = self._get(insn.src, bits)
        if insn.imm == Atomic.STORE_REL:
            self._emit(f"store atomic {t} {value}, ptr {pointer} release, align {align}")
        elif insn.imm == Atomic.XCHG:
            self._set(insn.src, self._new(f"atomicrmw xchg ptr {pointer}, {t} {value} seq_cst, align {align}"), bits)
        elif insn.imm == Atomic.CMPXCHG:
            expected = self._get(0, bits)
            pair = self._new(f"cmpxchg ptr {pointer}, {t} {expected}, {t} {value} seq_cst seq_cst, align {align}")
            self._set(0, self._new(f"extractvalue {{ {t}, i1 }} {pair}, 0"), bits)
        elif insn.imm & ~FETCH in _RMW:
            order = "seq_cst" if insn.imm & FETCH else "monotonic"
            name = _RMW[Atomic(insn.imm & ~FETCH)]
            old = self._new(f"atomicrmw {name} ptr {pointer}, {t} {value} {order}, align {align}")
            if insn.imm & FETCH:
                self._set(insn.src, old, bits)
        else:
            raise self._refuse(f"atomic operation {insn.imm:#x}", slot)

    def _pointer(self, register: int, offset: int, size: int, slot: int, *, atomic: bool = False) -> str:
        """A pointer to `size` bytes at a register's address and `offset`, for the instruction at `slot`."""
        if register == 10:
            return self._new(f"getelementptr i8, ptr %top, i64 {offset}")
        if register in self._frame:
            return self._new(f"getelementptr i8, ptr %top, i64 {self._frame[register] + offset}")
        base = self._new(f"getelementptr i8, ptr %memory, i64 {self._get(register)}")
        return self._new(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base
