"""The verifier's log in Linux's dialect: level 1 shows the path that failed, level 2 all paths, level 4 statistics alone."""

from bisect import bisect_right
from collections.abc import Mapping

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import Reg
from ebpf.engine.verifier.state import EMPTY, LETTERS, SPILL, Checkpoint, Frame, Slot, State
from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn, disasm_one
from ebpf.isa.opcodes import CALL, EXIT, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Class
from ebpf.uapi import HELPERS, CallSrc

# States stand behind the instructions, at a column that Linux counts with the end of the line in it.
_COLUMN, _STEP = 40, 8


def name_call(insn: Insn, slot: int) -> str | None:
    """A helper call as Linux prints it: `bpf_trace_printk#6`."""
    del slot
    row = HELPERS.get(insn.imm) if insn.src == CallSrc.HELPER else None
    return f"bpf_{row.name}#{insn.imm}" if row is not None else None


class Log:
    """Collects the log's lines. `level` is bpf(2)'s: bits 1 and 2 for text, 4 for statistics."""

    def __init__(self, level: int, sources: dict[int, str]) -> None:
        self.level = level
        self._sources = sources
        self._lines: list[str] = []
        self._shown: list[list[Reg]] = []
        self._whole = False
        self._returned = False
        self._stacks: list[dict[int, Slot]] = []
        self._starts = sorted(sources)
        self._source = ""
        # Lines by number as they were before the state was put behind them.
        self._bare: dict[int, str] = {}
        self._cut = False
        #: The instruction whose changes are not shown yet, and how many lines there were behind it.
        self._pending = -1
        self._mark = 0
        #: The names of kernel functions by number.
        self.kfuncs: Mapping[int, str] = {}

    def mark(self) -> int:
        """Where the log is now."""
        return len(self._lines)

    def back(self, mark: int) -> None:
        """Forget what a path that was accepted printed, unless all is wanted.

        What stood behind the branch was the other way's, too; Linux cuts it off with the end of the line.
        """
        if not self.level & 2:
            del self._lines[mark:]
            bare = self._bare.get(mark - 1)
            self._cut = bare is not None
            if bare is not None:
                self._lines[-1] = bare

    def say(self, text: str) -> None:
        """Add lines."""
        self._lines.extend(text.split("\n"))

    def text(self) -> str:
        """All of it."""
        return "\n".join(self._lines) + "\n" if self._lines else ""

    def begin(self, name: str, number: int) -> None:
        """A global function is judged by itself."""
        self._pending = -1
        if self.level & 3:
            self.say(f"Validating {name}() func#{number}...")
            self._shown.clear()

    def assumed(self, name: str, number: int) -> None:
        """A global function is called: it is judged by itself."""
        if self.level & 3:
            self.say(f"Func#{number} ('{name}') is global and assumed valid.")

    def proved(self, name: str, number: int) -> None:
        """A global function was judged."""
        if self.level & 3:
            self.say(f"Func#{number} ('{name}') is safe for any args that match its prototype")

    def pruned(self, came: int, slot: int, *, show: bool) -> None:
        """A path ended where all was proved."""
        self._returned = False
        self.say(f"\nfrom {came} to {slot}: safe" if show else f"{slot}: safe")

    def moved(self, env: Env, came: int, slot: int) -> None:
        """The walk goes on elsewhere: show the whole state."""
        self._pending = env.scratched = -1
        text = self.state(env, env.state)
        if self.level & 2:
            guessed = " (speculative execution)" if env.state.guessed else ""
            self.say(f"\nfrom {came} to {slot}{guessed}:{text}")
        if self._returned:
            self._returned = False
        elif self._cut:
            self._lines[-1] += f" {slot}:{text}"
            self._cut = False
        else:
            self.say(f"{slot}:{text}")
        self._snapshot(env.state)

    def entered(self, env: Env) -> None:
        """A function was called: both frames are shown."""
        state = env.state
        self.say(f"caller:\n{self._frame(env, state, len(state.frames) - 2)}\ncallee:\n{self.state(env, state)}")
        self._snapshot(state, whole=True)

    def called_back(self) -> None:
        """A helper ran a function of the program: all is to be shown again."""
        self._whole = True

    def returned(self, env: Env, callee: Frame, slot: int, *, at_end: bool) -> None:
        """A function returned to `slot`, or (not `at_end`) what it jumped to did."""
        state = env.state
        inner = self._text(env, state, callee, len(state.frames))
        self.say(f"returning from callee:\n{inner}\nto caller at {slot}:\n{self.state(env, state)}")
        self._returned = at_end

    def insn(self, env: Env, slot: int) -> None:
        """The instruction that comes next."""
        if not self._shown:
            self.say(f"{slot}:{self.state(env, env.state)}")
            self._snapshot(env.state)
        elif self._pending >= 0:
            self._finish(env, slot)
        self._show_source(slot)
        self.say(self.insn_text(env.structure, slot))
        self._pending, self._mark = slot, len(self._lines)

    def insn_text(self, structure: Structure, slot: int) -> str:
        """An instruction with its slot."""
        insn = structure.slots[slot]
        assert insn is not None
        return f"{slot}: {disasm_one(insn, slot, name_call=self._name_call)}"

    def _name_call(self, insn: Insn, slot: int) -> str | None:
        if insn.src == CallSrc.KFUNC_CALL and insn.imm in self.kfuncs:
            return f"{self.kfuncs[insn.imm]}#{insn.imm}"
        return name_call(insn, slot)

    def _show_source(self, slot: int) -> None:
        """The line that an instruction comes from, unless it was the last one shown."""
        at = bisect_right(self._starts, slot) - 1
        line = self._sources[self._starts[at]] if at >= 0 else self._source
        if line != self._source:
            self._source = line
            self.say(f"; {line}")

    def show(self, structure: Structure, slot: int) -> None:
        """One instruction, without its state."""
        insn = structure.slots[slot] if slot < len(structure.slots) else None
        if insn is not None:
            self.say(self.insn_text(structure, slot))

    def jumped(self, env: Env, slot: int) -> None:
        """A comparison was made: what it tells is shown at once."""
        if self._pending >= 0:
            self._finish(env, slot)
            self._pending = -1

    def _finish(self, env: Env, slot: int) -> None:
        """What the last instruction changed: behind its text, or on a line of its own where lines followed."""
        changed = self._changes(env, self._pending)
        if changed is not None and len(self._lines) > self._mark:
            self.say(f"{slot}:{changed}")
        elif changed is not None:
            line = self._lines[-1]
            column = -(-max(len(line) + 1 + _STEP // 2, _COLUMN) // _STEP) * _STEP - 2
            self._bare[len(self._lines) - 1] = line
            self._lines[-1] = f"{line:<{column}};{changed}"

    # -- states

    def state(self, env: Env, state: State) -> str:
        """A whole state, as one line that begins with a space."""
        return self._frame(env, state, len(state.frames) - 1)

    def at_point(self, env: Env, point: Checkpoint, depth: int) -> str:
        """A remembered state's frame; numbers that matter exactly have a P."""
        return self._frame(env, point.state, depth, point)

    def _frame(self, env: Env, state: State, depth: int, point: Checkpoint | None = None) -> str:
        return self._text(env, state, state.frames[depth], depth, point)

    def _text(self, env: Env, state: State, frame: Frame, depth: int, point: Checkpoint | None = None) -> str:
        parts = [f"frame{depth}:"] if depth else []
        precise, slots = (point.precise[depth], point.precise_slots[depth]) if point is not None else (0, 0)
        for at, reg in enumerate(frame.regs):
            if reg.kind:
                parts.append(f"R{at}={env.text(reg, frame=depth, precise=precise >> at & 1 != 0)}")
        parts.extend(self._slots(env, frame, depth, sorted(frame.stack), slots))
        parts.extend(_references(state))
        parts.extend(_kind(frame))
        return "".join(" " + part for part in parts)

    def _slots(self, env: Env, frame: Frame, depth: int, wanted: list[int], precise: int = 0) -> list[str]:
        out = []
        for at in wanted:
            held = frame.stack.get(at, EMPTY)
            if not any(held.types):
                continue
            if held.special is not None:
                if held.special.first:
                    out.append(f"fp{-8 * (at + 1)}={held.special.text()}")
                continue
            text = "".join(LETTERS[byte] for byte in reversed(held.types))
            if held.types[0] == SPILL:
                # Only what is above a register that was spilled in part is shown as letters.
                text = text.rstrip("r") + env.text(held.reg, frame=depth, precise=precise >> at & 1 != 0)
            out.append(f"fp{-8 * (at + 1)}={text}")
        return out

    def _snapshot(self, state: State, *, whole: bool = False) -> None:
        """Keep what is shown; `whole`: all is to be shown again."""
        self._whole = whole
        self._shown = [list(frame.regs) for frame in state.frames]
        self._stacks = [dict(frame.stack) for frame in state.frames]

    def _changes(self, env: Env, slot: int) -> str | None:
        state = env.state
        if self._whole:
            self._snapshot(state)
            env.scratched = -1
            return self.state(env, state)
        depth = len(state.frames) - 1
        frame = state.frames[-1]
        parts = [f"frame{depth}:"] if depth else []
        head = len(parts)
        insn = env.structure.slots[slot]
        assert insn is not None
        touched = _touched(insn)
        for at, reg in enumerate(frame.regs):
            if touched >> at & 1 and reg.kind:
                parts.append(f"R{at}={env.text(reg, frame=depth)}")
        stack = self._stacks[-1]
        # Linux does not say of which frame it is: the slot of the running function is shown.
        seen = env.scratched & 0xFF if env.scratched >= 0 else -1
        env.scratched = -1
        wanted = [
            at
            for at in sorted(frame.stack)
            if at == seen
            or (frame.stack[at] is not stack.get(at) and insn.opcode & 7 not in (5, 6))
            or (insn.opcode == CALL and frame.stack[at] is not stack.get(at))
        ]
        parts.extend(self._slots(env, frame, depth, wanted))
        self._snapshot(state)
        if len(parts) == head and insn.opcode != CALL:
            return None
        parts.extend(_references(state))
        parts.extend(_kind(frame))
        return "".join(" " + part for part in parts)


def _kind(frame: Frame) -> list[str]:
    return ["cb"] if frame.callback else ["async_cb"] if frame.asynchronous else []


def _references(state: State) -> list[str]:
    """What is held, as the last word of a state."""
    ids = [str(held.id) for held in state.held if held.id]
    return ["refs=" + ",".join(ids)] if ids else []


def _touched(insn: Insn) -> int:
    """A bit for each register that an instruction names."""
    kind = insn.opcode & 7
    if insn.opcode == CALL:
        return 0b111111
    if insn.opcode == EXIT:
        return 0
    if kind == Class.LD or insn.opcode in (JA, GOTOL, MAY_GOTO):
        # What loads from packets has the context in r6.
        return 1 << insn.dst | (1 << 6 if kind == Class.LD and insn.opcode != LD_IMM64 else 0) if kind == Class.LD else 0
    out = 1 << insn.dst
    if kind in (Class.LDX, Class.STX) or (insn.opcode & 8 and kind != Class.ST and not (kind in (4, 7) and insn.opcode & 0xF0 == Alu.END)):
        out |= 1 << insn.src
    return out
