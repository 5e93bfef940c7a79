"""`ebpf vm`: the virtual machine alone: raw bytecode in, r0 out; no maps, no kernel, nothing verified."""

import ctypes
import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ebpf.cli.context import Context
from ebpf.cli.jsonw import dumps
from ebpf.cli.noun import Misuse, Verb, dispatch, help_verb
from ebpf.cli.words import Words
from ebpf.elf import read_elf
from ebpf.engine.program import Prepared
from ebpf.errors import EbpfError, FormatError, UsageError
from ebpf.isa import OPCODES, Form, Insn, by_slot, decode, problem
from ebpf.isa.opcodes import CALL, CALLX, EXIT, GOTOL, JA, LD_IMM64, Class
from ebpf.uapi import CallSrc, ProgType, PseudoSrc

ENGINES = ("jit", "interp")
# Jumps backwards and calls, or instructions: a fraction of a second, or some seconds.
_LIMITS = {"jit": 100_000_000, "interp": 10_000_000}
_MOST_INSNS, _MOST_MEMORY = 1 << 20, 1 << 26
_WORD = (1 << 64) - 1
# The helper of the conformance suite that ends a program.
_UNWIND = 5
# The functions of the runtime that the suite's programs call stand behind its helpers.
_RUNTIME = 1 << 16
# SHF_EXECINSTR.
_EXECUTABLE = 4


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `vm` command."""
    return dispatch(context, argv or ["help"], "vm", _VERBS)


class _Options:
    """What both commands take: --engine, --unchecked, --mem, --limit, and words; the suite's plug-in also --elf."""

    def __init__(self, words: Words, *, suite: bool = False) -> None:
        self.engine, self.mem, self.unchecked, self.limit, self.elf = "jit", "", False, 0, False
        self.rest: list[str] = []
        while words:
            word = words.take("word")
            name, equals, value = word.partition("=")
            if name in ("--engine", "--mem", "--limit"):
                value = value if equals else words.take(name)
                if name == "--engine" and value not in ENGINES:
                    raise UsageError(f"no engine {value!r}; there is {' and '.join(ENGINES)}")
                if name == "--limit" and not value.isdigit():
                    raise UsageError(f"--limit takes a number, not {value!r}")
                setattr(self, name[2:], int(value) if name == "--limit" else value)
            elif name == "--unchecked":
                self.unchecked = True
            elif word == "--elf" and suite:
                self.elf = True
            elif word.startswith("--"):
                raise UsageError(f"unrecognized option '{word}'; ebpf vm help")
            else:
                # The suite gives an empty word where it has no memory or options.
                self.rest += [word] if word else []
        self.limit = self.limit or _LIMITS[self.engine]


def run_file(context: Context, words: Words) -> int:
    """Run the bytecode of a file, with r1 at the memory and r2 its size, and print r0."""
    options = _Options(words)
    if len(options.rest) != 1:
        raise Misuse("vm", "needs one file of bytecode")
    path = options.rest[0]
    program = read_program(_contents(path, 8 * _MOST_INSNS), path)
    memory = _contents(options.mem, _MOST_MEMORY) if options.mem else b""
    if options.unchecked and options.engine == "interp":
        raise UsageError("--unchecked is for the JIT: the interpreter checks always")
    runner = _run_unchecked if options.unchecked else _ENGINES[options.engine]
    result, after = runner(program, memory, {}, options.limit)
    if context.json:
        context.write(dumps({"r0": f"{result:#x}", "memory": after.hex()}, pretty=context.pretty))
    else:
        context.write(f"{result:#x}")
    return 0


def conformance(context: Context, words: Words) -> int:
    """The plug-in protocol of bpf_conformance: bytecode as hex on standard input, memory as hex in the argument, r0 as hex out."""
    options = _Options(words, suite=True)
    try:
        if len(options.rest) > 1:
            raise UsageError(f"one argument of memory, not {len(options.rest)}")
        memory = _hex(" ".join(options.rest), "memory")
        code, path = _hex(sys.stdin.read(), "the program"), "standard input"
        program = read_program(_text(code, path) if options.elf else code, path, _HELPERS)
        result, _ = _ENGINES[options.engine](program, memory, _HELPERS, options.limit)
    except EbpfError as error:
        context.note(str(error))
        return 1
    context.write(f"{result:x}")
    return 0


