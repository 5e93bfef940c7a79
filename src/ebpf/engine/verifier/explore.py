"""Walking every path: depth first, with states remembered where paths may meet, so that what is proved is not proved again."""

from ebpf.engine.program import Code
from ebpf.engine.verifier.arith import alu
from ebpf.engine.verifier.branch import pointer_branch, refine
from ebpf.engine.verifier.calls import Calls
from ebpf.engine.verifier.memory import Memory
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.scalar import known, truncate
from ebpf.engine.verifier.state import ANY_SCALAR, NOT_INIT, Frame, Kind, Reg, State, state_covers
from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, CALL, EXIT, FETCH, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Jmp, Mode, Size
from ebpf.uapi import PROGRAM_TYPES, CallSrc, ProgType, PseudoSrc

_FRAMES = 8
_STACK = 512
_REMEMBERED = 24


class _Node:
    """A remembered state: `open` counts paths from it that have not ended yet; they count for its parent too."""

    __slots__ = ("open", "parent", "state")

    def __init__(self, state: State, parent: "_Node | None") -> None:
        self.state = state
        self.parent = parent
        self.open = 1


class Explorer:
    """Walks a program. `run` returns when every path was accepted, and raises Refusal at the first that is not."""

    def __init__(self, code: Code, limit: int) -> None:
        self.structure = Structure(code.insns)
        self.memory = Memory(code)
        self.calls = Calls(code, self.memory)
        self.processed = 0
        self.states = 0
        self._code = code
        self._limit = limit
        self._ids = 0
        self._seen: dict[int, list[_Node]] = {}
        self._work: list[tuple[int, State, _Node | None]] = []

    def run(self) -> None:
        """Walk all paths."""
        regs = [NOT_INIT] * 11
        regs[1] = Reg(Kind.CTX)
        regs[10] = Reg(Kind.STACK, frame=0)
        self._work.append((0, State([Frame(0, regs, {}, -1)], {}), None))
        while self._work:
            slot, state, node = self._work.pop()
            self._path(slot, state, node)
        self._combined_stack()

    # -- one path

    def _path(self, slot: int, state: State, node: _Node | None) -> None:
        targets = self.structure.targets
        while True:
            self.processed += 1
            if self.processed > self._limit:
                raise Refusal(
                    f"the program has too many paths: {self._limit} instructions were walked and it is not judged yet",
                    f"BPF program is too large. Processed {self.processed} insn",
                    slot,
                )
            if slot in targets:
                found = self._remember(slot, state, node)
                if found is None:
                    self._ended(node)
                    return
                node = found
            insn = self.structure.slots[slot]
            assert insn is not None
            following = self._step(slot, insn, state, node)
            if following is None:
                self._ended(node)
                return
            slot = following

    def _remember(self, slot: int, state: State, node: _Node | None) -> _Node | None:
        """Note the state at a place where paths meet; None if what follows was proved already."""
        live = self.structure.live[slot]
        nodes = self._seen.setdefault(slot, [])
        for old in nodes:
            if state_covers(old.state, state, live):
                if not old.open:
                    return None
                if state_covers(state, old.state, live) and self._is_ancestor(old, node):
                    raise Refusal(
                        "a loop comes back to where it was with nothing changed: it may never end",
                        f"infinite loop detected at insn {slot}",
                        slot,
                    )
        # The path's own count moves to the new node; its parent stays open until that closes.
        new = _Node(state.copy(), node)
        self.states += 1
        nodes.append(new)
        if len(nodes) > _REMEMBERED:
            # Forgetting a state costs time, never soundness: what is not remembered is walked again.
            del nodes[next((i for i, old in enumerate(nodes) if not old.open), 0)]
        return new

    def _is_ancestor(self, old: _Node, node: _Node | None) -> bool:
        while node is not None:
            if node is old:
                return True
            node = node.parent
        return False

    def _ended(self, node: _Node | None) -> None:
        while node is not None:
            node.open -= 1
            if node.open:
                return
            node = node.parent

    def _fork(self, slot: int, state: State, node: _Node | None) -> None:
        if node is not None:
            node.open += 1
        self._work.append((slot, state, node))

    # -- instructions

    def _step(self, slot: int, insn: Insn, state: State, node: _Node | None) -> int | None:
        """Carry out one instruction on the state; where to go on, or None at the path's end."""
        kind = insn.opcode & 7
        regs = state.regs
        if kind in (Class.ALU, Class.ALU64):
            self._writable(insn.dst, slot)
            op = insn.opcode & 0xF0
            register = bool(insn.opcode & 8) and op != Alu.END
            if register:
                self._readable(state, insn.src, slot)
            if op != Alu.MOV:
                self._readable(state, insn.dst, slot)
            self._ids += 1
            regs[insn.dst] = alu(insn, regs[insn.dst], regs[insn.src] if register else None, slot, self._ids)
            return slot + 1
        if kind == Class.LDX:
            self._readable(state, insn.src, slot)
            self._writable(insn.dst, slot)
            size = BYTES[Size(insn.opcode & 0x18)]
            value = self.memory.load(state, slot, insn.src, insn.off, size)
            if insn.opcode & 0xE0 == Mode.MEMSX:
                value = self._sign_extended(value, size)
            regs[insn.dst] = value
            return slot + 1
        if kind in (Class.ST, Class.STX):
            self._store(slot, insn, state)
            return slot + 1
        if kind == Class.LD:
            self._writable(insn.dst, slot)
            regs[insn.dst] = self._wide(slot, insn)
            return slot + 2
        return self._jump(slot, insn, state, node)

    def _sign_extended(self, value: Reg, size: int) -> Reg:
        from ebpf.engine.verifier.scalar import sign_extend

        return Reg(Kind.SCALAR, sign_extend(value.num, size * 8)) if value.kind == Kind.SCALAR else ANY_SCALAR

    def _readable(self, state: State, number: int, slot: int) -> None:
        if state.regs[number].kind == Kind.NOT_INIT:
            raise Refusal(f"r{number} is read, but nothing was written to it on this path", f"R{number} !read_ok", slot)

    def _writable(self, number: int, slot: int) -> None:
        if number == 10:
            raise Refusal("r10, the frame pointer, cannot be written", "frame pointer is read only", slot)

    def _store(self, slot: int, insn: Insn, state: State) -> None:
        size = BYTES[Size(insn.opcode & 0x18)]
        self._readable(state, insn.dst, slot)
        if insn.opcode & 7 == Class.ST:
            value = Reg(Kind.SCALAR, truncate(known(insn.imm), size * 8))
            self.memory.store(state, slot, insn.dst, insn.off, size, value)
            return
        self._readable(state, insn.src, slot)
        if insn.opcode & 0xE0 == Mode.ATOMIC:
            self._atomic(slot, insn, state, size)
            return
        value = state.regs[insn.src]
        if value.kind == Kind.SCALAR and size < 8:
            value = Reg(Kind.SCALAR, truncate(value.num, size * 8))
        self.memory.store(state, slot, insn.dst, insn.off, size, value)

    def _atomic(self, slot: int, insn: Insn, state: State, size: int) -> None:
        regs = state.regs
        if insn.imm == Atomic.LOAD_ACQ:
            self._writable(insn.dst, slot)
            regs[insn.dst] = self.memory.load(state, slot, insn.src, insn.off, size)
            return
        target = regs[insn.dst]
        if insn.imm == Atomic.STORE_REL:
            self.memory.store(state, slot, insn.dst, insn.off, size, regs[insn.src])
            return
        if regs[insn.src].is_pointer:
            raise Refusal("a pointer cannot be the operand of an atomic operation", f"R{insn.src} leaks addr into mem", slot)
        if target.kind in (Kind.CTX, Kind.PACKET, Kind.PACKET_META):
            raise Refusal(
                f"atomic operations on {target.name} memory are not allowed",
                f"BPF_ATOMIC stores into R{insn.dst} {target.name} is not allowed",
                slot,
            )
        if (target.off + insn.off) % size:
            raise Refusal(
                "an atomic operation is not at a multiple of its size",
                f"misaligned {target.name} access off {target.off + insn.off} size {size}",
                slot,
            )
        if insn.imm == Atomic.CMPXCHG:
            self._readable(state, 0, slot)
            if regs[0].is_pointer:
                raise Refusal("a pointer cannot be compared by an atomic operation", "R0 leaks addr into mem", slot)
        old = self.memory.load(state, slot, insn.dst, insn.off, size)
        if old.is_pointer:
            raise Refusal("a pointer on the stack would be changed", f"R{insn.dst} attempt to corrupt spilled pointer on stack", slot)
        from ebpf.engine.verifier.scalar import UNKNOWN

        self.memory.store(state, slot, insn.dst, insn.off, size, Reg(Kind.SCALAR, truncate(UNKNOWN, size * 8)))
        fetched = Reg(Kind.SCALAR, truncate(UNKNOWN, size * 8))
        if insn.imm == Atomic.CMPXCHG:
            regs[0] = fetched
        elif insn.imm & FETCH:
            self._writable(insn.src, slot)
            regs[insn.src] = fetched

    def _wide(self, slot: int, insn: Insn) -> Reg:
        assert insn.opcode == LD_IMM64
        if insn.src == PseudoSrc.NONE:
            return Reg(Kind.SCALAR, known((insn.imm & 0xFFFFFFFF) | insn.imm_hi << 32))
        if insn.src in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE):
            row = self._code.maps.get(insn.imm)
            if row is None:
                raise Refusal("the instruction names a map that does not exist", f"fd {insn.imm} is not pointing to valid bpf_map", slot)
            if insn.src == PseudoSrc.MAP_FD:
                return Reg(Kind.MAP_PTR, fd=insn.imm)
            if not 0 <= insn.imm_hi < max(row.value_size, 1):
                raise Refusal("the address is outside the map's value", f"invalid access to map value pointer, off={insn.imm_hi}", slot)
            return Reg(Kind.MAP_VALUE, off=insn.imm_hi, fd=insn.imm)
        what = {PseudoSrc.FUNC: "callbacks", PseudoSrc.BTF_ID: "kernel variables"}.get(PseudoSrc(insn.src), "this kind of address")
        raise Refusal(f"{what} are not judged yet", f"unknown: ld_imm64 of kind {insn.src}", slot)

    # -- control

    def _jump(self, slot: int, insn: Insn, state: State, node: _Node | None) -> int | None:
        if insn.opcode == JA:
            return slot + 1 + insn.off
        if insn.opcode == GOTOL:
            return slot + 1 + insn.imm
        if insn.opcode == EXIT:
            return self._exit(slot, state)
        if insn.opcode == CALL:
            return self._call(slot, insn, state)
        if insn.opcode == MAY_GOTO:
            raise Refusal("may_goto is not judged yet", "unknown: may_goto", slot)
        return self._branch(slot, insn, state, node)

    def _branch(self, slot: int, insn: Insn, state: State, node: _Node | None) -> int | None:
        op = Jmp(insn.opcode & 0xF0)
        bits = 64 if insn.opcode & 7 == Class.JMP else 32
        self._readable(state, insn.dst, slot)
        if insn.opcode & 8:
            self._readable(state, insn.src, slot)
        sides: list[tuple[int, State]] = []
        for taken in (False, True):
            branch = state.copy()
            if self._learn(branch, insn, op, bits, taken=taken):
                sides.append((slot + 1 + insn.off if taken else slot + 1, branch))
        if not sides:
            return None
        if len(sides) == 2:
            self._fork(sides[1][0], sides[1][1], node)
        target, chosen = sides[0]
        state.frames, state.refs = chosen.frames, chosen.refs
        return target

    def _learn(self, state: State, insn: Insn, op: Jmp, bits: int, *, taken: bool) -> bool:
        """Narrow a state to one side of a branch; False if that side cannot be."""
        regs = state.regs
        dst = regs[insn.dst]
        src = regs[insn.src] if insn.opcode & 8 else Reg(Kind.SCALAR, known(insn.imm if bits == 64 else insn.imm & 0xFFFFFFFF))
        if dst.is_pointer or src.is_pointer:
            return bits == 32 or pointer_branch(state, op, dst, src, taken=taken) is not False
        narrowed = refine(op, dst.num, src.num, bits, taken=taken)
        if narrowed is None:
            return False
        regs[insn.dst] = Reg(Kind.SCALAR, narrowed[0], id=dst.id)
        if insn.opcode & 8 and insn.src != insn.dst:
            regs[insn.src] = Reg(Kind.SCALAR, narrowed[1], id=src.id)
        return True

    def _call(self, slot: int, insn: Insn, state: State) -> int:
        if insn.src == CallSrc.KFUNC_CALL:
            raise Refusal("kernel functions (kfuncs) are not judged yet", "unknown: kfunc call", slot)
        if insn.src == CallSrc.HELPER:
            self._ids += 1
            self.calls.helper(state, slot, insn.imm, self._ids)
            return slot + 1
        if len(state.frames) >= _FRAMES:
            raise Refusal("calls are nested too deeply", f"the call stack of {len(state.frames) + 1} frames is too deep", slot)
        target = slot + 1 + insn.imm
        caller = state.regs
        regs = [NOT_INIT] * 11
        regs[1:6] = caller[1:6]
        regs[10] = Reg(Kind.STACK, frame=len(state.frames))
        for number in range(6):
            caller[number] = NOT_INIT
        state.frames.append(Frame(target, regs, {}, slot + 1))
        return target

    def _exit(self, slot: int, state: State) -> int | None:
        self._readable(state, 0, slot)
        result = state.regs[0]
        if len(state.frames) > 1:
            if result.kind == Kind.STACK and result.frame == len(state.frames) - 1:
                raise Refusal("a function returns a pointer to its own stack", "cannot return stack pointer to the caller", slot)
            frame = state.frames.pop()
            state.regs[0] = result
            return frame.back
        if state.refs:
            acquired = next(iter(state.refs.values()))
            raise Refusal(
                f"what was reserved at insn {acquired} is not given back on this path",
                f"Unreleased reference id={next(iter(state.refs))} alloc_insn={acquired}",
                slot,
            )
        allowed = PROGRAM_TYPES[ProgType(self._code.prog_type)].returns
        if result.is_pointer:
            raise Refusal("the program returns a pointer", "R0 leaks addr as return value", slot)
        if allowed is not None and not (allowed[0] <= result.num.smin and result.num.smax <= allowed[1]):
            raise Refusal(
                f"the program must return {allowed[0]} to {allowed[1]}",
                f"At program exit the register R0 has smin={result.num.smin} smax={result.num.smax} "
                f"should have been in [{allowed[0]}, {allowed[1]}]",
                slot,
            )
        return None

    # -- the whole

    def _combined_stack(self) -> None:
        """No chain of calls may use more than 512 bytes of stack."""
        depth = {start: (self.memory.depth.get(start, 0) + 31) // 32 * 32 or 32 for start in self.structure.starts}
        callees: dict[int, set[int]] = {start: set() for start in self.structure.starts}
        for slot, insn in enumerate(self.structure.slots):
            if insn is not None and insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL:
                callees[self.structure.function_of(slot)].add(slot + 1 + insn.imm)

        def deepest(start: int, level: int) -> int:
            if level > _FRAMES:
                return 0
            return depth[start] + max((deepest(c, level + 1) for c in callees[start]), default=0)

        total = deepest(0, 1)
        if total > _STACK and len(self.structure.starts) > 1:
            raise Refusal(
                f"a chain of calls uses {total} bytes of stack, and there are {_STACK}",
                f"combined stack size of {len(self.structure.starts)} calls is {total}. Too large",
            )
