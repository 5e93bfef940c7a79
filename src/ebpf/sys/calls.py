"""The commands of bpf(2) as typed requests: what goes down as fields, what comes up as the result type.

Each is a frozen blueprint of one `union bpf_attr`; `Kernel.bpf(call)` carries it out or raises KernelError.
Keys and values are bytes of exactly the size that the kernel expects; a per-CPU value is
`possible_cpus * round_up(value_size, 8)` bytes, CPU 0 first.
"""

from typing import ClassVar, Generic, TypeVar

from ebpf.records import made_by, record
from ebpf.uapi import Cmd

R = TypeVar("R")


@record
class Call(Generic[R]):
    """One bpf(2) request whose successful answer is an R."""

    cmd: ClassVar[Cmd]


@record
class MapCreate(Call[int]):
    """Make a map; the answer is its descriptor. `ifindex` is the device that is to have it in its own memory."""

    cmd: ClassVar[Cmd] = Cmd.MAP_CREATE
    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    name: str = ""
    inner_map_fd: int = 0
    numa_node: int = 0
    btf_fd: int = 0
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    map_extra: int = 0
    #: Of struct_ops: the kernel's own type of the value, and the descriptor of its module's types (0: the kernel itself).
    kernel_value_type_id: int = 0
    kernel_module_fd: int = 0
    ifindex: int = 0


@record
class MapLookup(Call[bytes]):
    """Read the value under a key (`value_size` bytes in all: see the module's text); ENOENT if there is none.

    `value` is what a bloom filter is asked about.
    """

    cmd: ClassVar[Cmd] = Cmd.MAP_LOOKUP_ELEM
    map_fd: int
    key: bytes
    value_size: int
    flags: int = 0
    value: bytes = b""


@record
class MapUpdate(Call[None]):
    """Write a value under a key; flags are UpdateFlag."""

    cmd: ClassVar[Cmd] = Cmd.MAP_UPDATE_ELEM
    map_fd: int
    key: bytes
    value: bytes
    flags: int = 0


@record
class MapDelete(Call[None]):
    """Remove a key; ENOENT if there is none."""

    cmd: ClassVar[Cmd] = Cmd.MAP_DELETE_ELEM
    map_fd: int
    key: bytes


@record
class MapNextKey(Call[bytes]):
    """The key after `key` (None: the first one); ENOENT at the end."""

    cmd: ClassVar[Cmd] = Cmd.MAP_GET_NEXT_KEY
    map_fd: int
    key: bytes | None
    key_size: int


@record
class MapLookupAndDelete(Call[bytes]):
    """Take the value under a key out of the map (queue and stack: key is empty)."""

    cmd: ClassVar[Cmd] = Cmd.MAP_LOOKUP_AND_DELETE_ELEM
    map_fd: int
    key: bytes
    value_size: int
    flags: int = 0


@record
class MapFreeze(Call[None]):
    """Forbid all later writes from user space."""

    cmd: ClassVar[Cmd] = Cmd.MAP_FREEZE
    map_fd: int


@record
class Batch:
    """What a batch command moved: `count` elements, keys and values end to end, and where to go on (empty: done)."""

    count: int
    keys: bytes
    values: bytes
    next: bytes


@record
class MapLookupBatch(Call[Batch]):
    """Read up to `count` elements from the place `start` (empty: the beginning)."""

    cmd: ClassVar[Cmd] = Cmd.MAP_LOOKUP_BATCH
    map_fd: int
    start: bytes
    count: int
    key_size: int
    value_size: int
    flags: int = 0


@record
class MapTakeBatch(Call[Batch]):
    """Like MapLookupBatch, and what was read is removed."""

    cmd: ClassVar[Cmd] = Cmd.MAP_LOOKUP_AND_DELETE_BATCH
    map_fd: int
    start: bytes
    count: int
    key_size: int
    value_size: int
    flags: int = 0


@record
class MapUpdateBatch(Call[int]):
    """Write `count` elements, keys and values end to end; the answer is how many. A KernelError's `done` says how many went before it."""

    cmd: ClassVar[Cmd] = Cmd.MAP_UPDATE_BATCH
    map_fd: int
    keys: bytes
    values: bytes
    count: int
    flags: int = 0


@record
class MapDeleteBatch(Call[int]):
    """Remove `count` keys that stand end to end; the answer is how many. A KernelError's `done` says how many went before it."""

    cmd: ClassVar[Cmd] = Cmd.MAP_DELETE_BATCH
    map_fd: int
    keys: bytes
    count: int
    flags: int = 0


@record
class Loaded:
    """A loaded program: its descriptor and the verifier's log."""

    fd: int
    log: str