def _contents(path: str, most: int) -> bytes:
    data = Path(path).read_bytes()
    if len(data) > most:
        raise UsageError(f"{path}: {len(data)} bytes are too many; {most} are the most")
    return data


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"{what} is not hexadecimal: {error}") from error


def _text(data: bytes, path: str) -> bytes:
    """The instructions of an object as the suite writes it: one section of code, and nothing to relocate."""
    code = next((s.data for s in read_elf(data, path).sections if s.flags & _EXECUTABLE and s.data), None)
    if code is None:
        raise FormatError("has no section of code", path=path)
    return code


def read_program(data: bytes, path: str, helpers: Collection[int] = ()) -> Prepared:
    """Bytecode as a program. Raises FormatError for what is no whole program.

    A call of a function of the runtime that is among `helpers` (behind `_RUNTIME`) is a call of that helper.
    """
    if not data or len(data) % 8:
        raise FormatError(f"{len(data)} bytes are no whole number of instructions (8 bytes each)", path=path)
    insns = tuple(_runtime_call(insn, helpers) for insn in decode(data))
    slots = by_slot(insns)
    starts = _functions(slots)
    for slot, insn in enumerate(slots):
        if insn is not None:
            why = _wrong(slot, insn, slots) or _leaves(slot, insn, starts)
            if why:
                raise FormatError(why, path=path, where=f"insn {slot}")
    return Prepared(insns, int(ProgType.UNSPEC), name=Path(path).stem)


def _runtime_call(insn: Insn, helpers: Collection[int]) -> Insn:
    if insn.opcode == CALL and insn.src == CallSrc.KFUNC_CALL and _RUNTIME + insn.imm in helpers:
        return replace(insn, src=int(CallSrc.HELPER), imm=_RUNTIME + insn.imm)
    return insn


def _wrong(slot: int, insn: Insn, slots: list[Insn | None]) -> str:
    """What is wrong with an instruction whatever it finds in its registers; "" if nothing is."""
    if insn.opcode in OPCODES and OPCODES[insn.opcode].form in (Form.PACKET, Form.PACKET_SRC):
        return f"opcode {insn.opcode:#04x} reads a packet: there is none here"
    why = problem(insn)
    if why:
        return why
    if insn.opcode == CALL and insn.src not in (CallSrc.HELPER, CallSrc.PSEUDO_CALL):
        return "calls a kernel function: there is no kernel here"
    target = _jumps_to(slot, insn)
    if target is None:
        target = _names(slot, insn)
    if target is not None and (not 0 <= target < len(slots) or slots[target] is None):
        return f"leads to insn {target}, which is none"
    return ""


def _jumps_to(slot: int, insn: Insn) -> int | None:
    if insn.opcode & 7 not in (Class.JMP, Class.JMP32) or insn.opcode in (CALL, CALLX, EXIT):
        return None
    return slot + 1 + (insn.imm if insn.opcode == GOTOL else insn.off)


def _names(slot: int, insn: Insn) -> int | None:
    """The function that an instruction calls or takes the address of."""
    calls = insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL
    return slot + 1 + insn.imm if calls or (insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC) else None


def _functions(slots: list[Insn | None]) -> list[int]:
    """Where functions begin."""
    named = (_names(slot, insn) for slot, insn in enumerate(slots) if insn is not None)
    return sorted({0, *(start for start in named if start is not None)})


def _leaves(slot: int, insn: Insn, starts: list[int]) -> str:
    """Whether an instruction leads out of its function other than by call or exit."""
    number = bisect_right(starts, slot)
    end = starts[number] if number < len(starts) else None
    target = _jumps_to(slot, insn)
    if target is not None and bisect_right(starts, target) != number:
        return f"jumps to insn {target}, out of its function"
    if slot + insn.slots == end and insn.opcode not in (EXIT, JA, GOTOL):
        return f"runs on into the function at insn {end}"
    return ""


Helper = Callable[["_Space", int, int, int, int, int], int]
Result = tuple[int, bytes]


