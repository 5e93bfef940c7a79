"""Instructions to LLVM IR text: one function for each subprogram, one alloca for each register, one block for each leader.

Map, helper and data addresses come out of a table in the image that the loader fills, so that an image can be cached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ebpf.engine.jit.arithmetic import Arithmetic
from ebpf.engine.jit.flow import is_jump, target
from ebpf.engine.jit.memory import Memory
from ebpf.engine.jit.writer import Slot, signed
from ebpf.engine.program import Prepared
from ebpf.engine.runtime.abi import Env
from ebpf.isa import Insn
from ebpf.isa.opcodes import (
    BYTES,
    CALL,
    CALLX,
    EXIT,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
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


class Translator(Arithmetic, Memory):
    """Writes the IR of one program. What it asks of memory goes through `_pointer`; a checked translation is a subclass."""

    def __init__(self, program: Prepared) -> None:
        super().__init__(program)
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
            *(f"declare i64 @llvm.{name}.i64(i64, i64)" for name in ("usub.sat", "umin")),
            "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
            _ENTRY.rstrip(),
            "  %r1 = ptrtoint ptr %ctx to i64",
            "  %r0 = call i64 @f0(i64 %r1, i64 0, i64 0, i64 0, i64 0, ptr %env)",
            "  ret i64 %r0",
            "}",
        ]
        return Module(
            "\n".join(head) + "\n" + body + '\n!0 = !{}\n!1 = !{!"branch_weights", i32 2000, i32 1}\n!2 = !{i64 1, i64 140737488355328}\n',
            tuple(self._table),
        )

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

    def _leaders(self, start: int, end: int) -> set[int]:
        leaders = {start}
        for slot in range(start, end):
            insn = self._slots[slot]
            if insn is None or not is_jump(insn):
                continue
            if insn.opcode != EXIT:
                leaders.add(target(slot, insn))
            leaders.add(slot + 1)
        return {slot for slot in leaders if start <= slot < end and self._slots[slot] is not None}

    def _function(self, start: int, end: int) -> None:
        leaders = self._leaders(start, end)
        self._end = end
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
        if start in self._program.global_functions:
            self._leave_if_stopped()
        self._emit(f"br label %{self._label(start - 1, start)}")
        self._blocks(sorted(leaders), end)
        self._emit("}", indent="")

    def _leave_if_stopped(self) -> None:
        """A global function is not begun when the run has taken long enough: any number is right for its caller.

        Its loops are bounded, as its callers' are, but not those of all of them taken together.
        """
        self._emit(f"br i1 {self._stopped()}, label %stopped, label %goes_on")
        self._emit("stopped:", indent="")
        self._emit("ret i64 0")
        self._emit("goes_on:", indent="")

    def _stopped(self) -> str:
        """Whether the run has taken long enough."""
        stop = self._new(f"load atomic i32, ptr {self._new(f'getelementptr i8, ptr %env, i64 {Env.stop.offset}')} monotonic, align 4")
        return self._new(f"icmp ne i32 {stop}, 0")

    def _blocks(self, leaders: Sequence[int], end: int) -> None:
        for begin, stop in pairwise([*leaders, end]):
            self._block(begin, stop)

    def _block(self, begin: int, end: int) -> None:
        self._emit(f"{self._label(begin, begin)}:", indent="")
        self._frame.clear()
        goes_on = True
        for slot in range(begin, end):
            insn = self._slots[slot]
            if insn is not None:
                goes_on = self._insn(slot, insn)
        if goes_on and end < self._end:
            self._emit(f"br label %{self._label(end - 1, end)}")
        elif goes_on:
            self._past_the_end(end)

    def _label(self, slot: int, place: int) -> str:
        """The name of the block at `place`, as the instruction at `slot` goes on to it."""
        del slot
        return f"b{place}"

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

    def _wide(self, insn: Insn, slot: int) -> None:
        if insn.opcode != LD_IMM64:
            self._load_packet(insn, slot)
            return
        if insn.src == PseudoSrc.NONE:
            self._set(insn.dst, str(signed((insn.imm & 0xFFFFFFFF) | insn.imm_hi << 32, 64)))
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
            self._back_edge(slot, target(slot, insn))
            self._emit(f"br label %{self._label(slot, target(slot, insn))}")
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
        self._back_edge(slot, target(slot, insn))
        self._emit(f"br i1 {test}, label %{self._label(slot, target(slot, insn))}, label %{self._label(slot, slot + 1)}")
        return False

    def _used_up(self) -> str:
        """Whether a may_goto leaves its loop: the function has gone round often enough, or the run has taken long enough."""
        left = self._new("load i64, ptr %budget")
        self._emit(f"store i64 {self._new(f'call i64 @llvm.usub.sat.i64(i64 {left}, i64 1)')}, ptr %budget")
        spent = self._new(f"icmp eq i64 {left}, 0")
        return self._new(f"or i1 {spent}, {self._stopped()}")

    def _exit(self) -> None:
        self._emit(f"ret i64 {self._get(0)}")

    def _back_edge(self, slot: int, place: int) -> None:
        """Before a jump: where a checked translation counts."""

    def _call_register(self, insn: Insn, slot: int) -> None:
        raise self._refuse("a call by register", slot)

    def _call(self, insn: Insn, slot: int) -> None:
        if insn.src == CallSrc.PSEUDO_CALL:
            self._call_function(slot + 1 + insn.imm, slot)
            return
        if insn.src == CallSrc.KFUNC_CALL:
            self._call_kernel(insn.imm, slot)
            return
        if insn.src != CallSrc.HELPER or not self._is_helper(insn.imm):
            raise self._refuse(f"a call of kind {insn.src}", slot)
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

    def _call_kernel(self, number: int, slot: int) -> None:
        """A call of a function of the kernel's."""
        del slot
        args = ", ".join(f"i64 {self._get(i)}" for i in range(1, 6))
        function = self._new(f"inttoptr i64 {self._entry('kfunc', number)} to ptr")
        self._set(0, self._new(f"call i64 {function}({args}, ptr %env)"))

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
        value = self._new(f"add nuw nsw i64 {self._entry('data', fd)}, {offset}")
        self._set(0, self._new(f"select i1 {inside}, i64 {value}, i64 0"))
        return True