@record
class ProgLoad(Call[Loaded]):
    """Verify and load a program; maps are named by descriptor in its ld_imm64 instructions.

    A refusal is a KernelError whose `log` holds the verifier's text.
    """

    cmd: ClassVar[Cmd] = Cmd.PROG_LOAD
    prog_type: int
    insns: bytes
    license: str
    name: str = ""
    flags: int = 0
    log_level: int = 0
    log_size: int = 1 << 20
    expected_attach_type: int = 0
    btf_fd: int = 0
    func_info: bytes = b""
    func_info_rec_size: int = 0
    line_info: bytes = b""
    line_info_rec_size: int = 0
    attach_btf_id: int = 0
    attach_fd: int = 0
    kern_version: int = 0
    ifindex: int = 0
    fd_array: tuple[int, ...] = ()


@record
class ObjPin(Call[None]):
    """Give a descriptor's object a path."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_PIN
    path: str
    fd: int


@record
class ObjGet(Call[int]):
    """A descriptor of the object at a path."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_GET
    path: str
    file_flags: int = 0


@record
class ProgAttach(Call[None]):
    """Attach a program to a cgroup or socket map the old way."""

    cmd: ClassVar[Cmd] = Cmd.PROG_ATTACH
    target_fd: int
    prog_fd: int
    attach_type: int
    flags: int = 0


@record
class ProgDetach(Call[None]):
    """Undo ProgAttach."""

    cmd: ClassVar[Cmd] = Cmd.PROG_DETACH
    target_fd: int
    prog_fd: int
    attach_type: int


@record
class Attached:
    """The programs at one place, in the order they run in: ids, and for each its flags, its link's id (0: none) and the link's flags."""

    prog_ids: tuple[int, ...]
    prog_flags: tuple[int, ...] = ()
    link_ids: tuple[int, ...] = ()
    link_flags: tuple[int, ...] = ()
    flags: int = 0


@record
class ProgQuery(Call[Attached]):
    """What is attached to `target` (a descriptor or an interface index) as `attach_type`."""

    cmd: ClassVar[Cmd] = Cmd.PROG_QUERY
    target: int
    attach_type: int
    flags: int = 0


@record
class TestRunResult:
    """What a test run gave: `duration_ns` is the mean of one run."""

    retval: int
    duration_ns: int
    data: bytes
    ctx: bytes


@record
class ProgTestRun(Call[TestRunResult]):
    """Run a program on `data` (and `ctx`) `repeat` times.

    `ctx_size_out` is how much of the context comes back: 0 as much as was given, -1 nothing (some types know no other way).
    """

    cmd: ClassVar[Cmd] = Cmd.PROG_TEST_RUN
    prog_fd: int
    data: bytes = b""
    ctx: bytes = b""
    repeat: int = 0
    flags: int = 0
    cpu: int = 0
    data_size_out: int = 0
    ctx_size_out: int = 0


@record
class NextId(Call[int]):
    """The id after `start` among programs, maps, BTFs or links (`cmd` says which); ENOENT at the end."""

    cmd: Cmd  # type: ignore[misc]  # one shape serves four commands
    start: int


@record
class FdById(Call[int]):
    """A descriptor of the program, map, BTF or link with this id (`cmd` says which)."""

    cmd: Cmd  # type: ignore[misc]
    id: int


@record
class ProgInfo:
    """What the kernel tells of a program.

    Of its machine code: where each function begins in the kernel's memory, how long each is, where the code of each record of
    `line_info` begins; `tags` are the functions' own.
    """

    type: int
    id: int
    tag: bytes
    name: str = ""
    xlated: bytes = b""
    jited: bytes = b""
    xlated_len: int = 0
    jited_len: int = 0
    load_time_ns: int = 0
    created_by_uid: int = 0
    map_ids: tuple[int, ...] = ()
    ifindex: int = 0
    gpl_compatible: bool = False
    btf_id: int = 0
    func_info: bytes = b""
    func_info_rec_size: int = 0
    line_info: bytes = b""
    line_info_rec_size: int = 0
    run_time_ns: int = 0
    run_cnt: int = 0
    verified_insns: int = 0
    memlock: int = 0
    jited_ksyms: tuple[int, ...] = ()
    jited_func_lens: tuple[int, ...] = ()
    jited_lines: tuple[int, ...] = ()
    tags: tuple[bytes, ...] = ()


