"""Calls of helpers: which may be called, what their arguments have to be, and what they return."""

from ebpf.engine.program import Code
from ebpf.engine.verifier.memory import Memory, inner_fd
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.scalar import Scalar, known
from ebpf.engine.verifier.state import ANY_SCALAR, NOT_INIT, Kind, Reg, State
from ebpf.uapi import HELPERS, PROGRAM_TYPES, Arg, Helper, MapFlag, MapType, ProgType, Ret

_MAX_SIZE = 1 << 29
_KEYED = frozenset(
    {
        MapType.HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.LPM_TRIE,
        MapType.HASH_OF_MAPS,
        MapType.ARRAY_OF_MAPS,
    }
)
_OF_MAPS = frozenset({MapType.HASH_OF_MAPS, MapType.ARRAY_OF_MAPS})
_RING = frozenset({MapType.RINGBUF})
_PERF = frozenset({MapType.PERF_EVENT_ARRAY})
#: The map types that a helper takes; a helper that is not here takes any.
_TAKES: dict[str, frozenset[MapType]] = {
    "map_lookup_elem": _KEYED | {MapType.DEVMAP, MapType.DEVMAP_HASH},
    "map_update_elem": _KEYED - _OF_MAPS,
    "map_delete_elem": _KEYED - _OF_MAPS,
    "map_lookup_percpu_elem": frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}),
    "ringbuf_output": _RING,
    "ringbuf_reserve": _RING,
    "ringbuf_query": _RING,
    "perf_event_output": _PERF,
    "perf_event_read": _PERF,
    "perf_event_read_value": _PERF,
    "tail_call": frozenset({MapType.PROG_ARRAY}),
    "get_stackid": frozenset({MapType.STACK_TRACE}),
    "map_push_elem": frozenset({MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER}),
    "map_pop_elem": frozenset({MapType.QUEUE, MapType.STACK}),
    "map_peek_elem": frozenset({MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER}),
    "current_task_under_cgroup": frozenset({MapType.CGROUP_ARRAY}),
    "redirect_map": frozenset({MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP}),
}
_MOVES_PACKET = frozenset(
    {"xdp_adjust_head", "xdp_adjust_meta", "xdp_adjust_tail", "skb_store_bytes", "skb_vlan_push", "skb_vlan_pop", "skb_change_proto"}
    | {"skb_change_tail", "skb_change_head", "skb_pull_data", "skb_adjust_room", "l3_csum_replace", "l4_csum_replace", "clone_redirect"}
)
_WRITES_MAPS = frozenset({"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem"})
_MEMORY = (Arg.MEM, Arg.MEM_OR_NULL, Arg.MEM_UNINIT, Arg.MEM_UNINIT_OR_NULL)
_WRITTEN = (Arg.MEM_UNINIT, Arg.MEM_UNINIT_OR_NULL)
_SIZES = (Arg.SIZE, Arg.SIZE_OR_ZERO)


