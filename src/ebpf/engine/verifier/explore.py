"""Walking every path: depth first, with states remembered where paths may meet, so that what is proved is not proved again."""

from typing import Final

from ebpf.engine.program import Code, MapDesc
from ebpf.engine.verifier import arith, calls, functions, jumps, memory
from ebpf.engine.verifier.compare import COVERS, SAME, WITHIN, covers
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.log import Log
from ebpf.engine.verifier.num import ZERO, known
from ebpf.engine.verifier.precision import Trace, trace_back
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    CTX,
    FUNC,
    MAP_PTR,
    MAP_VALUE,
    NOTHING,
    SCALAR,
    STACK,
    Reg,
    constant,
)
from ebpf.engine.verifier.rules import Rules
from ebpf.engine.verifier.state import Checkpoint, Frame, Slot, State
from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, CALL, EXIT, FETCH, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Mode
from ebpf.uapi import PROGRAM_TYPES, AttachType, CallSrc, ProgType, PseudoSrc

LIMIT: Final = 1_000_000
_PENDING: Final = 8192
_STATES: Final = 64
_ALU: Final = int(Class.ALU)
_ALU64: Final = int(Class.ALU64)
_LDX: Final = int(Class.LDX)
_LD: Final = int(Class.LD)
_ST: Final = int(Class.ST)
_STX: Final = int(Class.STX)
_SIZES: Final = {int(size): count for size, count in BYTES.items()}
_ATOMIC: Final = int(Mode.ATOMIC)
_MEMSX: Final = int(Mode.MEMSX)
_TRACING: Final = frozenset(
    {ProgType.KPROBE, ProgType.TRACEPOINT, ProgType.PERF_EVENT, ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE}
)
_FORKS: Final = (int(Alu.AND), int(Alu.OR))
_CHANGES: Final = calls.MOVES_PACKET


