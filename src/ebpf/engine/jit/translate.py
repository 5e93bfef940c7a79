"""Instructions to LLVM IR text: one function for each subprogram, one alloca for each register, one block for each leader.

Map, helper and data addresses come out of a table in the image that the loader fills, so that an image can be cached.
"""

from dataclasses import dataclass
from typing import Final

from ebpf.engine.program import Prepared
from ebpf.engine.runtime.abi import Env
from ebpf.errors import NotSupportedError
from ebpf.isa import Insn, by_slot
from ebpf.isa.opcodes import (
    BYTES,
    CALL,
    CALLX,
    EXIT,
    FETCH,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
    Alu,
    Atomic,
    Class,
    Jmp,
    Mode,
    Size,
)
from ebpf.uapi import HELPERS, CallSrc, MapType, PseudoSrc

_MAY_GOTO_LIMIT = 1 << 23
_TAIL_CALL = 12
#: The helper that keeps a function of the program: it is told whose it is.
_SET_CALLBACK = 170
ADD64_IMM: Final = Class.ALU64 | Alu.ADD
MOV64_REG: Final = Class.ALU64 | Alu.MOV | 8
_BINARY = {
    Alu.ADD: "add",
    Alu.SUB: "sub",
    Alu.MUL: "mul",
    Alu.OR: "or",
    Alu.AND: "and",
    Alu.XOR: "xor",
    Alu.LSH: "shl",
    Alu.RSH: "lshr",
    Alu.ARSH: "ashr",
}
_COMPARE = {
    Jmp.JEQ: "eq",
    Jmp.JNE: "ne",
    Jmp.JGT: "ugt",
    Jmp.JGE: "uge",
    Jmp.JLT: "ult",
    Jmp.JLE: "ule",
    Jmp.JSGT: "sgt",
    Jmp.JSGE: "sge",
    Jmp.JSLT: "slt",
    Jmp.JSLE: "sle",
}
#: The functions of the runtime that instructions become calls of.
RUNTIME: Final = ("rt_skb_load",)
#: The helpers that a hash has a body of its own for.
_OF_HASH = frozenset({"map_lookup_elem", "map_update_elem", "map_delete_elem"})
_RMW = {Atomic.ADD: "add", Atomic.OR: "or", Atomic.AND: "and", Atomic.XOR: "xor"}


