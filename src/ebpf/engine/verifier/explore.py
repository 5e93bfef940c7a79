"""Walking every path: depth first, with states remembered where paths may meet, so that what is proved is not proved again."""

from collections.abc import Callable
from typing import Final

from ebpf.engine.program import Code
from ebpf.engine.verifier import (
    arith,
    atomics,
    callbacks,
    calls,
    ends,
    exceptions,
    functions,
    immediates,
    jumps,
    kfuncs,
    loops,
    memory,
    packet_loads,
    targets,
)
from ebpf.engine.verifier.checkpoints import Checkpoints
from ebpf.engine.verifier.env import NO_NOTE, Env
from ebpf.engine.verifier.fast_calls import FastCalls
from ebpf.engine.verifier.fields import RESERVED_JUMP, RESERVED_LOAD
from ebpf.engine.verifier.helper_tables import SLEEPS_IDS
from ebpf.engine.verifier.kernel_types import kernel
from ebpf.engine.verifier.live_stack import LiveStack
from ebpf.engine.verifier.log import Log
from ebpf.engine.verifier.log_precision import PrecisionText
from ebpf.engine.verifier.log_shape import shape
from ebpf.engine.verifier.num import U32, ZERO, known, with_low_half
from ebpf.engine.verifier.references import forget_packets
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.reg import ANY, CTX, NOTHING, SCALAR, STACK, Reg, constant, number
from ebpf.engine.verifier.rules import Rules
from ebpf.engine.verifier.state import Frame, State
from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, CALL, EXIT, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Class, Jmp, Mode
from ebpf.uapi import HELPERS, CallSrc
from ebpf.uapi.kfuncs import Says

LIMIT: Final = 1_000_000
_PENDING: Final = 8192
_ALU: Final = int(Class.ALU)
_ALU64: Final = int(Class.ALU64)
_LDX: Final = int(Class.LDX)
_LD: Final = int(Class.LD)
_ST: Final = int(Class.ST)
_STX: Final = int(Class.STX)
_SIZES: Final = {int(size): count for size, count in BYTES.items()}
_ATOMIC: Final = int(Mode.ATOMIC)
_MEMSX: Final = int(Mode.MEMSX)
_JMP: Final = int(Class.JMP)
_JMP32: Final = int(Class.JMP32)
#: Jumps that compare nothing.
_NO_TESTS: Final = (int(Jmp.JA), int(Jmp.CALL), int(Jmp.EXIT), int(Jmp.JCOND))
_FORKS: Final = (int(Alu.AND), int(Alu.OR))


