"""The shape of a program before any path is walked: instructions that exist, jumps that land, subprograms, liveness."""

from collections.abc import Mapping, Sequence

from ebpf.engine.verifier.fields import problem_of
from ebpf.engine.verifier.known_opcodes import known
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.rules import NEWEST, Rules
from ebpf.isa import Insn, by_slot
from ebpf.isa.opcodes import CALL, CALLX, EXIT, FETCH, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Jmp, Mode
from ebpf.uapi import HELPERS, Arg, CallSrc, PseudoSrc

_CALLER_SAVED = 0b111110
_SUBPROGRAMS = 256
#: Helpers that run a function of the program before they return.
_CALL_BACK = frozenset({"for_each_map_elem", "loop", "find_vma", "user_ringbuf_drain"})
_CALL_LATER = frozenset({"timer_set_callback"})


class Structure:
    """A program's instructions by slot, its subprograms, where paths may meet, and live registers.

    `prunes` are the slots where states are remembered; `problems` says of a slot why its instruction is none, which matters
    only if a path gets there; `calls_back` are calls of helpers that run a function of the program, `advances` of kernel
    functions that give an iterator's next element. `kfuncs` has, for each kernel function, a bit for each register that it is
    given, and bit 0 if it advances an iterator.
    """

    def __init__(
        self,
        insns: Sequence[Insn],
        globals_: frozenset[int] = frozenset(),
        kfuncs: Mapping[int, int] | None = None,
        *,
        rules: Rules = NEWEST,
        on_exception: int = -1,
    ) -> None:
        self.slots = by_slot(insns)
        if not insns:
            raise Refusal("invalid-instruction", "no instructions", "the program is empty")
        self.globals = globals_
        self.prunes: set[int] = set()
        #: Where jumps land and calls come back to.
        self.landings: set[int] = set()
        self.forced: set[int] = set()
        self.calls_back: set[int] = set()
        self.advances: set[int] = set()
        self._kfuncs = kfuncs or {}
        self._on_exception = on_exception
        self._enters_loops = rules.enters_loops
        self.called_back: set[int] = set()
        #: Of them, those that run some other time.
        self.called_later: set[int] = set()
        self.problems: dict[int, tuple[str, str]] = {}
        self.starts = self._find_starts(on_exception)
        self.ends: Mapping[int, int] = dict(zip(self.starts, [*self.starts[1:], len(self.slots)], strict=True))
        self._check_jumps()
        opcodes = known(rules)
        for slot, insn in enumerate(self.slots):
            if insn is not None:
                problem = problem_of(insn, opcodes, cpu_v4=rules.cpu_v4)
                if problem:
                    if insn.opcode not in opcodes or insn.opcode & 7 == Class.LDX:
                        # Linux looks at these before it walks, so that they matter in code that no path reaches, too.
                        raise Refusal("invalid-instruction", problem, "an instruction is none that the kernel knows", slot)
                    self.problems[slot] = ("invalid-instruction", problem)
                elif insn.dst > 10 or insn.src > 10:
                    self.problems[slot] = ("invalid-instruction", f"R{insn.src if insn.src > 10 else insn.dst} is invalid")
        self._reach()
        #: Of each slot, where control may go next inside the function.
        self.following = [self.successors(slot, insn) if insn is not None else () for slot, insn in enumerate(self.slots)]
        self.live = self._liveness()
        #: Of each instruction, the registers whose searched-for numbers it has to do with, on a way back: precision.py.
        self.concerns = [_concerns(insn) if insn is not None else 0 for insn in self.slots]

    def function_of(self, slot: int) -> int:
        """The first slot of the subprogram that a slot is in."""
        found = 0
        for start in self.starts:
            if start > slot:
                break
            found = start
        return found

    def is_global(self, start: int) -> bool:
        """Whether the subprogram is judged on its own, whatever it is called with."""
        return start in self.globals

    def throws(self, insn: Insn) -> bool:
        """Whether a call ends the program, wherever it is made."""
        return insn.opcode == CALL and insn.src == CallSrc.KFUNC_CALL and self._kfuncs.get(insn.imm, 0) & NO_RETURN != 0

    def _find_starts(self, on_exception: int) -> list[int]:
        starts = {0, max(on_exception, 0)}
        for slot, insn in enumerate(self.slots):
            if insn is None:
                continue
            if (insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL) or (insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC):
                target = slot + 1 + insn.imm
                if not 0 <= target < len(self.slots):
                    raise Refusal("control-flow", "call to invalid destination", "a call leads out of the program", slot)
                if self.slots[target] is None:
                    raise Refusal(
                        "control-flow", f"jump into the middle of ldimm64 insn {target}", "a call leads into an instruction", slot
                    )
                starts.add(target)
        if len(starts) > _SUBPROGRAMS:
            raise Refusal("control-flow", "too many subprograms", f"a program has at most {_SUBPROGRAMS} functions")
        return sorted(starts)

    def successors(self, slot: int, insn: Insn) -> tuple[int, ...]:
        """Where control may go next inside the function, the way straight on first."""
        opcode = insn.opcode
        kind = opcode & 7
        if kind not in (5, 6) or opcode in (CALL, CALLX):
            if slot + 1 >= len(self.slots) and self.throws(insn):
                return ()
            return (slot + insn.slots,)
        if opcode == EXIT:
            return ()
        if opcode == JA:
            return (slot + 1 + insn.off,)
        if opcode == GOTOL:
            return (slot + 1 + insn.imm,)
        return (slot + 1, slot + 1 + insn.off)

    def _check_jumps(self) -> None:
        for start in self.starts:
            end = self.ends[start]
            last: Insn | None = None
            for slot in range(start, end):
                insn = self.slots[slot]
                if insn is None:
                    continue
                last = insn
                kind = insn.opcode & 7
                if kind in (5, 6) and insn.opcode & 0xF0 not in (Jmp.CALL, Jmp.EXIT):
                    target = self.successors(slot, insn)[-1]
                    if not start <= target < end:
                        raise Refusal(
                            "control-flow", f"jump out of range from insn {slot} to {target}", "a jump leads out of its function", slot
                        )
            if last is None or (last.opcode not in (EXIT, JA, GOTOL) and not self.throws(last)):
                raise Refusal("control-flow", "last insn is not an exit or jmp", "a function does not end in a return or a jump", end - 1)

    def _reach(self) -> None:
        """Walk the graph as Linux does: find what cannot be reached, and where states are worth remembering."""
        found = [False] * len(self.slots)
        above: set[int] = set()
        pending = [self._on_exception, 0] if self._on_exception > 0 else [0]
        while pending:
            start = pending.pop()
            if found[start]:
                continue
            stack: list[tuple[int, list[int]]] = [(start, self._edges(start, pending))]
            found[start] = True
            above.add(start)
            while stack:
                slot, edges = stack[-1]
                if not edges:
                    stack.pop()
                    above.discard(slot)
                    continue
                target = edges.pop(0)
                if target >= len(self.slots) or self.slots[target] is None:
                    raise Refusal(
                        "control-flow", f"jump into the middle of ldimm64 insn {target}", "a jump leads into an instruction", slot
                    )
                if not found[target]:
                    found[target] = True
                    above.add(target)
                    stack.append((target, self._edges(target, pending)))
                elif target in above and not self._enters_loops and not self._jumps(slot):
                    raise Refusal(
                        "control-flow", f"back-edge from insn {slot} to {target}", "a loop is entered in its middle: jump to its head", slot
                    )
        for slot, insn in enumerate(self.slots):
            if insn is not None and not found[slot]:
                raise Refusal("control-flow", f"unreachable insn {slot}", "part of the program can never be reached", slot)

    def _jumps(self, slot: int) -> bool:
        insn = self.slots[slot]
        return insn is not None and insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, CALLX)

    def _edges(self, slot: int, pending: list[int]) -> list[int]:
        insn = self.slots[slot]
        assert insn is not None
        edges = list(self.successors(slot, insn))
        opcode = insn.opcode
        if opcode == CALL:
            self.prunes.add(slot + 1)
            self.landings.add(slot + 1)
            if insn.src == CallSrc.PSEUDO_CALL:
                self.prunes.add(slot)
                target = slot + 1 + insn.imm
                self.prunes.add(target)
                self.landings.add(target)
                pending.append(target)
            elif insn.src == CallSrc.HELPER:
                row = HELPERS.get(insn.imm)
                if row is not None and (row.name in _CALL_BACK or row.name in _CALL_LATER):
                    self.prunes.add(slot)
                    if row.name in _CALL_BACK:
                        self.calls_back.add(slot)
                        self.forced.add(slot)
            elif self._kfuncs.get(insn.imm, 0) & 1:
                self.prunes.add(slot)
                self.forced.add(slot)
                self.advances.add(slot)
        elif opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC:
            target = slot + 1 + insn.imm
            self.prunes.update((slot, slot + 2, target))
            self.landings.update((slot + 2, target))
            pending.append(target)
        elif opcode & 7 in (5, 6) and opcode != EXIT and opcode != CALLX:
            if len(edges) == 2:
                self.prunes.add(slot)
                if opcode == MAY_GOTO:
                    self.forced.add(slot)
            self.prunes.add(edges[-1])
            self.landings.add(edges[-1])
        return edges

    def _liveness(self) -> list[int]:
        """For each slot, a bit for each register that is read before it is written."""
        live = [0] * (len(self.slots) + 1)
        effects = [_effects(insn, self._kfuncs) if insn is not None else (0, 0) for insn in self.slots]
        changed = True
        while changed:
            changed = False
            for slot in range(len(self.slots) - 1, -1, -1):
                if self.slots[slot] is None:
                    continue
                after = 0
                for target in self.following[slot]:
                    after |= live[target]
                uses, defines = effects[slot]
                now = (after & ~defines) | uses
                if now != live[slot]:
                    live[slot] = now
                    changed = True
        return live