_ENTRY: Final = """define dso_local i64 @entry(ptr %ctx, ptr %env) {
"""
_LEADING_ENTRY: Final = """@next = dso_local global ptr null, align 8
define dso_local i64 @entry(ptr %ctx, ptr %env) {
  %next = load atomic ptr, ptr @next acquire, align 8
  %here = icmp eq ptr %next, null
  br i1 %here, label %first, label %better
better:
  %r = tail call i64 %next(ptr %ctx, ptr %env)
  ret i64 %r
first:
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """What an entry of the image's table holds.

    "helper" (id), "hash" (id: the body of that helper for a map that is known to be a hash), "map" (fd: the header's address),
    "data" (fd: its data's), "runtime" (place in RUNTIME: that function) or "owner" (0: the number that the program is known by).
    """

    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Module:
    """LLVM IR and what its table must be filled with."""

    text: str
    table: tuple[Slot, ...]


def translate(program: Prepared, *, leads: bool = False) -> Module:
    """Translate a prepared program. Raises NotSupportedError for an instruction that is not built yet.

    With `leads` the code goes to other code of the program as soon as its word `next` has that one's address.
    """
    module = Translator(program).module()
    return Module(module.text.replace(_ENTRY, _LEADING_ENTRY, 1), module.table) if leads else module


class Translator:
    """Writes the IR of one program. What it asks of memory goes through `_pointer`; a checked translation is a subclass."""

    def __init__(self, program: Prepared) -> None:
        self._program = program
        self._slots = by_slot(program.insns)
        self._table: dict[Slot, int] = {}
        self._lines: list[str] = []
        self._count = 0
        # Registers that hold an address in the stack, with their distance from r10: known within a block.
        self._frame: dict[int, int] = {}
        self._starts = self._find_functions()

    def module(self) -> Module:
        for place, start in enumerate(self._starts):
            end = self._starts[place + 1] if place + 1 < len(self._starts) else len(self._slots)
            self._function(start, end)
        body = "\n".join(self._lines)
        head = [
            f"@table = dso_local global [{max(len(self._table), 1)} x i64] zeroinitializer, align 8",
            "@memory = dso_local global ptr null, align 8",
            *(f"declare {t} @llvm.bswap.{t}({t})" for t in ("i16", "i32", "i64")),
            "declare i64 @llvm.usub.sat.i64(i64, i64)",
            "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
            _ENTRY.rstrip(),
            "  %r1 = ptrtoint ptr %ctx to i64",
            "  %r0 = call i64 @f0(i64 %r1, i64 0, i64 0, i64 0, i64 0, ptr %env)",
            "  ret i64 %r0",
            "}",
        ]
        return Module("\n".join(head) + "\n" + body + '\n!0 = !{}\n!1 = !{!"branch_weights", i32 2000, i32 1}\n', tuple(self._table))

    # -- structure

    def _find_functions(self) -> list[int]:
        starts = {0}
        for slot, insn in enumerate(self._slots):
            if insn is None:
                continue
            called = insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL
            if called or (insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC):
                starts.add(slot + 1 + insn.imm)
        return sorted(starts)

    def _target(self, slot: int, insn: Insn) -> int:
        return slot + 1 + (insn.imm if insn.opcode == GOTOL else insn.off)

    def _leaders(self, start: int, end: int) -> set[int]:
        leaders = {start}
        for slot in range(start, end):
            insn = self._slots[slot]
            if insn is None or insn.opcode & 7 not in (Class.JMP, Class.JMP32):
                continue
            if insn.opcode in (CALL, CALLX):
                continue
            if insn.opcode != EXIT:
                leaders.add(self._target(slot, insn))
            leaders.add(slot + 1)
        return {slot for slot in leaders if start <= slot < end}

    def _function(self, start: int, end: int) -> None:
        leaders = self._leaders(start, end)
        args = ", ".join(f"i64 %a{i}" for i in range(1, 6))
        self._emit(f"define internal i64 @f{start}({args}, ptr %env) {{", indent="")
        for i in range(10):
            self._emit(f"%R{i} = alloca i64")
        self._prologue(start)
        self._emit("%budget = alloca i64")
        self._emit(f"store i64 {_MAY_GOTO_LIMIT}, ptr %budget")
        for i in range(10):
            self._emit(f"store i64 {f'%a{i}' if 1 <= i <= 5 else '0'}, ptr %R{i}")
        # All memory as one object at address 0, which LLVM must not know to be null: an address that is an integer made a
        # pointer tells it nothing, but an offset into an object it can follow through a loop, and vectorise that.
        self._emit("%memory = load ptr, ptr @memory, !invariant.load !0")
        self._emit(f"br label %b{start}")
        open_block = False
        for slot in range(start, end):
            insn = self._slots[slot]
            if insn is None:
                continue
            if slot in leaders:
                if open_block:
                    self._emit(f"br label %b{slot}")
                self._emit(f"b{slot}:", indent="")
                self._frame.clear()
                open_block = True
            if not open_block:
                continue
            open_block = self._insn(slot, insn)
        if open_block:
            self._past_the_end(end)
        self._emit("}", indent="")

    def _prologue(self, start: int) -> None:
        """The function's stack: %top is its upper end, %R10 the same as a number."""
        depth = (self._program.stack_depth.get(start, 512) + 7) // 8 * 8 or 8
        self._emit(f"%stack = alloca [{depth} x i8], align 16")
        self._emit(f"call void @llvm.memset.p0.i64(ptr align 16 %stack, i8 0, i64 {depth}, i1 false)")
        self._emit(f"%top = getelementptr i8, ptr %stack, i64 {depth}")
        self._emit("%R10 = ptrtoint ptr %top to i64")

    def _past_the_end(self, slot: int) -> None:
        """What follows a function's last instruction: nothing gets there."""
        del slot
        self._emit("unreachable")

    # -- pieces

    def _emit(self, line: str, indent: str = "  ") -> None:
        self._lines.append(indent + line)

    def _new(self, what: str) -> str:
        self._count += 1
        name = f"%v{self._count}"
        self._emit(f"{name} = {what}")
        return name

    def _get(self, register: int, bits: int = 64) -> str:
        value = "%R10" if register == 10 else self._new(f"load i64, ptr %R{register}")
        return value if bits == 64 else self._new(f"trunc i64 {value} to i{bits}")

    def _set(self, register: int, value: str, bits: int = 64) -> None:
        self._frame.pop(register, None)
        if bits < 64:
            value = self._new(f"zext i{bits} {value} to i64")
        self._emit(f"store i64 {value}, ptr %R{register}")

    def _pointer(self, register: int, offset: int, size: int, slot: int, *, atomic: bool = False) -> str:
        """A pointer to `size` bytes at a register's address and `offset`, for the instruction at `slot`."""
        if register == 10:
            return self._new(f"getelementptr i8, ptr %top, i64 {offset}")
        if register in self._frame:
            return self._new(f"getelementptr i8, ptr %top, i64 {self._frame[register] + offset}")
        base = self._new(f"getelementptr i8, ptr %memory, i64 {self._get(register)}")
        return self._new(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base

    def _entry(self, kind: str, number: int) -> str:
        """The value of a table entry: the same for the whole life of the image."""
        place = self._table.setdefault(Slot(kind, number), len(self._table))
        at = self._new(f"getelementptr [{1 << 16} x i64], ptr @table, i64 0, i64 {place}")
        return self._new(f"load i64, ptr {at}, !invariant.load !0")

    def _refuse(self, what: str, slot: int) -> NotSupportedError:
        return NotSupportedError(f"insn {slot} of program {self._program.name!r}", f"{what} is not built yet")

    # -- instructions

    def _insn(self, slot: int, insn: Insn) -> bool:
        """Emit one instruction; the answer is whether the block goes on."""
        kind = insn.opcode & 7
        if kind in (Class.ALU, Class.ALU64):
            self._alu(insn, slot, 64 if kind == Class.ALU64 else 32)
        elif kind == Class.LDX:
            self._load(insn, slot)
        elif kind in (Class.ST, Class.STX):
            self._store(insn, slot)
        elif kind == Class.LD:
            self._wide(insn, slot)
        else:
            return self._jump(insn, slot)
        return True

    def _operand(self, insn: Insn, bits: int) -> str:
        if insn.opcode & 8:
            return self._get(insn.src, bits)
        return str(insn.imm if bits == 64 else _signed(insn.imm, bits))

    def _alu(self, insn: Insn, slot: int, bits: int) -> None:
        distance = self._distance(insn)
        self._compute(insn, slot, bits)
        if distance is not None:
            self._frame[insn.dst] = distance

    def _distance(self, insn: Insn) -> int | None:
        """How far from r10 this instruction's result lies, if that can be seen."""
        if insn.opcode == ADD64_IMM and insn.dst in self._frame:
            return self._frame[insn.dst] + insn.imm
        if insn.opcode == MOV64_REG and not insn.off:
            return 0 if insn.src == 10 else self._frame.get(insn.src)
        return None

    def _compute(self, insn: Insn, slot: int, bits: int) -> None:
        op = Alu(insn.opcode & 0xF0)
        t = f"i{bits}"
        if op == Alu.END:
            self._swap(insn, bits)
            return
        if op == Alu.NEG:
            self._set(insn.dst, self._new(f"sub {t} 0, {self._get(insn.dst, bits)}"), bits)
            return
        if op == Alu.MOV:
            if insn.opcode & 8 and insn.off in (8, 16, 32):
                small = self._new(f"trunc i64 {self._get(insn.src)} to i{insn.off}")
                self._set(insn.dst, self._new(f"sext i{insn.off} {small} to {t}"), bits)
            else:
                self._set(insn.dst, self._operand(insn, bits), bits)
            return
        left, right = self._get(insn.dst, bits), self._operand(insn, bits)
        if op in (Alu.DIV, Alu.MOD):
            self._set(insn.dst, self._divide(op, left, right, bits, signed=insn.off == 1), bits)
            return
        if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
            right = self._new(f"and {t} {right}, {bits - 1}")
        self._set(insn.dst, self._new(f"{_BINARY[op]} {t} {left}, {right}"), bits)

    def _divide(self, op: Alu, left: str, right: str, bits: int, *, signed: bool) -> str:
        """Division by zero gives 0, modulo by zero leaves the left side; the least number by -1 wraps."""
        t = f"i{bits}"
        zero = self._new(f"icmp eq {t} {right}, 0")
        safe = self._new(f"select i1 {zero}, {t} 1, {t} {right}")
        if signed:
            minus = self._new(f"icmp eq {t} {right}, -1")
            safe = self._new(f"select i1 {minus}, {t} 1, {t} {safe}")
            result = self._new(f"{'sdiv' if op == Alu.DIV else 'srem'} {t} {left}, {safe}")
            other = self._new(f"sub {t} 0, {left}") if op == Alu.DIV else "0"
            result = self._new(f"select i1 {minus}, {t} {other}, {t} {result}")
        else:
            result = self._new(f"{'udiv' if op == Alu.DIV else 'urem'} {t} {left}, {safe}")
        return self._new(f"select i1 {zero}, {t} {'0' if op == Alu.DIV else left}, {t} {result}")

    def _swap(self, insn: Insn, bits: int) -> None:
        width = insn.imm
        value = self._get(insn.dst, width) if width < 64 else self._get(insn.dst)
        if bits == 64 or insn.opcode & 8:
            value = self._new(f"call i{width} @llvm.bswap.i{width}(i{width} {value})")
        self._set(insn.dst, value, width)

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
            self._emit(f"store i{bits} {_signed(insn.imm, bits)}, ptr {pointer}, align 1")
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

    def _wide(self, insn: Insn, slot: int) -> None:
        if insn.opcode != LD_IMM64:
            self._load_packet(insn, slot)
            return
        if insn.src == PseudoSrc.NONE:
            self._set(insn.dst, str(_signed((insn.imm & 0xFFFFFFFF) | insn.imm_hi << 32, 64)))
        elif insn.src == PseudoSrc.MAP_FD:
            self._set(insn.dst, self._entry("map", insn.imm))
        elif insn.src == PseudoSrc.MAP_VALUE:
            data = self._entry("data", insn.imm)
            self._set(insn.dst, self._new(f"add i64 {data}, {insn.imm_hi}") if insn.imm_hi else data)
        elif insn.src == PseudoSrc.FUNC:
            # A function has the shape of a helper's body: helpers call it as it is.
            self._set(insn.dst, self._new(f"ptrtoint ptr @f{slot + 1 + insn.imm} to i64"))
        else:
            raise self._refuse(f"ld_imm64 of kind {insn.src}", slot)

    def _load_packet(self, insn: Insn, slot: int) -> None:
        """LD_ABS and LD_IND: where the packet is too short, the function returns 0."""
        size = BYTES[Size(insn.opcode & 0x18)]
        offset = str(insn.imm)
        if insn.opcode & 0xE0 == Mode.IND:
            offset = self._new(f"add i64 {self._get(insn.src)}, {insn.imm}")
        function = self._new(f"inttoptr i64 {self._entry('runtime', RUNTIME.index('rt_skb_load'))} to ptr")
        value = self._new(f"call i64 {function}(i64 {self._get(6)}, i64 {offset}, i32 {size})")
        self._emit(f"br i1 {self._new(f'icmp slt i64 {value}, 0')}, label %short{slot}, label %long{slot}")
        self._emit(f"short{slot}:", indent="")
        self._emit("ret i64 0")
        self._emit(f"long{slot}:", indent="")
        self._set(0, value)

    def _jump(self, insn: Insn, slot: int) -> bool:
        if insn.opcode == EXIT:
            self._exit()
            return False
        if insn.opcode in (JA, GOTOL):
            self._back_edge(slot, self._target(slot, insn))
            self._emit(f"br label %b{self._target(slot, insn)}")
            return False
        if insn.opcode == CALL:
            self._call(insn, slot)
            return True
        if insn.opcode == CALLX:
            self._call_register(insn, slot)
            return True
        if insn.opcode == MAY_GOTO:
            test = self._used_up()
        else:
            bits = 64 if insn.opcode & 7 == Class.JMP else 32
            op = Jmp(insn.opcode & 0xF0)
            left, right = self._get(insn.dst, bits), self._operand(insn, bits)
            if op == Jmp.JSET:
                test = self._new(f"icmp ne i{bits} {self._new(f'and i{bits} {left}, {right}')}, 0")
            else:
                test = self._new(f"icmp {_COMPARE[op]} i{bits} {left}, {right}")
        self._back_edge(slot, self._target(slot, insn))
        self._emit(f"br i1 {test}, label %b{self._target(slot, insn)}, label %b{slot + 1}")
        return False

    def _used_up(self) -> str:
        """Whether a may_goto leaves its loop: the function has gone round often enough, or the run has taken long enough."""
        left = self._new("load i64, ptr %budget")
        self._emit(f"store i64 {self._new(f'call i64 @llvm.usub.sat.i64(i64 {left}, i64 1)')}, ptr %budget")
        spent = self._new(f"icmp eq i64 {left}, 0")
        stop = self._new(f"load atomic i32, ptr {self._new(f'getelementptr i8, ptr %env, i64 {Env.stop.offset}')} monotonic, align 4")
        return self._new(f"or i1 {spent}, {self._new(f'icmp ne i32 {stop}, 0')}")

    def _exit(self) -> None:
        self._emit(f"ret i64 {self._get(0)}")

    def _back_edge(self, slot: int, target: int) -> None:
        """Before a jump: where a checked translation counts."""

    def _call_register(self, insn: Insn, slot: int) -> None:
        raise self._refuse("a call by register", slot)

    def _call(self, insn: Insn, slot: int) -> None:
        if insn.src == CallSrc.PSEUDO_CALL:
            self._call_function(slot + 1 + insn.imm, slot)
            return
        if insn.src != CallSrc.HELPER or not self._is_helper(insn.imm):
            raise self._refuse("a kfunc call", slot)
        if insn.imm in HELPERS and HELPERS[insn.imm].name == "map_lookup_elem" and self._inline_lookup(slot):
            return
        self._call_helper(insn.imm, slot)

    def _is_helper(self, number: int) -> bool:
        return number in HELPERS

    def _call_function(self, start: int, slot: int) -> None:
        args = ", ".join(f"i64 {self._get(i)}" for i in range(1, 6))
        self._set(0, self._new(f"call i64 @f{start}({args}, ptr %env)"))

    def _call_helper(self, number: int, slot: int) -> None:
        values = [self._get(i) for i in range(1, 6)]
        if number == _SET_CALLBACK:
            values[2] = self._entry("owner", 0)
        args = ", ".join(f"i64 {value}" for value in values)
        function = self._new(f"inttoptr i64 {self._entry(self._body(number, slot), number)} to ptr")
        result = self._new(f"call i64 {function}({args}, ptr %env)")
        if number == _TAIL_CALL:
            self._tail_call(slot, result)
        self._set(0, result)

    def _body(self, number: int, slot: int) -> str:
        """Whose body of a helper is called: a map's type may have a faster one, where the map is known here."""
        row = self._program.maps.get(self._program.call_map.get(slot, -1))
        known = row is not None and row.type == MapType.HASH and number in HELPERS and HELPERS[number].name in _OF_HASH
        return "hash" if known else "helper"

    def _tail_call(self, slot: int, target: str) -> None:
        """Go on in another program, whose result is this function's; or go on here, where the helper found none."""
        self._emit(f"br i1 {self._new(f'icmp ne i64 {target}, 0')}, label %tail{slot}, label %here{slot}")
        self._emit(f"tail{slot}:", indent="")
        program = self._new(f"inttoptr i64 {target} to ptr")
        ctx = self._new(f"inttoptr i64 {self._get(1)} to ptr")
        self._emit(f"ret i64 {self._new(f'call i64 {program}(ptr {ctx}, ptr %env)')}")
        self._emit(f"here{slot}:", indent="")

    def _inline_lookup(self, slot: int) -> bool:
        """A look-up in an array that is known here: a bounds test, a multiplication and an addition."""
        fd = self._program.call_map.get(slot)
        row = self._program.maps.get(fd) if fd is not None else None
        if row is None or fd is None or row.type != MapType.ARRAY:
            return False
        index = self._new(f"zext i32 {self._new(f'load i32, ptr {self._pointer(2, 0, 4, slot)}, align 1')} to i64")
        inside = self._new(f"icmp ult i64 {index}, {row.max_entries}")
        offset = self._new(f"mul nuw nsw i64 {index}, {(row.value_size + 7) // 8 * 8}")
        value = self._new(f"add i64 {self._entry('data', fd)}, {offset}")
        self._set(0, self._new(f"select i1 {inside}, i64 {value}, i64 0"))
        return True


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