@record
class MapInfo:
    """What the kernel tells of a map; of a program array that has an owner also the type of its programs."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    name: str = ""
    ifindex: int = 0
    btf_id: int = 0
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    map_extra: int = 0
    frozen: bool = False
    memlock: int = 0
    owner_prog_type: int = 0
    owner_jited: bool = False


@record
class BtfInfo:
    """What the kernel tells of a BTF object: `data` is empty if only its `size` was asked for."""

    id: int
    data: bytes
    name: str = ""
    kernel_btf: bool = False
    size: int = 0


@record
class LinkInfo:
    """What the kernel tells of a link; `detail` holds the fields of its kind (tp_name, ifindex, attach_type, ...)."""

    type: int
    id: int
    prog_id: int
    detail: dict[str, int | str] = made_by(default_factory=dict)


@record
class GetProgInfo(Call[ProgInfo]):
    """Ask about a program; `images` also fetches xlated, jited, func and line info."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_GET_INFO_BY_FD
    fd: int
    images: bool = False


@record
class GetMapInfo(Call[MapInfo]):
    """Ask about a map."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_GET_INFO_BY_FD
    fd: int


@record
class GetBtfInfo(Call[BtfInfo]):
    """Ask about a BTF object, its bytes included unless `whole` is false: the kernel's own are megabytes."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_GET_INFO_BY_FD
    fd: int
    whole: bool = True


@record
class GetLinkInfo(Call[LinkInfo]):
    """Ask about a link."""

    cmd: ClassVar[Cmd] = Cmd.OBJ_GET_INFO_BY_FD
    fd: int


@record
class BtfLoad(Call[int]):
    """Load type information; the answer is its descriptor."""

    cmd: ClassVar[Cmd] = Cmd.BTF_LOAD
    data: bytes
    log_level: int = 0
    log_size: int = 1 << 20


@record
class RawTracepointOpen(Call[int]):
    """Attach a program to a raw tracepoint (name "": to what it was loaded for); the answer is a link descriptor."""

    cmd: ClassVar[Cmd] = Cmd.RAW_TRACEPOINT_OPEN
    name: str
    prog_fd: int
    cookie: int = 0


@record
class KprobeMulti:
    """Functions of the kernel by name, each with its cookie (or none at all have one)."""

    functions: tuple[str, ...]
    cookies: tuple[int, ...] = ()
    ret: bool = False


@record
class UprobeMulti:
    """Places in a file, each with its cookie and the offset of its semaphore (or none at all have one); `pid` 0 is every process."""

    path: str
    offsets: tuple[int, ...]
    ref_ctr_offsets: tuple[int, ...] = ()
    cookies: tuple[int, ...] = ()
    ret: bool = False
    pid: int = 0


@record
class NetfilterHook:
    """A hook of netfilter: protocol family, hook number, place among others (small runs first), and NF_IP flags (1: defragment)."""

    family: int
    hook: int
    priority: int
    flags: int = 0


@record
class Anchor:
    """A place among the programs that are there: before or after (LinkCreate.flags) another program or link, by descriptor."""

    relative_fd: int = 0
    revision: int = 0


@record
class IterTarget:
    """What an iterator walks: the elements of a map, a cgroup's tree (`order` 1 self, 2 down, 3 down after, 4 up), or one task."""

    map_fd: int = 0
    cgroup_fd: int = 0
    order: int = 0
    tid: int = 0
    pid: int = 0


@record
class TracedFunction:
    """The function of a program (LinkCreate.target) that an extension replaces, by BTF id; 0 for what a program was loaded for."""

    btf_id: int


LinkOptions = KprobeMulti | UprobeMulti | NetfilterHook | Anchor | IterTarget | TracedFunction | None


@record
class LinkCreate(Call[int]):
    """Attach a program to `target` (a descriptor or an interface index); the answer is a link descriptor.

    `options` is what the kind of link needs besides. A map of struct_ops stands in the program's place.
    """

    cmd: ClassVar[Cmd] = Cmd.LINK_CREATE
    prog_fd: int
    target: int
    attach_type: int
    flags: int = 0
    cookie: int = 0
    options: LinkOptions = None


@record
class LinkUpdate(Call[None]):
    """Put another program (or map of struct_ops) into a link; with `old_fd` only if that is in it now."""

    cmd: ClassVar[Cmd] = Cmd.LINK_UPDATE
    link_fd: int
    new_fd: int
    old_fd: int = 0


@record
class IterCreate(Call[int]):
    """Begin to read what an iterator's link gives; the answer is a descriptor to read from."""

    cmd: ClassVar[Cmd] = Cmd.ITER_CREATE
    link_fd: int


@record
class EnableStats(Call[int]):
    """Count the runs and run time of programs for as long as the answer, a descriptor, is open."""

    cmd: ClassVar[Cmd] = Cmd.ENABLE_STATS
    kind: int = 0


@record
class LinkDetach(Call[None]):
    """Detach a link by force."""

    cmd: ClassVar[Cmd] = Cmd.LINK_DETACH
    link_fd: int
