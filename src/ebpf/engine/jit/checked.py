"""Machine code for programs that nobody verified: each access is tested, jumps backwards are counted, calls have a depth.

What a verifier would have refused ends the run with a Fault that names the instruction; the process lives on.
"""

import ctypes
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ebpf.engine.jit.checked_translate import FRAMES, STACK, STRIDE, CheckedEnv, CheckedTranslator, Kind
from ebpf.engine.jit.image import load_image
from ebpf.engine.jit.llvm import compile_ir
from ebpf.engine.program import Prepared
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.isa import by_slot, disasm_one

Body = Callable[[int, int, int, int, int], int]


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


@dataclass(slots=True)
class Checked:
    """A compiled program: `run` it as often as is wanted, then close it."""

    program: Prepared
    _code: Any
    _entry: Any
    _bodies: list[Any]
    _env: CheckedEnv
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


def compile_checked(program: Prepared, helpers: Mapping[int, Body], *, unwinds: int = -1, accesses: bool = True) -> Checked:
    """Compile a program in checked mode. `unwinds` is a helper that ends the whole program with 0 when it returns 0.

    Without `accesses` only its jumps and calls are counted: what it does to memory is done, or ends the process.


    Raises NotSupportedError for an instruction that is none, or where machine code cannot be made.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotSupportedError("the JIT", f"machine code for {platform.machine()} is not loaded yet", hint="use --engine interp")
    module = CheckedTranslator(program, helpers, unwinds, accesses=accesses).module()
    image = compile_ir(module.text)
    env, raised = CheckedEnv(), list[BaseException]()
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