class Explorer:
    """Walks a program. `run` returns when every path was accepted, and raises Refusal at the first that is not.

    `limit` is how many instructions are walked at most; `observe`, if given, is called before each one with the state.
    """

    def __init__(self, code: Code, rules: Rules, log: Log, limit: int = LIMIT) -> None:
        self.log = log
        structure = Structure(code.insns, functions.globals_of(code))
        self.env = Env(code, rules, structure)
        self.structure = structure
        self.processed = 0
        self.states = 0
        self.peak = 0
        self.visits = [0] * len(structure.slots)
        self._rules = rules
        self._limit = limit
        self._jumps = 0
        self._jumps_then = 0
        self._processed_then = 0
        self.seen: dict[int, list[Checkpoint]] = {}
        self._work: list[tuple[int, State, int, int]] = []
        self._tail_calls = False
        self._global_calls: list[int] = []
        self._changing: set[int] = self._packet_changers()

    def run(self) -> None:
        """Walk all paths of the program, then of each global function that it calls."""
        functions.check_sleepable(self.env)
        functions.check_exceptions(self.env)
        functions.check_abnormal_returns(self.env)
        regs = [NOTHING] * 11
        regs[1] = Reg(CTX)
        regs[10] = Reg(STACK)
        self._walk(State([Frame(0, regs, {}, -1)]), 0)
        done: set[int] = set()
        while self._global_calls:
            start = self._global_calls.pop(0)
            if start in done:
                continue
            done.add(start)
            self.env.slot = start
            self.seen.clear()
            self._walk(functions.enter_global(self.env, start), start)
        functions.check_depth(self.env, self._tail_calls)

    def _walk(self, state: State, start: int) -> None:
        self._work = [(start, state, -1, self.log.mark())]
        while self._work:
            slot, state, came, mark = self._work.pop()
            self.log.back(mark)
            self.env.state = state
            self._path(slot, state, came)

    # -- one path

    def _path(self, slot: int, state: State, came: int) -> None:
        env, log = self.env, self.log
        structure = self.structure
        slots, prunes, problems = structure.slots, structure.prunes, structure.problems
        limit, verbose = self._limit, log.level & 3
        step = self._step
        show = came >= 0
        while True:
            env.slot = slot
            self.processed += 1
            if self.processed > limit:
                raise self._too_large(limit)
            self.visits[slot] += 1
            if slot in prunes and self._visited(slot, state):
                if verbose:
                    log.pruned(came, slot, show=show)
                self._ended(state)
                return
            if verbose:
                if show:
                    log.moved(env, came, slot)
                    show = False
                log.insn(env, slot)
            if slot in problems:
                reason, says = problems[slot]
                raise env.refuse(reason, says, "an instruction is none that the kernel knows")
            insn = slots[slot]
            assert insn is not None
            env.note = None
            following = step(slot, insn, state)
            if state.history is None or state.history[1] != slot or env.note is not None:
                state.history = (state.history, slot, env.note)
            else:
                state.history = (state.history, slot, None)
            if verbose:
                log.after(env)
            if following < 0:
                self._ended(state)
                return
            came, slot = slot, following

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

    def _visited(self, slot: int, state: State) -> bool:
        """Whether what follows was proved already; if not, remember the state here, when that seems worth it."""
        structure, env = self.structure, self.env
        forced = slot in structure.forced
        add = forced or (self._jumps - self._jumps_then >= 2 and self.processed - self._processed_then >= 8)
        points = self.seen.get(slot)
        if points:
            live = structure.live
            masks: list[int] | None = None
            keep: list[Checkpoint] = []
            hit = False
            for number_, point in enumerate(points):
                if point.branches:
                    if slot in structure.calls_back:
                        if covers(point, state, [], WITHIN, lenient=env.lenient):
                            hit = True
                    else:
                        if (
                            slot in structure.forced
                            and point.state.may_goto != state.may_goto
                            and covers(point, state, [], WITHIN, lenient=env.lenient)
                        ):
                            hit = True
                        if (
                            not hit
                            and point.state.may_goto == state.may_goto
                            and point.state.unrolled == state.unrolled
                            and covers(point, state, [], SAME, lenient=env.lenient)
                        ):
                            raise env.refuse(
                                "endless-loop",
                                f"infinite loop detected at insn {slot}\ncur state:{self.log.state(env, state)}\n"
                                f"old state:{self.log.state(env, point.state)}",
                                "a loop comes back to where it was with nothing changed: it may never end",
                            )
                    if not hit and not forced and self._jumps - self._jumps_then < 20 and self.processed - self._processed_then < 100:
                        add = False
                else:
                    if masks is None:
                        masks = [live[frame.back] if frame.callback else live[frame.back + 1] & 0x3C0 for frame in state.frames[1:]]
                        masks.append(live[slot])
                    entry = point.loop_entry
                    exact = entry is not None and entry.branches > 0
                    if covers(point, state, masks, WITHIN if exact else COVERS, lenient=env.lenient):
                        hit = True
                if hit:
                    point.hits += 1
                    self._learn_from(point, state)
                    keep.extend(points[number_:])
                    self.seen[slot] = keep
                    return True
                if add:
                    point.misses += 1
                n = 64 if forced and point.branches else 3
                if point.misses > point.hits * n + n:
                    # Not worth keeping: what is forgotten is walked again.
                    self.peak -= 1
                    continue
                keep.append(point)
            self.seen[slot] = points = keep
        if not add:
            return False
        if points is None:
            points = self.seen[slot] = []
        self._jumps_then, self._processed_then = self._jumps, self.processed
        new = Checkpoint(slot, state.copy(), state.parent)
        self.states += 1
        self.peak += 1
        points.insert(0, new)
        state.parent = new
        for frame in state.frames:
            frame.written = 0
        state.history = (state.history, -1, new)
        return False

    def _learn_from(self, point: Checkpoint, state: State) -> None:
        """The path ends at a state that was proved: what that proof read and needed exactly, this path did too."""
        env = self.env
        trace = Trace(len(state.frames) - 1)
        any_ = False
        for depth, frame in enumerate(point.state.frames):
            if point.read[depth]:
                env.reads_stack(depth, point.read[depth])
            regs, slots = point.precise[depth], point.precise_slots[depth]
            mine = state.frames[depth]
            if regs:
                wanted = 0
                for at in range(10):
                    if regs >> at & 1 and frame.regs[at].kind == SCALAR and mine.regs[at].kind == SCALAR:
                        wanted |= 1 << at
                trace.regs[depth] = wanted
                any_ = any_ or wanted != 0
            if slots:
                wanted = 0
                for at, held in frame.stack.items():
                    if slots >> at & 1 and held.spilled and held.reg.kind == SCALAR:
                        wanted |= 1 << at
                trace.slots[depth] = wanted
                any_ = any_ or wanted != 0
        if any_:
            trace_back(self.structure, state, env.slot, trace)

    def _ended(self, state: State) -> None:
        point = state.parent
        while point is not None:
            point.branches -= 1
            if point.branches:
                return
            point = point.parent

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

    # -- instructions

    def _step(self, slot: int, insn: Insn, state: State) -> int:
        """Carry out one instruction on the state; where to go on, or -1 at the path's end."""
        env = self.env
        opcode = insn.opcode
        kind = opcode & 7
        if kind in (_ALU, _ALU64):
            if opcode & 0xF0 in _FORKS:
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
            memory.same_kind(env, src.kind)
            regs[insn.dst] = value
            return slot + 1
        if kind == _STX:
            self._store(insn, state)
            return slot + 1
        if kind == _ST:
            dst = env.readable(insn.dst)
            size = _SIZES[opcode & 0x18]
            memory.access(env, insn.dst, insn.off, size, write=True, value=constant(insn.imm))
            memory.same_kind(env, dst.kind)
            return slot + 1
        if kind == _LD:
            if opcode != LD_IMM64:
                return self._load_packet(slot, insn, state)
            if insn.dst == 10:
                raise env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")
            state.frames[-1].regs[insn.dst] = self._wide(slot, insn)
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
        if not (num.smin == -1 and num.smax == 0):
            return
        other = state.copy()
        other.frames[-1].regs[insn.dst] = Reg(SCALAR, ZERO, reg.off, reg.id, reg.flags) if reg.id else constant(0)
        self._fork(slot, other)
        env.regs[insn.dst] = Reg(SCALAR, known(-1), reg.off, reg.id, reg.flags) if reg.id else constant(-1)

    def _store(self, insn: Insn, state: State) -> None:
        env = self.env
        size = _SIZES[insn.opcode & 0x18]
        if insn.opcode & 0xE0 == _ATOMIC:
            self._atomic(insn, state, size)
            return
        value = env.readable(insn.src)
        dst = env.readable(insn.dst)
        memory.access(env, insn.dst, insn.off, size, write=True, value=value, source=insn.src)
        memory.same_kind(env, dst.kind)

    def _atomic(self, insn: Insn, state: State, size: int) -> None:
        env = self.env
        regs = state.frames[-1].regs
        if insn.imm in (Atomic.LOAD_ACQ, Atomic.STORE_REL):
            self._ordered(insn, regs, size)
            return
        source = env.readable(insn.src)
        dst = env.readable(insn.dst)
        if insn.imm == Atomic.CMPXCHG:
            old = env.readable(0)
            if old.is_pointer and not env.privileged:
                raise env.refuse("pointer-leak", "R0 leaks addr into mem", "an address would be stored where others can read it")
        if source.is_pointer and not env.privileged:
            raise env.refuse("pointer-leak", f"R{insn.src} leaks addr into mem", "an address would be stored where others can read it")
        self._atomic_place(insn.dst, dst)
        fetched = -1
        if insn.imm == Atomic.CMPXCHG:
            fetched = 0
        elif insn.imm & FETCH:
            fetched = insn.src
        value = memory.access(env, insn.dst, insn.off, size, write=False, value=None, atomic=True)
        note = env.note
        if fetched < 0:
            value = ANY
        elif fetched == 10:
            raise env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")
        memory.access(env, insn.dst, insn.off, size, write=True, value=None, atomic=True)
        memory.same_kind(env, dst.kind)
        if fetched >= 0:
            regs[fetched] = value
            env.note = note

    def _ordered(self, insn: Insn, regs: list[Reg], size: int) -> None:
        env = self.env
        if not self._rules.load_acquire:
            raise env.refuse(
                "invalid-instruction", f"BPF_ATOMIC uses invalid atomic opcode {insn.imm:02x}", "this Linux has no load-acquire"
            )
        if insn.imm == Atomic.LOAD_ACQ:
            src = env.readable(insn.src)
            self._atomic_place(insn.src, src)
            value = memory.access(env, insn.src, insn.off, size, write=False, value=None, atomic=True)
            memory.same_kind(env, src.kind)
            regs[insn.dst] = value
            return
        value = env.readable(insn.src)
        dst = env.readable(insn.dst)
        self._atomic_place(insn.dst, dst)
        memory.access(env, insn.dst, insn.off, size, write=True, value=value, source=insn.src, atomic=True)
        memory.same_kind(env, dst.kind)

    def _atomic_place(self, at: int, reg: Reg) -> None:
        if reg.kind in (CTX, 7, 8, 10, 11, 12, 13, 15):
            raise self.env.refuse(
                "read-only", f"BPF_ATOMIC stores into R{at} {reg.name} is not allowed", f"a {reg.name} cannot be changed atomically"
            )

    def _wide(self, slot: int, insn: Insn) -> Reg:
        env = self.env
        source = insn.src
        if source == PseudoSrc.NONE:
            return constant(insn.imm & 0xFFFFFFFF | insn.imm_hi << 32)
        if source in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE):
            desc = env.code.maps.get(insn.imm)
            if desc is None:
                raise env.refuse("missing-information", f"fd {insn.imm} is not pointing to valid bpf_map", f"there is no map {insn.imm}")
            if source == PseudoSrc.MAP_FD and insn.imm_hi:
                raise env.refuse("invalid-instruction", "unrecognized bpf_ld_imm64 insn", "an instruction is none that the kernel knows")
            self._map_suits(desc)
            if source == PseudoSrc.MAP_FD:
                return Reg(MAP_PTR, fd=insn.imm)
            off = insn.imm_hi & 0xFFFFFFFF
            if off >= desc.value_size * desc.max_entries:
                raise env.refuse(
                    "out-of-bounds",
                    f"invalid access to map value pointer, value_size={desc.value_size} off={off}",
                    f"offset {off} is outside of the map's {desc.value_size} bytes",
                )
            return Reg(MAP_VALUE, fd=insn.imm, off=off)
        if source == PseudoSrc.FUNC:
            return Reg(FUNC, off=0, uid=slot + 1 + insn.imm)
        raise Unjudged("addresses of kernel variables", slot)

    def _map_suits(self, desc: MapDesc) -> None:
        """Check that programs of this type may use the map. Raises Refusal."""
        env = self.env
        for _, what, _ in desc.special:
            if what not in ("bpf_spin_lock", "bpf_timer"):
                raise Unjudged(f"maps with a {what}", env.slot)
            if env.code.prog_type in _TRACING or (env.code.prog_type == ProgType.SOCKET_FILTER and what == "bpf_spin_lock"):
                who = "socket filter" if env.code.prog_type == ProgType.SOCKET_FILTER else "tracing"
                raise env.refuse(
                    "missing-information", f"{who} progs cannot use {what} yet", f"programs of this type cannot use maps with a {what}"
                )

    def _load_packet(self, slot: int, insn: Insn, state: State) -> int:
        """LD_ABS and LD_IND: a word of the packet, or the program ends with 0."""
        env = self.env
        if env.code.prog_type not in (ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT):
            raise env.refuse(
                "helper-not-allowed",
                "BPF_LD_[ABS|IND] instructions not allowed for this program type",
                "programs of this type cannot load from packets this way",
            )
        if state.held:
            held = state.held[0]
            if held.kind == "lock":
                raise env.refuse(
                    "locked-call", "BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region", "the load may end the program"
                )
            raise env.refuse(
                "leaked-reference",
                f"Unreleased reference id={held.id} alloc_insn={held.slot}\nBPF_LD_[ABS|IND] would lead to reference leak",
                "the load may end the program and leave what was acquired behind",
                acquired=held.slot,
            )
        context = env.readable(6)
        if context.kind != CTX:
            raise env.refuse(
                "argument-type",
                "at the time of BPF_LD_ABS|IND R6 != pointer to skb",
                "r6 must be the context where a packet is loaded from",
            )
        if insn.opcode & 0xE0 == Mode.IND:
            env.readable(insn.src)
        memory.fixed_offset(env, context, 6)
        regs = state.frames[-1].regs
        for at in range(1, 6):
            regs[at] = NOTHING
        if len(state.frames) > 1 and not state.frames[-1].callback:
            # Where the packet is too short, the function returns 0 at once.
            other = state.copy()
            other.history = (state.history, slot, None)
            back = other.frames.pop().back
            other.frames[-1].regs[0] = constant(0)
            self._fork(back + 1, other)
        regs[0] = ANY
        if len(state.frames) > 1 and not self._rules.iterators:
            raise env.refuse(
                "control-flow", "BPF_LD_[ABS|IND] instructions cannot be mixed with bpf-to-bpf calls", "functions cannot load from packets"
            )
        return slot + 1

    # -- jumps, calls, the end

    def _jump(self, slot: int, insn: Insn, state: State) -> int:
        self._jumps += 1
        opcode = insn.opcode
        if opcode == JA:
            return slot + 1 + insn.off
        if opcode == GOTOL:
            return slot + 1 + insn.imm
        if opcode == EXIT:
            return self._exit(slot, state)
        if opcode == CALL:
            return self._call(slot, insn, state)
        env = self.env
        target = slot + 1 + insn.off
        if opcode == MAY_GOTO:
            if not self._rules.may_goto:
                raise env.refuse("invalid-instruction", "unknown opcode e5", "this Linux has no may_goto")
            state.history = (state.history, slot, None)
            other = state.copy()
            state.may_goto += 1
            self._fork(target, other)
            # The loop goes on here, the way out later, as Linux walks it.
            return slot + 1
        taken = jumps.decide(env, insn)
        if taken is not None:
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
                if target in self._changing:
                    calls.forget_packets(env)
                return following
            if not self._rules.locked_calls and any(held.kind == "lock" for held in state.held):
                raise env.refuse(
                    "locked-call", "function calls are not allowed while holding a lock", "a function is called while a lock is held"
                )
            return functions.call_static(env, target)
        if insn.src != CallSrc.HELPER:
            raise Unjudged("calls of kernel functions", slot)
        caller = state.frames[-1]
        before = list(caller.regs)
        call = calls.helper(env, insn.imm)
        name = call.row.name
        if name == "tail_call":
            self._tail_calls = True
        if call.function >= 0:
            self.structure.called_back.add(call.function)
            self._callback(slot, name, call, state, before)
        return slot + 1

    def _callback(self, slot: int, name: str, call: calls.Call, state: State, before: list[Reg]) -> None:
        """A helper runs a function of the program: so many times, or not at all, or later."""
        env = self.env
        caller = state.frames[-1]
        if name == "loop":
            after = caller.regs
            caller.regs = before
            env.precise(1)
            caller.regs = after
            if caller.called_back >= before[1].num.umax:
                caller.called_back = 0
                return
        other = state.copy()
        other.history = (state.history, slot, None)
        other.unrolled += 1
        frame = other.frames[-1]
        frame.regs = before
        inner = functions.callback_frame(env, name, call.function, frame, call.the_map)
        if name == "timer_set_callback":
            inner.asynchronous = True
            other.frames = [inner]
            inner.regs[10] = Reg(STACK)
            inner.back = -1
            self._fork(call.function, other)
            return
        frame.called_back += 1
        other.frames.append(inner)
        caller.called_back = 0
        self._fork(call.function, other)

    def _exit(self, slot: int, state: State) -> int:
        env = self.env
        if len(state.frames) > 1:
            return self._return(slot, state)
        frame = state.frames[0]
        for held in state.held:
            if held.kind == "lock":
                raise env.refuse(
                    "lock-misuse", "BPF_EXIT instruction cannot be used inside bpf_spin_lock-ed region", "the program ends with a lock held"
                )
            raise env.refuse(
                "leaked-reference",
                f"Unreleased reference id={held.id} alloc_insn={held.slot}\nBPF_EXIT instruction in main prog would lead to reference leak",
                "the program ends, and what was acquired was not given back",
                acquired=held.slot,
            )
        if frame.asynchronous:
            self._in_range(env.readable(0), (0, 0), "At async callback return")
            return -1
        code = env.code
        reg = ANY if code.returns_nothing else env.readable(0)
        if reg.is_pointer and not env.privileged:
            raise env.refuse("pointer-leak", "R0 leaks addr as return value", "the program would return an address")
        if frame.start:
            if reg.kind != SCALAR:
                raise env.refuse(
                    "return-value",
                    f"At subprogram exit the register R0 is not a scalar value ({reg.name})",
                    "a global function must return a number",
                )
            return -1
        allowed = _allowed(code)
        if allowed is not None:
            self._in_range(reg, allowed, "At program exit")
        return -1

    def _in_range(self, reg: Reg, allowed: tuple[int, int], where: str) -> None:
        env = self.env
        if reg.kind != SCALAR:
            raise env.refuse("return-value", f"{where} the register R0 is not a known value ({reg.name})", "the program returns a pointer")
        env.precise(0)
        num = reg.num
        if allowed[0] <= num.smin and num.smax <= allowed[1]:
            return
        known_ = (f" smin={num.smin}" if num.smin > -(1 << 63) else "") + (f" smax={num.smax}" if num.smax < (1 << 63) - 1 else "")
        raise env.refuse(
            "return-value",
            f"{where} the register R0 has{known_ or ' unknown scalar value'} should have been in [{allowed[0]}, {allowed[1]}]",
            f"the program may return {num.smin} to {num.smax}; only {allowed[0]} to {allowed[1]} mean something",
            low=num.smin,
            high=num.smax,
            allowed=allowed,
        )

    def _return(self, slot: int, state: State) -> int:
        env = self.env
        frame = state.frames[-1]
        result = frame.regs[0]
        if result.kind == STACK:
            raise env.refuse("pointer-leak", "cannot return stack pointer to the caller", "a function returns a pointer to its own stack")
        if frame.callback:
            result = env.readable(0)
            if result.kind != SCALAR:
                raise env.refuse("return-value", "R0 not a scalar value", "a callback must return a number")
            env.precise(0)
            low, high = frame.callback_range or (0, 1)
            if not (low <= result.num.smin and result.num.smax <= high):
                num = result.num
                known_ = (f" smin={num.smin}" if num.smin > -(1 << 63) else "") + (f" smax={num.smax}" if num.smax < (1 << 63) - 1 else "")
                raise env.refuse(
                    "return-value",
                    f"At callback return the register R0 has{known_ or ' unknown scalar value'} should have been in [{low}, {high}]",
                    f"a callback may return {num.smin} to {num.smax}; only {low} to {high} mean something",
                )
            state.frames.pop()
            self._widen(frame.back, state)
            return frame.back
        state.frames.pop()
        state.frames[-1].regs[0] = result
        del slot
        return frame.back + 1

    def _widen(self, slot: int, state: State) -> None:
        """What a callback changed and nothing depends on may be any number: else loops would never come to an end."""
        point = state.parent
        while point is not None and not (point.slot == slot and len(point.state.frames) == len(state.frames)):
            point = point.parent
        if point is None:
            return
        for depth, frame in enumerate(state.frames):
            old = point.state.frames[depth]
            for at in range(10):
                a, b = old.regs[at], frame.regs[at]
                if a.kind == SCALAR and b.kind == SCALAR and a.num != b.num and not point.precise[depth] >> at & 1:
                    frame.regs[at] = ANY
            for at, held in frame.stack.items():
                was = old.stack.get(at)
                if was is None or not was.spilled or not held.spilled or was.types != held.types:
                    continue
                a, b = was.reg, held.reg
                if a.kind == SCALAR and b.kind == SCALAR and a.num != b.num and not point.precise_slots[depth] >> at & 1:
                    frame.stack[at] = Slot(held.types, ANY)

    def _packet_changers(self) -> set[int]:
        """The functions that may move the packet, themselves or by what they call."""
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
                    if (insn.src == 0 and insn.imm in _CHANGES) or (insn.src == 1 and slot + 1 + insn.imm in out):
                        out.add(start)
                        changed = True
                        break
        return out


def _allowed(code: Code) -> tuple[int, int] | None:
    """What a program may return; None if anything."""
    kind, attach = ProgType(code.prog_type), code.attach_type
    if kind == ProgType.CGROUP_SOCK_ADDR:
        if attach in calls.FIXED_ONE:
            return (1, 1)
        if attach in (AttachType.CGROUP_INET4_BIND, AttachType.CGROUP_INET6_BIND):
            return (0, 3)
        return (0, 1)
    if kind == ProgType.CGROUP_SKB:
        return (0, 3) if attach == AttachType.CGROUP_INET_EGRESS else (0, 1)
    if kind == ProgType.TRACING:
        if attach in (AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT):
            return (0, 0)
        return (0, 1) if attach == AttachType.TRACE_ITER else None
    if kind == ProgType.SOCK_OPS:
        return (0, 1)
    if kind == ProgType.NETFILTER:
        return (0, 1)
    return PROGRAM_TYPES[kind].returns