class Explorer:
    """Walks a program. `run` returns when every path was accepted, and raises Refusal at the first that is not.

    `limit` is how many instructions are walked at most.
    """

    def __init__(self, code: Code, rules: Rules, log: Log, limit: int = LIMIT) -> None:
        self.log = log
        self._kfuncs = kfuncs.names(code)
        on_exception = exceptions.callback_of(code) if rules.kernel_functions else -1
        given = kfuncs.registers(code, self._kfuncs)
        structure = Structure(code.insns, code.global_functions(), given, rules=rules, on_exception=on_exception)
        self.env = Env(code, rules, structure)
        self.env.on_exception = on_exception
        if not code.bypass_spectre:
            self.env.guess = self._guess
        self.structure = structure
        if rules.has("6.12"):
            calls_ = FastCalls(
                structure,
                {id_: (row.name, (given[id_] >> 1 & 0x1F).bit_count()) for id_, row in self._kfuncs.items()},
                whole=not rules.has("6.18"),
            )
            self.env.fast_calls = calls_ if calls_.part_of else None
        if rules.live_stack:
            self.env.live = LiveStack(structure, log.say if log.level & 2 else None)
        self.points = Checkpoints(self.env, log)
        self.processed = 0
        self.visits = [0] * len(structure.slots)
        self._limit = limit
        self._work: list[tuple[int, State, int, int]] = []
        self._tail_calls = False
        self._global_calls: list[int] = []
        self._changing = self._that(self._moves_packet)
        self.env.sleepers = self._that(self._sleeps)
        log.kfuncs = {number: row.name for number, row in self._kfuncs.items()}
        if log.level & 2:
            self._tell()
        if log.level & 3:
            complaint = functions.complaint(self.env)
            if complaint:
                log.say(complaint)

    def _tell(self) -> None:
        """What a log of level 2 has besides the paths."""
        env, log, structure = self.env, self.log, self.structure
        for line in shape(structure, lambda slot: log.insn_text(structure, slot)):
            log.say(line)
        env.tell = PrecisionText(log.say, lambda slot: log.insn_text(structure, slot), lambda point, depth: log.at_point(env, point, depth))

    def run(self) -> None:
        """Walk all paths of the program, then of each global function that it calls."""
        targets.check(self.env)
        immediates.check_maps(self.env)
        functions.check_abnormal_returns(self.env)
        regs = [NOTHING] * 11
        regs[1] = Reg(CTX)
        regs[10] = Reg(STACK)
        self._walk(State([Frame(0, regs, {}, -1)], sleepable=self.env.code.sleepable), 0)
        if self.env.on_exception >= 0:
            self._global_calls.append(self.env.on_exception)
        done: set[int] = set()
        while self._global_calls:
            start = self._global_calls.pop(0)
            if start in done:
                continue
            done.add(start)
            self.env.slot = start
            self.points.at.clear()
            name = functions.name_of(self.env.code, start), functions.number_of(self.env, start)
            self.log.begin(*name)
            self._walk(functions.enter_global(self.env, start), start)
            self.log.proved(*name)
        functions.check_depth(self.env, self._tail_calls)

    def _walk(self, state: State, start: int) -> None:
        self.env.begin(state.frames[0])
        self._work = [(start, state, -1, self.log.mark())]
        while self._work:
            slot, state, came, mark = self._work.pop()
            self.log.back(mark)
            self.env.state = state
            self._path(slot, state, came)
        # All is accepted: what is wrong yet is wrong with the whole.
        self.log.back(0)

    # -- one path

    def _path(self, slot: int, state: State, came: int) -> None:
        env, log = self.env, self.log
        structure = self.structure
        slots, prunes, problems = structure.slots, structure.prunes, structure.problems
        limit, verbose = self._limit, log.level & 3
        step, points, landings = self._step, self.points, structure.landings
        show = came >= 0
        while True:
            env.slot = slot
            self.processed += 1
            if self.processed > limit:
                raise self._too_large(limit)
            self.visits[slot] += 1
            if slot in prunes and points.proved(slot, state, self.processed):
                if verbose:
                    log.pruned(came, slot, show=show)
                self._ended(state)
                return
            if verbose:
                if show:
                    log.moved(env, came, slot)
                    show = False
                log.insn(env, slot)
            if problems and slot in problems:
                reason, says = problems[slot]
                wrong = slots[slot]
                if says == RESERVED_JUMP and wrong is not None:
                    env.readable(wrong.dst)
                elif says == RESERVED_LOAD:
                    packet_loads.allowed(env)
                raise env.refuse(reason, says, "an instruction is none that the kernel knows")
            insn = slots[slot]
            assert insn is not None
            env.note = NO_NOTE
            if verbose:
                depth, frame = len(state.frames), state.frames[-1]
            following = step(slot, insn, state) if not state.guessed else self._guessed_step(slot, insn, state)
            state.history = (state.history, slot, env.note)
            if env.note is not NO_NOTE or slot in landings:
                state.noted += 1
            if verbose and insn.opcode & 7 in (_JMP, _JMP32) and insn.opcode & 0xF0 not in _NO_TESTS:
                log.jumped(env, slot)
            if verbose and following >= 0 and len(state.frames) != depth:
                if len(state.frames) > depth:
                    log.entered(env)
                else:
                    show = insn.opcode == EXIT
                    log.returned(env, frame, following, at_end=show)
            if following < 0:
                self._ended(state)
                return
            came, slot = slot, following

    def _ended(self, state: State) -> None:
        self.points.loops.ended(state)
        self.env.leave()

    def _too_large(self, limit: int) -> Refusal:
        hot = sorted(((count, at) for at, count in enumerate(self.visits)), reverse=True)[:3]
        most = ", ".join(f"instruction {at} {count} times" for count, at in hot)
        if limit < LIMIT:
            return Unjudged(f"a program that takes more than {limit} steps", self.env.slot)
        return self.env.refuse(
            "too-complex",
            f"BPF program is too large. Processed {self.processed} insn",
            f"the program has too many paths: {limit} instructions were walked and it is not judged yet (most often {most})",
            visits=[(at, count) for count, at in hot],
        )

    def _fork(self, slot: int, state: State) -> None:
        """Come back later to another way on; its history must already have what leads there."""
        if state.parent is not None:
            state.parent.branches += 1
        self._work.append((slot, state, self.env.slot, self.log.mark()))
        if len(self._work) > _PENDING:
            raise self.env.refuse(
                "too-complex",
                f"The sequence of {_PENDING + 1} jumps is too complex.",
                f"more than {_PENDING} ways on are waiting to be walked",
            )

    def _fork_half(self, slot: int, state: State) -> None:
        """Come back to a state that stands before the instruction at which it was split off."""
        self._fork(slot, state)

    # -- what a processor only guesses

    def _guess(self, slot: int, state: State) -> None:
        """Come back to where a processor may go by a wrong guess."""
        state.guessed = True
        state.history = (state.history, self.env.slot, self.env.note)
        self._fork(slot, state)

    def _guessed_step(self, slot: int, insn: Insn, state: State) -> int:
        """One instruction on such a path: what is wrong there ends it, since Linux puts a barrier before it."""
        env = self.env
        if slot in env.barriers:
            return -1
        try:
            following = self._step(slot, insn, state)
        except Refusal as refusal:
            if not env.rules.guesses_mended or refusal.reason in ("unknown", "too-complex"):
                raise
            env.barriers.add(slot)
            env.masks.pop(slot, None)
            return -1
        return -1 if env.rules.guesses_mended and slot in env.barriers_behind else following

    # -- instructions

    def _step(self, slot: int, insn: Insn, state: State) -> int:
        """Carry out one instruction on the state; where to go on, or -1 at the path's end."""
        env = self.env
        opcode = insn.opcode
        kind = opcode & 7
        if kind in (_ALU, _ALU64):
            if opcode & 0xF0 in _FORKS and env.rules.splits:
                self._split(slot, insn, state)
            arith.execute(env, insn)
            return slot + 1
        if kind == _LDX:
            src = env.readable(insn.src)
            if insn.dst == 10:
                raise env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")
            size = _SIZES[opcode & 0x18]
            signed = opcode & 0xE0 == _MEMSX
            regs = state.frames[-1].regs
            value = memory.access(env, insn.src, insn.off, size, write=False, value=None, signed=signed)
            memory.same_kind(env, src.kind, load=True)
            regs[insn.dst] = value
            return slot + 1
        if kind == _STX:
            self._store(insn, state)
            if env.live is not None:
                env.live.ran(state, slot)
            return slot + 1
        if kind == _ST:
            dst = env.readable(insn.dst)
            size = _SIZES[opcode & 0x18]
            memory.access(env, insn.dst, insn.off, size, write=True, value=constant(insn.imm))
            memory.same_kind(env, dst.kind)
            if env.live is not None:
                env.live.ran(state, slot)
            return slot + 1
        if kind == _LD:
            if opcode != LD_IMM64:
                if packet_loads.load(env, insn):
                    return self._return_at_once(slot, constant(0), ANY)
                env.regs[0] = ANY
                return slot + 1
            if insn.dst == 10:
                raise env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")
            state.frames[-1].regs[insn.dst] = immediates.load(env, slot, insn)
            return slot + 2
        return self._jump(slot, insn, state)

    def _split(self, slot: int, insn: Insn, state: State) -> None:
        """A number that is 0 or -1 before & or |: both are walked, because the result's bounds would say nothing."""
        env = self.env
        if insn.opcode & 8:
            source = env.regs[insn.src]
            if source.kind != SCALAR or source.num.mask:
                return
        reg = env.regs[insn.dst]
        if reg.kind != SCALAR:
            return
        num = reg.num
        if num.smin == -1 and num.smax == 0:
            zero, ones = ZERO, known(-1)
        elif num.smin32 == -1 and num.smax32 == 0:
            zero, ones = with_low_half(num, 0, env.rules), with_low_half(num, U32, env.rules)
        else:
            return
        other = state.copy()
        other.frames[-1].regs[insn.dst] = Reg(SCALAR, zero, reg.off, reg.id, reg.flags) if reg.id else number(zero)
        self._fork_half(slot, other)
        env.regs[insn.dst] = Reg(SCALAR, ones, reg.off, reg.id, reg.flags) if reg.id else number(ones)

    def _store(self, insn: Insn, state: State) -> None:
        env = self.env
        size = _SIZES[insn.opcode & 0x18]
        if insn.opcode & 0xE0 == _ATOMIC:
            atomics.execute(env, insn, size)
            return
        value = env.readable(insn.src)
        dst = env.readable(insn.dst)
        memory.access(env, insn.dst, insn.off, size, write=True, value=value, source=insn.src)
        memory.same_kind(env, dst.kind)

    # -- jumps, calls, the end

    def _jump(self, slot: int, insn: Insn, state: State) -> int:
        self.points.jumps += 1
        opcode = insn.opcode
        if opcode == JA:
            return slot + 1 + insn.off
        if opcode == GOTOL:
            return slot + 1 + insn.imm
        if opcode == EXIT:
            return ends.leave(self.env, state)
        if opcode == CALL:
            return self._call(slot, insn, state)
        env = self.env
        target = slot + 1 + insn.off
        if opcode == MAY_GOTO:
            if not env.rules.may_goto:
                raise env.refuse("invalid-instruction", "unknown opcode e5", "this Linux has no may_goto")
            if not insn.off and not env.rules.may_goto_nowhere:
                raise env.refuse("invalid-instruction", "invalid may_goto off 0 imm 0", "in this Linux a may_goto must lead somewhere")
            # The way out comes first, as Linux walks it; the next turn starts from what the last one left open.
            turn = state.copy()
            turn.history = (state.history, slot, None)
            turn.may_goto += 1
            assert state.parent is not None
            loops.widen(slot, turn, state.parent.parent)
            self._fork(slot + 1, turn)
            return target
        taken = jumps.decide(env, insn)
        if taken is not None:
            if env.guess is not None:
                other = state.copy()
                other.frames[-1].regs[insn.dst] = ANY
                if insn.opcode & 8:
                    other.frames[-1].regs[insn.src] = ANY
                self._guess(slot + 1 if taken else target, other)
            return target if taken else slot + 1
        places = jumps.linked(env, insn)
        if places is not None:
            env.note = places
        state.history = (state.history, slot, places)
        other = state.copy()
        jumps.learn(env, insn, other, places, taken=True)
        jumps.learn(env, insn, state, places, taken=False)
        self._fork(target, other)
        state.history = state.history[0]
        return slot + 1

    def _call(self, slot: int, insn: Insn, state: State) -> int:
        env = self.env
        if insn.src == CallSrc.PSEUDO_CALL:
            target = slot + 1 + insn.imm
            if self.structure.is_global(target):
                self._global_calls.append(target)
                following = functions.call_global(env, target)
                self.log.assumed(functions.name_of(env.code, target), functions.number_of(env, target))
                if target in self._changing:
                    forget_packets(env)
                return following
            if not env.rules.locked_calls and any(held.kind == "lock" for held in state.held):
                raise env.refuse(
                    "locked-call", "function calls are not allowed while holding a lock", "a function is called while a lock is held"
                )
            return functions.call_static(env, target)
        if insn.src != CallSrc.HELPER:
            function = self._kfuncs.get(insn.imm)
            if function is None:
                kernel(env)
                raise Unjudged("calls of functions that are not among the kernel's types", slot)
            turn = kfuncs.call(env, function)
            if env.live is not None:
                env.live.ran(state, slot)
            if function.name == exceptions.THROW:
                return -1
            if turn is not None:
                if turn[0] != slot + 1:
                    self.structure.called_back.add(turn[0])
                    self.log.called_back()
                self._fork(*turn)
            return slot + 1
        caller = state.frames[-1]
        before = list(caller.regs)
        call = calls.helper(env, insn.imm)
        if call.row.name == "tail_call":
            self._tail_calls = True
            if len(state.frames) > 1 and not state.frames[-1].callback:
                # The program that is jumped to returns to this function's caller.
                following = self._return_at_once(slot, ANY, NOTHING)
                forget_packets(env)
                return following
        if env.live is not None:
            env.live.ran(state, slot)
        if call.function >= 0:
            self.structure.called_back.add(call.function)
            self.log.called_back()
            inside = callbacks.run(env, call, before)
            if inside is not None:
                self._fork(*inside)
        return slot + 1

    def _return_at_once(self, slot: int, result: Reg, after: Reg) -> int:
        """The function returns in the middle; the way on in it is walked later."""
        following, other = ends.at_once(self.env, result, after)
        self._fork(slot + 1, other)
        return following

    def _that(self, does: Callable[[Insn], bool]) -> set[int]:
        """The functions that do something, themselves or by what they call."""
        structure = self.structure
        out: set[int] = set()
        changed = True
        while changed:
            changed = False
            for start in structure.starts:
                if start in out:
                    continue
                for slot in range(start, structure.ends[start]):
                    insn = structure.slots[slot]
                    if insn is None or insn.opcode != CALL:
                        continue
                    if does(insn) or (insn.src == CallSrc.PSEUDO_CALL and slot + 1 + insn.imm in out):
                        out.add(start)
                        changed = True
                        break
        return out

    def _sleeps(self, insn: Insn) -> bool:
        if insn.src == CallSrc.HELPER:
            return insn.imm in SLEEPS_IDS
        function = self._kfuncs.get(insn.imm) if insn.src == CallSrc.KFUNC_CALL else None
        return function is not None and kfuncs.says(function.name, Says.SLEEPABLE)

    def _moves_packet(self, insn: Insn) -> bool:
        if insn.src == CallSrc.HELPER:
            row = HELPERS.get(insn.imm)
            return row is not None and row.moves_packet
        function = self._kfuncs.get(insn.imm) if insn.src == CallSrc.KFUNC_CALL else None
        return function is not None and kfuncs.says(function.name, Says.MOVES_PACKET)
