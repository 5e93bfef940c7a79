"""Machine code for programs that nobody verified: each access is tested, jumps backwards are counted, calls have a depth.

What a verifier would have refused ends the run with a Fault that names the instruction; the process lives on.
"""

import ctypes
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ebpf.engine.jit.image import load_image
from ebpf.engine.jit.llvm import compile_ir
from ebpf.engine.jit.translate import Module, Translator
from ebpf.engine.program import Prepared
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.isa import Insn, by_slot, called_register, disasm_one, problem
from ebpf.isa.opcodes import FP, Class
from ebpf.uapi import PseudoSrc

FRAMES: Final = 8
STACK: Final = 512
#: From one frame to the next: between them lies what no access may touch.
STRIDE: Final = 1024
#: What ld_imm64 of a function gives, with the function's slot in the low bits: an address that nothing has.
FUNCTION: Final = 0xEBF0_0000_0000_0000

Body = Callable[[int, int, int, int, int], int]


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


_WHY = {
    Kind.ENDLESS: "the program did not end within its budget",
    Kind.DEPTH: f"calls nest deeper than {FRAMES} functions",
    Kind.END: "the program ran past its end",
}


class Fault(EbpfError):
    """The program did what it may not at `slot`."""

    def __init__(self, program: str, slot: int, insn: str, why: str) -> None:
        self.program, self.slot, self.insn, self.why = program, slot, insn, why
        super().__init__(f"program {program!r} at insn {slot}" + (f", {insn}: " if insn else ": ") + why)


class _Env(ctypes.Structure):
    """What the code shares with whoever runs it. The offsets are in `_AT`."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("memory", "size", "stack", "sp", "fuel", "kind", "slot", "address", "bytes")]


_AT = {field[0]: 8 * place for place, field in enumerate(_Env._fields_)}


@dataclass(slots=True)
class Checked:
    """A compiled program: `run` it as often as is wanted, then close it."""

    program: Prepared
    _code: Any
    _entry: Any
    _bodies: list[Any]
    _env: _Env
    _raised: list[BaseException]

    def run(self, memory: "ctypes.Array[ctypes.c_char] | None", size: int, *, limit: int = 100_000_000) -> int:
        """Run the program with r1 at `size` bytes of memory and r2 = size; the answer is r0.

        Raises Fault where it does what it may not; `limit` counts jumps backwards and calls.
        """
        env = self._env
        stack = (ctypes.c_uint64 * (FRAMES * STRIDE // 8))()
        env.memory, env.size = ctypes.addressof(memory) if memory is not None else 0, size
        env.stack, env.sp = ctypes.addressof(stack), ctypes.addressof(stack) + (FRAMES - 1) * STRIDE + STACK
        env.fuel, env.kind = limit, Kind.NONE
        result = int(self._entry(env.memory, ctypes.addressof(env)))
        kind = Kind(env.kind)
        if kind in (Kind.NONE, Kind.UNWIND):
            return 0 if kind == Kind.UNWIND else result
        if kind == Kind.HELPER and self._raised:
            raise self._raised.pop()
        raise self._fault(kind)

    def _fault(self, kind: Kind) -> Fault:
        env = self._env
        slots = by_slot(self.program.insns)
        insn = slots[env.slot] if env.slot < len(slots) else None
        if kind in (Kind.READ, Kind.WRITE):
            verb = "read" if kind == Kind.READ else "write"
            why = f"{verb} of {env.bytes} bytes at {env.address:#x}: outside the program's memory and stack"
        elif kind == Kind.UNALIGNED:
            why = f"atomic operation at {env.address:#x}: not aligned to {env.bytes} bytes"
        elif kind == Kind.CALL:
            why = f"call of {env.address:#x}, which is no function of the program and no helper"
        else:
            why = _WHY[kind]
        return Fault(self.program.name, env.slot, disasm_one(insn, env.slot) if insn is not None else "", why)

    def holds(self, address: int, size: int) -> bool:
        """Whether these bytes lie in the memory or stack of the run that goes on: what a helper may touch."""
        env = self._env
        ranges = ((env.memory, env.size), *((env.stack + frame * STRIDE, STACK) for frame in range(FRAMES)))
        return any(start <= address and address + size <= start + length for start, length in ranges)

    def close(self) -> None:
        """Give back the code's memory. Idempotent."""
        self._code.close()


def compile_checked(program: Prepared, helpers: Mapping[int, Body], *, unwinds: int = -1) -> Checked:
    """Compile a program in checked mode. `unwinds` is a helper that ends the whole program with 0 when it returns 0.


    Raises NotSupportedError for an instruction that is none, or where machine code cannot be made.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotSupportedError("the JIT", f"machine code for {platform.machine()} is not loaded yet", hint="use --engine interp")
    module = CheckedTranslator(program, helpers, unwinds).module()
    image = compile_ir(module.text)
    env, raised = _Env(), list[BaseException]()
    shape = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 6, ctypes.c_void_p)

    def guarded(body: Body) -> Any:
        def call(a: int, b: int, c: int, d: int, e: int, _env: int) -> int:
            try:
                return body(a, b, c, d, e) & (1 << 64) - 1
            except BaseException as error:  # noqa: BLE001  # it goes on in run(): nothing may pass through machine code
                raised.append(error)
                env.kind = Kind.HELPER
                return 0

        return shape(call)

    bodies = [guarded(helpers[slot.number]) for slot in module.table]
    code = load_image(image, [ctypes.cast(body, ctypes.c_void_p).value or 0 for body in bodies])
    entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)(code.entry)
    return Checked(program, code, entry, bodies, env, raised)


class CheckedTranslator(Translator):
    """Writes IR in which nothing can go wrong."""

    def __init__(self, program: Prepared, helpers: Collection[int], unwinds: int) -> None:
        self._helpers, self._unwinds = helpers, unwinds
        super().__init__(program)
        self._faults = 0

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

    def _back_edge(self, slot: int, target: int) -> None:
        if not 0 <= target < len(self._slots) or self._slots[target] is None:
            raise self._refuse(f"a jump to insn {target}, which is none,", slot)
        if target <= slot:
            self._spend(slot)

    def _used_up(self) -> str:
        # The fuel of the whole run ends what takes too long.
        left = self._new("load i64, ptr %budget")
        self._emit(f"store i64 {self._new(f'call i64 @llvm.usub.sat.i64(i64 {left}, i64 1)')}, ptr %budget")
        return self._new(f"icmp eq i64 {left}, 0")

    def _spend(self, slot: int) -> None:
        left = self._new("load i64, ptr %fuel")
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
        cases = [f"i64 {_signed(FUNCTION + start)}, label %fn{number}.{start}" for start in functions]
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
            self._set(insn.dst, str(_signed(FUNCTION + slot + 1 + insn.imm)))
            return
        super()._wide(insn, slot)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
