"""IR in which nothing can go wrong: each access is tested, jumps backwards are counted, calls have a depth."""

import ctypes
from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Final

from ebpf.engine.jit.loops import Access, Linear, Loop, Rounds, find_loops
from ebpf.engine.jit.translate import Module, Translator
from ebpf.engine.jit.writer import signed
from ebpf.engine.program import Prepared
from ebpf.errors import NotSupportedError
from ebpf.isa import Insn, called_register, problem
from ebpf.isa.opcodes import FP, Class
from ebpf.uapi import PseudoSrc

FRAMES: Final = 8
STACK: Final = 512
#: From one frame to the next: between them lies what no access may touch.
STRIDE: Final = 1024
#: What ld_imm64 of a function gives, with the function's slot in the low bits: an address that nothing has.
FUNCTION: Final = 0xEBF0_0000_0000_0000


class Kind(IntEnum):
    """Why a run ended before its exit."""

    NONE = 0
    READ = 1
    WRITE = 2
    UNALIGNED = 3
    ENDLESS = 4
    DEPTH = 5
    END = 6
    CALL = 7
    HELPER = 8
    UNWIND = 9


class CheckedEnv(ctypes.Structure):
    """What the code shares with whoever runs it. The offsets are in `_AT`."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("memory", "size", "stack", "sp", "fuel", "kind", "slot", "address", "bytes")]


_AT = {field[0]: 8 * place for place, field in enumerate(CheckedEnv._fields_)}


class CheckedTranslator(Translator):
    """Writes IR in which nothing can go wrong."""

    def __init__(self, program: Prepared, helpers: Collection[int], unwinds: int, *, accesses: bool) -> None:
        self._helpers, self._unwinds, self._accesses = helpers, unwinds, accesses
        super().__init__(program)
        self._faults = 0
        self._loops: dict[int, Loop] = {}
        # The loop that is being written without tests.
        self._free: Loop | None = None

    def module(self) -> Module:
        """The whole module; r2 begins as the size of the memory."""
        module = super().module()
        size = f"  %size.at = getelementptr i8, ptr %env, i64 {_AT['size']}\n  %r2 = load i64, ptr %size.at\n"
        text = module.text.replace("  %r0 = call i64 @f0(i64 %r1, i64 0,", size + "  %r0 = call i64 @f0(i64 %r1, i64 %r2,")
        return Module(text, module.table)

    def _find_functions(self) -> list[int]:
        starts = super()._find_functions()
        for start in starts:
            if not 0 <= start < len(self._slots) or self._slots[start] is None:
                raise self._refuse(f"a call to insn {start}, which is none,", start)
        return starts

    def _insn(self, slot: int, insn: Insn) -> bool:
        why = problem(insn)
        if why:
            raise NotSupportedError(f"insn {slot} of program {self._program.name!r}", why)
        return super()._insn(slot, insn)

    # -- what is tested

    def _at(self, field: str) -> str:
        return self._new(f"getelementptr i8, ptr %env, i64 {_AT[field]}")

    def _prologue(self, start: int) -> None:
        self._emit(f"%memory.lo = load i64, ptr {self._at('memory')}")
        self._emit(f"%memory.size = load i64, ptr {self._at('size')}")
        self._emit(f"%stack.lo = load i64, ptr {self._at('stack')}")
        self._emit(f"%R10 = load i64, ptr {self._at('sp')}")
        self._emit(f"%frame = sub i64 %R10, {STACK}")
        self._emit(f"%stack.hi = add i64 %stack.lo, {FRAMES * STRIDE}")
        self._emit("%stack.used = sub i64 %stack.hi, %frame")
        self._emit("%fuel = alloca i64")
        self._emit(f"%fuel.in = load i64, ptr {self._at('fuel')}")
        self._emit("store i64 %fuel.in, ptr %fuel")
        self._emit("%rounds = alloca i64")
        self._fault_unless("icmp uge i64 %frame, %stack.lo", Kind.DEPTH, start)
        self._emit("%top = inttoptr i64 %R10 to ptr")
        if self._uses_stack(start):
            self._emit("%bottom = inttoptr i64 %frame to ptr")
            self._emit(f"call void @llvm.memset.p0.i64(ptr align 8 %bottom, i8 0, i64 {STACK}, i1 false)")
        self._emit(f"%below = sub i64 %R10, {STRIDE}")
        self._emit(f"store i64 %below, ptr {self._at('sp')}")

    def _uses_stack(self, start: int) -> bool:
        """Whether a function reads r10: only then it, or what it calls, can come by an address in its frame."""
        end = next((other for other in self._starts if other > start), len(self._slots))
        return any(insn is not None and FP in (insn.dst, insn.src) for insn in self._slots[start:end])

    def _past_the_end(self, slot: int) -> None:
        self._fault(Kind.END, slot)

    def _fault(self, kind: Kind, slot: int, address: str = "0", size: int = 0) -> None:
        """End the run: the block ends here."""
        for field, value in (("kind", str(int(kind))), ("slot", str(slot)), ("address", address), ("bytes", str(size))):
            self._emit(f"store i64 {value}, ptr {self._at(field)}")
        self._emit("ret i64 0")

    def _fault_unless(self, test: str, kind: Kind, slot: int, address: str = "0", size: int = 0) -> None:
        self._faults += 1
        number = self._faults
        ok = self._new(test)
        self._emit(f"br i1 {ok}, label %ok{number}, label %bad{number}, !prof !1")
        self._emit(f"bad{number}:", indent="")
        self._fault(kind, slot, address, size)
        self._emit(f"ok{number}:", indent="")

    def _pointer(self, register: int, offset: int, size: int, slot: int, *, atomic: bool = False) -> str:
        if self._free is not None or not self._accesses:
            return super()._pointer(register, offset, size, slot, atomic=atomic)
        distance = 0 if register == 10 else self._frame.get(register)
        if distance is not None and not atomic and -STACK <= distance + offset <= -size:
            # Within the function's own frame, as can be seen.
            return self._new(f"getelementptr i8, ptr %top, i64 {distance + offset}")
        address = self._new(f"add i64 {self._get(register)}, {offset}") if offset else self._get(register)
        insn = self._slots[slot]
        writing = insn is not None and insn.opcode & 7 in (Class.ST, Class.STX) and register == insn.dst
        into = self._new(f"sub i64 {address}, %memory.lo")
        room = self._new(f"call i64 @llvm.usub.sat.i64(i64 %memory.size, i64 {size - 1})")
        self._faults += 1
        number = self._faults
        in_memory = self._new(f"icmp ult i64 {into}, {room}")
        # Most accesses are of the memory: those of the stack are looked at only then.
        self._emit(f"br i1 {in_memory}, label %in{number}, label %out{number}, !prof !1")
        self._emit(f"out{number}:", indent="")
        up = self._new(f"sub i64 {address}, %frame")
        above = self._new(f"icmp ult i64 {up}, %stack.used")
        inside = self._new(f"icmp ule i64 {self._new(f'and i64 {up}, {STRIDE - 1}')}, {STACK - size}")
        self._fault_unless(f"and i1 {above}, {inside}", Kind.WRITE if writing else Kind.READ, slot, address, size)
        self._emit(f"br label %in{number}")
        self._emit(f"in{number}:", indent="")
        if atomic:
            low = self._new(f"and i64 {address}, {size - 1}")
            self._fault_unless(f"icmp eq i64 {low}, 0", Kind.UNALIGNED, slot, address, size)
        return self._new(f"getelementptr i8, ptr %memory, i64 {address}")

    def _back_edge(self, slot: int, place: int) -> None:
        if not 0 <= place < len(self._slots) or self._slots[place] is None:
            raise self._refuse(f"a jump to insn {place}, which is none,", slot)
        if place <= slot:
            self._spend(slot)

    def _used_up(self) -> str:
        # The fuel of the whole run ends what takes too long.
        left = self._new("load i64, ptr %budget")
        self._emit(f"store i64 {self._new(f'call i64 @llvm.usub.sat.i64(i64 {left}, i64 1)')}, ptr %budget")
        return self._new(f"icmp eq i64 {left}, 0")

    def _spend(self, slot: int) -> None:
        left = self._new("load i64, ptr %fuel")
        if self._free is None:
            self._fault_unless(f"icmp ne i64 {left}, 0", Kind.ENDLESS, slot)
        self._emit(f"store i64 {self._new(f'sub i64 {left}, 1')}, ptr %fuel")

    def _give_back(self) -> None:
        self._emit(f"store i64 {self._new('load i64, ptr %fuel')}, ptr {self._at('fuel')}")

    def _exit(self) -> None:
        self._give_back()
        self._emit(f"store i64 %R10, ptr {self._at('sp')}")
        super()._exit()

    def _go_on(self) -> None:
        """After a call: on with what is left of the budget, unless the run has ended."""
        self._faults += 1
        number = self._faults
        kind = self._new("load i64, ptr " + self._at("kind"))
        over = self._new(f"icmp eq i64 {kind}, 0")
        self._emit(f"br i1 {over}, label %on{number}, label %out{number}, !prof !1")
        self._emit(f"out{number}:", indent="")
        self._emit("ret i64 0")
        self._emit(f"on{number}:", indent="")
        self._emit(f"store i64 {self._new('load i64, ptr ' + self._at('fuel'))}, ptr %fuel")

    def _call_function(self, start: int, slot: int) -> None:
        self._spend(slot)
        self._give_back()
        super()._call_function(start, slot)
        self._go_on()

    def _is_helper(self, number: int) -> bool:
        return number in self._helpers

    def _call_helper(self, number: int, slot: int) -> None:
        self._emit(f"store i64 {slot}, ptr {self._at('slot')}")
        self._give_back()
        super()._call_helper(number, slot)
        if number == self._unwinds:
            self._fault_unless(f"icmp ne i64 {self._get(0)}, 0", Kind.UNWIND, slot)
        self._go_on()

    def _call_register(self, insn: Insn, slot: int) -> None:
        """A call of what a register holds: a function of the program, or a helper by its number."""
        value = self._get(called_register(insn))
        self._faults += 1
        number = self._faults
        functions = [start for start in self._starts if start]
        cases = [f"i64 {signed(FUNCTION + start, 64)}, label %fn{number}.{start}" for start in functions]
        cases += [f"i64 {helper}, label %he{number}.{helper}" for helper in self._helpers]
        self._emit(f"switch i64 {value}, label %no{number} [ {' '.join(cases)} ]")
        self._emit(f"no{number}:", indent="")
        self._fault(Kind.CALL, slot, value)
        for start in functions:
            self._emit(f"fn{number}.{start}:", indent="")
            self._call_function(start, slot)
            self._emit(f"br label %done{number}")
        for helper in self._helpers:
            self._emit(f"he{number}.{helper}:", indent="")
            self._call_helper(helper, slot)
            self._emit(f"br label %done{number}")
        self._emit(f"done{number}:", indent="")
        self._frame.clear()

    def _wide(self, insn: Insn, slot: int) -> None:
        if insn.src == PseudoSrc.FUNC:
            self._set(insn.dst, str(signed(FUNCTION + slot + 1 + insn.imm, 64)))
            return
        super()._wide(insn, slot)

    # -- loops whose accesses are tested beforehand

    def _function(self, start: int, end: int) -> None:
        found = find_loops(self._slots, self._leaders(start, end), end, accesses=self._accesses)
        self._loops = {loop.head: loop for loop in found if loop.accesses or (not self._accesses and loop.rounds)}
        super()._function(start, end)

    def _blocks(self, leaders: Sequence[int], end: int) -> None:
        """A loop is there twice: without tests for as many rounds as are known to need none, and as it is everywhere."""
        super()._blocks(leaders, end)
        for loop in self._loops.values():
            self._before(loop)
            self._free = loop
            for block in loop.blocks:
                self._block(*block)
            self._free = None

    def _label(self, slot: int, place: int) -> str:
        loop = self._loops.get(place)
        if self._free is not None and self._free.has(place):
            return f"round{place}" if loop is not None and slot != place and self._free.rounds is None else f"free{place}"
        return f"before{place}" if loop is not None and not loop.has(slot) else f"b{place}"

    def _before(self, loop: Loop) -> None:
        """Where a loop is entered: on without tests if no round can need them, or for as many rounds as cannot."""
        head = loop.head
        self._emit(f"before{head}:", indent="")
        enough = self._new(f"udiv i64 {self._new('load i64, ptr %fuel')}, {max(loop.backwards, 1)}")
        for access in loop.accesses:
            enough = self._new(f"call i64 @llvm.umin.i64(i64 {enough}, i64 {self._inside(access)})")
        if loop.rounds is not None:
            test = self._new(f"icmp ult i64 {self._rounds(loop.rounds)}, {enough}")
            self._emit(f"br i1 {test}, label %free{head}, label %b{head}")
            return
        self._emit(f"store i64 {enough}, ptr %rounds")
        self._emit(f"br i1 {self._new(f'icmp ne i64 {enough}, 0')}, label %free{head}, label %b{head}")
        self._emit(f"round{head}:", indent="")
        left = self._new(f"sub i64 {self._new('load i64, ptr %rounds')}, 1")
        self._emit(f"store i64 {left}, ptr %rounds")
        self._emit(f"br i1 {self._new(f'icmp ne i64 {left}, 0')}, label %free{head}, label %b{head}")

    def _linear(self, value: Linear) -> str:
        out = str(signed(value.const, 64))
        for register, factor in value.terms:
            part = self._get(register)
            if factor != 1:
                part = self._new(f"mul i64 {part}, {signed(factor, 64)}")
            out = self._new(f"add i64 {part}, {out}")
        return out

    def _inside(self, access: Access) -> str:
        """In how many rounds an access certainly stays within the memory, or within the function's own frame."""
        address = self._linear(access.address)
        into = self._new(f"sub i64 {address}, %memory.lo")
        room = self._new(f"call i64 @llvm.usub.sat.i64(i64 %memory.size, i64 {access.size - 1})")
        in_memory = self._new(f"icmp ult i64 {into}, {room}")
        up = self._new(f"sub i64 {address}, %frame")
        into = self._new(f"select i1 {in_memory}, i64 {into}, i64 {up}")
        room = self._new(f"select i1 {in_memory}, i64 {room}, i64 {STACK + 1 - access.size}")
        stays = self._new(f"icmp ult i64 {into}, {room}")
        if not access.stride:
            return self._new(f"select i1 {stays}, i64 {(1 << 63) - 1}, i64 0")
        way = into if access.stride < 0 else self._new(f"sub i64 {self._new(f'sub i64 {room}, 1')}, {into}")
        rounds = self._new(f"add i64 {self._new(f'udiv i64 {way}, {abs(access.stride)}')}, 1")
        return self._new(f"select i1 {stays}, i64 {rounds}, i64 0")

    def _rounds(self, rounds: Rounds) -> str:
        """How many rounds a loop goes on for, after the first; a number that is too large if it does not end so."""
        begin, end = self._linear(rounds.begin), self._linear(rounds.end)
        way = self._new(f"sub i64 {end}, {begin}" if rounds.stride > 0 else f"sub i64 {begin}, {end}")
        step = abs(rounds.stride)
        if step == 1:
            return way
        ends = self._new(f"icmp eq i64 {self._new(f'urem i64 {way}, {step}')}, 0")
        return self._new(f"select i1 {ends}, i64 {self._new(f'udiv i64 {way}, {step}')}, i64 -1")