class Calls:
    """The rules of helper calls for one program; remembers which map each call works on."""

    def __init__(self, code: Code, memory: Memory) -> None:
        self._code = code
        self._memory = memory
        self._allowed = PROGRAM_TYPES[ProgType(code.prog_type)].helpers
        self.call_map: dict[int, int] = {}

    def helper(self, state: State, slot: int, id_: int, new_id: int) -> None:
        """Check the call of helper `id_` and put its result into r0. `new_id` is not used yet."""
        row = self._row(id_, slot)
        assert row.args is not None
        the_map: Reg | None = None
        alloc = 0
        released = 0
        for place, arg in enumerate(row.args):
            number = place + 1
            reg = state.regs[number]
            if arg == Arg.VARARG:
                continue
            if reg.kind == Kind.NOT_INIT:
                raise Refusal(
                    f"argument {number} of {row.name} was never written on this path (calls clobber r1 to r5)", f"R{number} !read_ok", slot
                )
            if arg == Arg.MAP:
                the_map = self._map(row, reg, number, slot)
            elif arg in (Arg.KEY, Arg.VALUE, Arg.VALUE_UNINIT):
                assert the_map is not None
                desc = self._memory.map_of(the_map)
                size = desc.key_size if arg == Arg.KEY else desc.value_size
                self._memory.region(state, reg, number, known(size), slot, write=arg == Arg.VALUE_UNINIT, init=arg != Arg.VALUE_UNINIT)
            elif arg in _MEMORY:
                self._sized_memory(state, row, number, arg, state.regs[number + 1], slot)
            elif arg in _SIZES:
                continue
            elif arg in (Arg.CTX, Arg.CTX_OR_NULL):
                self._context(reg, number, slot, optional=arg == Arg.CTX_OR_NULL)
            elif arg == Arg.CONST_ALLOC_SIZE:
                alloc = self._alloc_size(reg, number, slot)
            elif arg == Arg.ALLOC_MEM:
                released = self._released(state, reg, number, slot)
            elif arg == Arg.CONST_STR:
                self._constant_string(reg, number, slot)
            elif arg in (Arg.LONG, Arg.INT_PTR):
                self._memory.region(state, reg, number, known(8 if arg == Arg.LONG else 4), slot, write=True, init=False)
            elif arg != Arg.ANY:
                raise Refusal(f"bpf_{row.name} is not judged yet", f"unknown: argument of kind {arg.name}", slot)
        if released:
            _forget(state, released)
        if row.name in _MOVES_PACKET:
            _forget_packets(state)
        for number in range(1, 6):
            state.regs[number] = NOT_INIT
        state.regs[0] = self._result(state, row, the_map, alloc, slot, new_id)

    def _row(self, id_: int, slot: int) -> Helper:
        row = HELPERS.get(id_)
        if row is None:
            raise Refusal(f"there is no helper with number {id_}", f"invalid func unknown#{id_}", slot)
        if self._allowed is not None and row.name not in self._allowed:
            kind = PROGRAM_TYPES[ProgType(self._code.prog_type)].name
            raise Refusal(
                f"{kind} programs cannot call bpf_{row.name}", f"program of this type cannot use helper bpf_{row.name}#{id_}", slot
            )
        if row.gpl and not self._code.gpl:
            raise Refusal(
                f"bpf_{row.name} is for programs with a GPL-compatible licence",
                "cannot call GPL-restricted function from non-GPL compatible program",
                slot,
            )
        if row.args is None:
            raise Refusal(f"bpf_{row.name} is not judged yet", f"unknown: helper bpf_{row.name}#{id_}", slot)
        return row

    def _map(self, row: Helper, reg: Reg, number: int, slot: int) -> Reg:
        if reg.kind != Kind.MAP_PTR or reg.null:
            raise Refusal(f"argument {number} of {row.name} must be a map", f"R{number} type={reg.name} expected=map_ptr", slot)
        desc = self._memory.map_of(reg)
        takes = _TAKES.get(row.name)
        if takes is not None and desc.type not in takes:
            raise Refusal(
                f"bpf_{row.name} does not take a map of type {MapType(desc.type).name.lower()}",
                f"cannot pass map_type {desc.type} into func bpf_{row.name}#{row.id}",
                slot,
            )
        if row.name in _WRITES_MAPS and desc.flags & MapFlag.RDONLY_PROG:
            raise Refusal("the map is read-only for programs", "write into map forbidden", slot)
        if self.call_map.setdefault(slot, reg.fd) != reg.fd:
            self.call_map[slot] = -1
        return reg

    def _sized_memory(self, state: State, row: Helper, number: int, arg: Arg, size: Reg, slot: int) -> None:
        reg = state.regs[number]
        assert row.args is not None
        may_be_zero = row.args[number] == Arg.SIZE_OR_ZERO
        if size.kind == Kind.NOT_INIT:
            raise Refusal(f"argument {number + 1} of {row.name} was never written on this path", f"R{number + 1} !read_ok", slot)
        if size.is_pointer:
            raise Refusal(f"argument {number + 1} must be a size", f"R{number + 1} type={size.name} expected=scalar", slot)
        num = size.num
        self._size(num, number + 1, slot, may_be_zero=may_be_zero)
        if arg in (Arg.MEM_OR_NULL, Arg.MEM_UNINIT_OR_NULL) and reg.kind == Kind.SCALAR and reg.num.const == 0:
            if num.umax:
                raise Refusal("null with a size that may not be zero", f"R{number} type=scalar expected=fp", slot)
            return
        exact = num.const is not None
        written = arg in _WRITTEN
        self._memory.region(state, reg, number, num, slot, write=written, init=not written or not exact)

    def _size(self, num: Scalar, number: int, slot: int, *, may_be_zero: bool) -> None:
        if num.smin < 0:
            raise Refusal(
                f"the size in r{number} may be negative", f"R{number} min value is negative, either use unsigned or 'var &= const'", slot
            )
        if num.umin == 0 and not may_be_zero:
            raise Refusal(
                f"the size in r{number} may be zero (it is {num.umin} to {num.umax})",
                f"R{number} invalid zero-sized read: u64=[{num.umin},{num.umax}]",
                slot,
            )
        if num.umax >= _MAX_SIZE:
            raise Refusal(
                f"the size in r{number} has no upper bound",
                f"R{number} unbounded memory access, use 'var &= const' or 'if (var < const)'",
                slot,
            )

    def _context(self, reg: Reg, number: int, slot: int, *, optional: bool) -> None:
        if optional and reg.kind == Kind.SCALAR and reg.num.const == 0:
            return
        if reg.kind != Kind.CTX or reg.off or reg.num.const != 0:
            raise Refusal(f"argument {number} must be the context", f"R{number} type={reg.name} expected=ctx", slot)

    def _alloc_size(self, reg: Reg, number: int, slot: int) -> int:
        size = reg.num.const if reg.kind == Kind.SCALAR else None
        if size is None:
            raise Refusal("the size to reserve must be a constant", f"R{number} is not a known constant", slot)
        if size >= 1 << 30:
            raise Refusal("the size to reserve is too large", f"R{number} unbounded memory access", slot)
        return size

    def _released(self, state: State, reg: Reg, number: int, slot: int) -> int:
        if reg.kind != Kind.ALLOC_MEM or reg.null or reg.off or not reg.ref or reg.ref not in state.refs:
            raise Refusal(
                "only what bpf_ringbuf_reserve returned, tested and unmoved, can be given back",
                f"R{number} type={reg.name} expected=ringbuf_mem",
                slot,
            )
        return reg.ref

    def _constant_string(self, reg: Reg, number: int, slot: int) -> None:
        if reg.kind != Kind.MAP_VALUE or reg.num.const != 0 or not self._memory.map_of(reg).flags & MapFlag.RDONLY_PROG:
            raise Refusal(f"argument {number} must be a constant string", f"R{number} does not point to a readonly map'", slot)

    def _result(self, state: State, row: Helper, the_map: Reg | None, alloc: int, slot: int, new_id: int) -> Reg:
        if row.ret == Ret.INT:
            return ANY_SCALAR
        if row.ret == Ret.VOID:
            return NOT_INIT
        if row.ret == Ret.MAP_VALUE_OR_NULL:
            assert the_map is not None
            if self._memory.map_of(the_map).inner is not None:
                return Reg(Kind.MAP_PTR, fd=inner_fd(the_map.fd), id=new_id, null=True)
            return Reg(Kind.MAP_VALUE, fd=the_map.fd, id=new_id, null=True)
        if row.ret == Ret.ALLOC_MEM_OR_NULL:
            state.refs[new_id] = slot
            return Reg(Kind.ALLOC_MEM, size=alloc, id=new_id, ref=new_id, null=True)
        raise Refusal(f"what bpf_{row.name} returns is not judged yet", f"unknown: helper bpf_{row.name}#{row.id}", slot)


def _forget(state: State, ref: int) -> None:
    """What was given back cannot be used any more, wherever it was copied to."""
    del state.refs[ref]
    for frame in state.frames:
        frame.regs[:] = [NOT_INIT if reg.ref == ref else reg for reg in frame.regs]
        for at, held in list(frame.stack.items()):
            if isinstance(held, Reg) and held.ref == ref:
                frame.stack[at] = (0,) * 8


_PACKET = (Kind.PACKET, Kind.PACKET_META, Kind.PACKET_END)


def _forget_packets(state: State) -> None:
    """The packet moved: all pointers into it are void."""
    for frame in state.frames:
        frame.regs[:] = [NOT_INIT if reg.kind in _PACKET else reg for reg in frame.regs]
        for at, held in list(frame.stack.items()):
            if isinstance(held, Reg) and held.kind in _PACKET:
                frame.stack[at] = (0,) * 8