class _Space:
    """The memory that a program may see, for helpers: its own and its stack. Raises UsageError elsewhere."""

    def __init__(self, allowed: Callable[[int, int], bool]) -> None:
        self._allowed = allowed

    def view(self, address: int, size: int) -> "ctypes.Array[ctypes.c_ubyte]":
        if not self._allowed(address, size):
            raise UsageError(f"a helper was given {size} bytes at {address:#x}, outside the program's memory and stack")
        return (ctypes.c_ubyte * size).from_address(address)

    def text(self, address: int) -> bytes:
        out = bytearray()
        while byte := self.view(address + len(out), 1)[0]:
            out.append(byte)
        return bytes(out)


def _gather(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    return int.from_bytes(bytes(x & 0xFF for x in (a, b, c, d, e)), "big")


def _memfrob(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    view = space.view(a, b)
    for place in range(b):
        view[place] ^= 42
    return 0


def _nothing(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    return 0


def _root(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    return math.isqrt(a)


def _compare(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    left, right = space.text(a) + b"\0", space.text(b) + b"\0"
    place = next((i for i in range(min(len(left), len(right))) if left[i] != right[i]), None)
    return 0 if place is None else (left[place] - right[place]) & _WORD


def _same(space: _Space, a: int, b: int, c: int, d: int, e: int) -> int:
    return a


# What the suite's programs call, by number. Of its function of the runtime it only says that it gives 0.
_HELPERS: Mapping[int, Helper] = {
    0: _gather,
    1: _memfrob,
    2: _nothing,
    3: _root,
    4: _compare,
    _UNWIND: _same,
    _RUNTIME + 42: _nothing,
}


def _bind(helpers: Mapping[int, Helper], space: _Space) -> dict[int, Callable[[int, int, int, int, int], int]]:
    return {number: partial(body, space) for number, body in helpers.items()}


def _aligned(memory: bytes) -> "ctypes.Array[ctypes.c_char] | None":
    """Memory of a program's own, at an address that suits its widest access."""
    if not memory:
        return None
    words = (ctypes.c_uint64 * ((len(memory) + 7) // 8))()
    buffer = (ctypes.c_char * len(memory)).from_buffer(words)
    buffer.raw = memory
    return buffer


def _interpret(program: Prepared, memory: bytes, helpers: Mapping[int, Helper], limit: int) -> Result:
    from ebpf.engine.interp import Machine
    from ebpf.engine.interp import Memory as Regions

    regions = Regions()
    buffer = _aligned(memory)
    address = ctypes.addressof(buffer) if buffer is not None else 0
    if memory:
        regions.add(address, len(memory), writable=True, name="memory", keep=buffer)
    space = _Space(lambda at, size: not regions.why_not(at, size, writing=True))
    machine = Machine(program, regions, _bind(helpers, space), limit=limit, unwinds=_UNWIND if helpers else -1)
    machine.start(address)
    machine.registers[2] = len(memory)
    while machine.step():
        pass
    return machine.registers[0], buffer.raw if buffer is not None else b""


def _run_checked(program: Prepared, memory: bytes, helpers: Mapping[int, Helper], limit: int) -> Result:
    from ebpf.engine.jit import compile_checked

    buffer = _aligned(memory)
    space = _Space(lambda at, size: code.holds(at, size))
    code = compile_checked(program, _bind(helpers, space), unwinds=_UNWIND if helpers else -1)
    try:
        return code.run(buffer, len(memory), limit=limit), buffer.raw if buffer is not None else b""
    finally:
        code.close()


def _run_unchecked(program: Prepared, memory: bytes, helpers: Mapping[int, Helper], limit: int) -> Result:
    """As fast as it gets, and as dangerous: a wild access ends this process, or does not. An endless loop is ended."""
    from ebpf.engine.jit import compile_checked

    del helpers
    if any(insn.opcode == CALL and insn.src == CallSrc.HELPER for insn in program.insns):
        raise UsageError("--unchecked runs programs without helpers and maps")
    buffer = _aligned(memory)
    code = compile_checked(program, {}, accesses=False)
    try:
        return code.run(buffer, len(memory), limit=limit), buffer.raw if buffer is not None else b""
    finally:
        code.close()


_ENGINES = {"jit": _run_checked, "interp": _interpret}
_VERBS: dict[str, Verb] = {"run": run_file, "conformance": conformance, "help": help_verb("vm")}
