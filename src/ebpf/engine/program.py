"""What the engine's parts hand to each other: a program with its maps described, a verdict, and a program ready to run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebpf.btf import Btf, Kind
from ebpf.isa import Insn

# BTF_FUNC_GLOBAL.
_GLOBAL = 1


@dataclass(frozen=True, slots=True)
class MapDesc:
    """A map as a program sees it: `fd` is what its ld_imm64 instructions name, `address` the runtime's `struct rt_map`.

    `inner` is what the maps in a map of maps are like.
    """

    fd: int
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    name: str = ""
    frozen: bool = False
    address: int = 0
    inner: "MapDesc | None" = None
    #: The bytes of a frozen read-only array: constants to the verifier.
    content: bytes | None = None
    #: Fields of the value that only helpers may touch: (offset, name, bytes).
    special: tuple[tuple[int, str, int], ...] = ()
    #: Whether the types of its keys and values are known.
    typed: bool = False
    #: Of an arena: whether it has an address in the process.
    placed: bool = True


@dataclass(frozen=True, slots=True)
class SourceLine:
    """From `slot` on the code comes from this line."""

    slot: int
    path: str
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A program to judge: instructions in program order (a wide one takes two slots; jumps count slots)."""

    insns: Sequence[Insn]
    prog_type: int
    maps: Mapping[int, MapDesc] = field(default_factory=dict)
    name: str = ""
    gpl: bool = True
    attach_type: int = 0
    lines: tuple[SourceLine, ...] = ()
    #: The program's own types, and for each function's first slot its type.
    btf: Btf | None = None
    functions: tuple[tuple[int, int], ...] = ()
    #: The kernel's types, where kernel objects are read by them.
    kernel_btf: Btf | None = None
    #: May leak addresses (CAP_PERFMON) and needs no guard against speculation.
    privileged: bool = True
    bypass_spectre: bool = True
    strict_alignment: bool = False
    #: BPF_F_TEST_STATE_FREQ: a state is remembered wherever one can be.
    all_states: bool = False
    sleepable: bool = False
    #: How many CPUs there are, if that is known.
    cpus: int = 0
    #: What the program is attached to returns nothing.
    returns_nothing: bool = False
    #: The kernel function, tracepoint, hook or iterator that it is attached to.
    attach_to: str = ""

    def global_functions(self) -> frozenset[int]:
        """The first slots of the functions that are judged on their own, for any arguments."""
        if self.btf is None:
            return frozenset()
        known = [(slot, self.btf.type(type_id)) for slot, type_id in self.functions if slot and 0 < type_id < len(self.btf)]
        return frozenset(slot for slot, row in known if row.kind == Kind.FUNC and row.info == _GLOBAL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier found. The mappings are keyed by slot.

    `ctx_access`: loads and stores through the context pointer, with (offset in the documented struct, width in bytes).
    `call_map`: helper calls whose map argument is always the same map, with its fd.
    `btf_loads`: loads that may fault and then read as zero.
    `dead`: slots that no path leads to.
    """

    accepted: bool
    log: str = ""
    cause: str = ""
    insn: int = -1
    line: SourceLine | None = None
    processed: int = 0
    ctx_access: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    call_map: Mapping[int, int] = field(default_factory=dict)
    stack_depth: Mapping[int, int] = field(default_factory=dict)
    btf_loads: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()
    #: The row of verifier/reasons.py that the refusal belongs to, Linux's line, and its numbers.
    reason: str = ""
    says: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    #: The slots that were walked to the refusal, in order.
    path: tuple[int, ...] = ()
    #: What the verifier cannot judge, if that is why it did not accept.
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program ready to run: context accesses already use the runtime's own context struct (`rt.h`).

    `stack_depth` has the bytes of stack of each function by its first slot (512 where it is not known), `global_functions` the
    first slots of those that were judged on their own, for any arguments.
    """

    insns: Sequence[Insn]
    prog_type: int
    maps: Mapping[int, MapDesc] = field(default_factory=dict)
    call_map: Mapping[int, int] = field(default_factory=dict)
    name: str = ""
    stack_depth: Mapping[int, int] = field(default_factory=dict)
    global_functions: frozenset[int] = frozenset()