def _effects(insn: Insn, kfuncs: Mapping[int, int]) -> tuple[int, int]:
    """The registers that an instruction reads and writes, as bits."""
    dst, src = 1 << insn.dst, 1 << insn.src
    kind = insn.opcode & 7
    if kind in (Class.ALU, Class.ALU64):
        uses = src if insn.opcode & 8 and insn.opcode & 0xF0 != Alu.END else 0
        if insn.opcode & 0xF0 != Alu.MOV:
            uses |= dst
        return uses, dst
    if kind == Class.LDX:
        return src, dst
    if kind == Class.ST:
        return dst, 0
    if kind == Class.STX:
        if insn.opcode & 0xE0 != Mode.ATOMIC:
            return dst | src, 0
        if insn.imm == Atomic.LOAD_ACQ:
            return src, dst
        if insn.imm == Atomic.CMPXCHG:
            return dst | src | 1, 1
        return dst | src, src if insn.imm & FETCH else 0
    if kind == Class.LD:
        return (0, dst) if insn.opcode == LD_IMM64 else (src | 1 << 6, 1)
    if insn.opcode == EXIT:
        return 1, 0
    if insn.opcode in (CALL, CALLX):
        row = HELPERS.get(insn.imm) if insn.src == CallSrc.HELPER else None
        if row is not None and row.args is not None:
            return ((1 << sum(arg is not Arg.VARARG for arg in row.args)) - 1) << 1, 1 | _CALLER_SAVED
        if insn.src == CallSrc.KFUNC_CALL:
            return kfuncs.get(insn.imm, _CALLER_SAVED) & _CALLER_SAVED, 1 | _CALLER_SAVED
        return _CALLER_SAVED, 1 | _CALLER_SAVED
    if insn.opcode in (JA, GOTOL, MAY_GOTO):
        return 0, 0
    return dst | (src if insn.opcode & 8 else 0), 0


#: Of a kernel function: it ends the program.
NO_RETURN = 1 << 6
#: The instruction has to do with whatever is searched for.
ALWAYS = 1 << 16
#: It has to do with slots of the stack that are searched for.
STORES = 1 << 17


def _concerns(insn: Insn) -> int:
    kind = insn.opcode & 7
    if kind in (Class.ALU, Class.ALU64, Class.LDX):
        return 1 << insn.dst
    if kind == Class.LD:
        return 1 << insn.dst if insn.opcode == LD_IMM64 else ALWAYS
    if kind == Class.ST or (kind == Class.STX and insn.opcode & 0xE0 != Mode.ATOMIC):
        return STORES | 1 << insn.dst
    if kind == Class.STX or insn.opcode in (CALL, CALLX, EXIT):
        return ALWAYS
    return 1 << insn.dst | 1 << insn.src if insn.opcode & 8 else 0
