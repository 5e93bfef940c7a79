"""Running programs on data that is given: test runs and replays, natively or by the interpreter."""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ebpf.engine.runtime import Function, library, packet_function
from ebpf.engine.runtime.abi import Env, MapHeader, Replay, Skb, Xdp
from ebpf.errors import EbpfError, KernelError, NotSupportedError
from ebpf.kernels.user.env import own_env, pointer
from ebpf.kernels.user.helpers import CALLING_BACK, CALLING_LATER, body
from ebpf.kernels.user.maps import Holding
from ebpf.kernels.user.objects import MapObject, ProgramObject
from ebpf.kernels.user.types import function_address
from ebpf.sys.calls import ProgTestRun, TestRunResult
from ebpf.sys.capture import Capture, header
from ebpf.sys.kernel import ReplayStats
from ebpf.uapi import HELPERS, MapType, ProgType

if TYPE_CHECKING:
    from ebpf.engine.interp import Machine, Memory
    from ebpf.kernels.user.kernel import UserKernel

_HEADROOM, _TAILROOM, _SHORTEST = 256, 320, 14
_PAGE = 4096
#: Programs above the driver, and whether their packets begin with the link's header.
_ABOVE_LINK = {
    ProgType.SOCKET_FILTER: False,
    ProgType.SCHED_CLS: True,
    ProgType.SCHED_ACT: True,
    ProgType.CGROUP_SKB: False,
    ProgType.LWT_IN: False,
    ProgType.LWT_OUT: False,
    ProgType.LWT_XMIT: False,
}
# struct __sk_buff, and the fields of it that a test run's caller may set.
_SK_BUFF = 192
_GIVEN = ("mark", "priority", "ingress_ifindex", "ifindex", "cb", "tstamp", "wire_len", "gso_segs", "gso_size", "hwtstamp")
_OLDEST_ETHERTYPE, _IEEE_802_3, _IEEE_802_2 = 0x600, 0x0001, 0x0004
_LARGEST = 1 << 17
_CTX = 8192
_HELPER = ctypes.CFUNCTYPE(ctypes.c_uint64, *([ctypes.c_uint64] * 5), ctypes.c_void_p)


def interpreter(kernel: "UserKernel", held: ProgramObject, env: Env, regions: Mapping[int, tuple[int, bool]]) -> "Machine":
    """The interpreter for a program: its maps and `regions` (address to size and writable) are the memory it may touch."""
    from ebpf.engine.interp import Machine, Memory, Program

    memory = Memory()
    seen: set[int] = set()
    _add_maps(memory, held, seen)
    memory.add(pointer(env), ctypes.sizeof(env), writable=False, name="the kernel's objects")
    for base, (size, writable) in regions.items():
        memory.add(base, size, writable=writable)
    helpers: dict[int, Callable[..., int]] = {}
    for id_ in HELPERS:
        address = body(held.program.call.prog_type, id_)
        if address:
            function = _HELPER(address)
            helpers[id_] = lambda a, b, c, d, e, f=function: int(f(a, b, c, d, e, pointer(env)))

    def program(of: ProgramObject) -> Program:
        data = {fd: map_.map.data_address for fd, map_ in of.maps.items()}
        return Program(of.program.prepared, data.__getitem__)

    programs = {id(held.program.prepared): held}

    def tail(target: int) -> Program:
        found = next(p for p in kernel.state.registry.all(ProgramObject) if p.program.target == target)
        _add_maps(memory, found, seen)
        programs[id(found.program.prepared)] = found
        return program(found)

    def kernel_function(number: int, *args: int) -> int:
        return int(_HELPER(function_address(number, held.program.call.prog_type))(*args, pointer(env)))

    machine = Machine(
        held.program.prepared,
        memory,
        helpers,
        map_value=program(held).map_value,
        tails=tail,
        packet_load=library().rt_skb_load,
        kernel=kernel_function,
    )
    for name in CALLING_BACK:
        id_ = next(row.id for row in HELPERS.values() if row.name == name)
        if id_ in helpers:
            helpers[id_] = _calling_back(machine, memory, helpers[id_])
    keep = helpers[CALLING_LATER]
    helpers[CALLING_LATER] = lambda timer, function, *_: keep(timer, *_called_later(kernel, programs[id(machine.prepared)], function), 0, 0)
    return machine


def _called_later(kernel: "UserKernel", held: ProgramObject, function: int) -> tuple[int, int]:
    """A function of the program as a timer can call it, and the program's number."""
    made = held.program.callbacks.get(function)
    if made is None:

        def run(map_: int, key: int, value: int, _: int, __: int, env: int) -> int:
            machine = interpreter(kernel, held, Env.from_address(env), {})
            key_size = MapHeader.from_address(map_).key_size
            if machine.memory.why_not(key, key_size, writing=False):
                machine.memory.add(key, key_size, writable=False)
            machine.frames.clear()
            return machine.call(function, map_, key, value)

        made = held.program.callbacks[function] = _HELPER(run)
    return ctypes.cast(made, ctypes.c_void_p).value or 0, held.program.owner


def _calling_back(machine: "Machine", memory: "Memory", helper: Callable[..., int]) -> Callable[..., int]:
    """The helper, its second argument a function of the program. What the callback raises is raised when the helper has ended."""

    def call(a: int, function: int, c: int, d: int, e: int) -> int:
        raised: list[EbpfError] = []

        def back(*args: int) -> int:
            # A walk through a map gives the callback a key, which an array has nowhere in its memory.
            key = memory.add(args[1], 4, writable=False) if args[1] and memory.why_not(args[1], 4, writing=False) else None
            try:
                return 1 if raised else machine.call(function, *args[:5])
            except EbpfError as error:
                raised.append(error)
                return 1
            finally:
                if key is not None:
                    memory.remove(key)

        shape = _HELPER(back)
        result = helper(a, ctypes.cast(shape, ctypes.c_void_p).value, c, d, e)
        if raised:
            raise raised[0]
        return result

    return call


def _add_maps(memory: "Memory", held: ProgramObject, seen: set[int]) -> None:
    """Let a program reach what is in its maps, and in the maps that those hold."""
    maps = [map_.map for map_ in held.maps.values()]
    while maps:
        map_ = maps.pop()
        if map_.address in seen or not map_.data_address:
            continue
        seen.add(map_.address)
        # A ring buffer's data lies there twice, so that records go on behind its end.
        twice = map_.spec.map_type == MapType.RINGBUF
        memory.add(map_.data_address, map_.header.data_size * (1 + twice), writable=True)
        if isinstance(map_, Holding):
            maps.extend(thing.map for thing in map_.things.values() if isinstance(thing, MapObject))


def test_run(kernel: "UserKernel", held: ProgramObject, call: ProgTestRun) -> TestRunResult:
    """BPF_PROG_TEST_RUN, by Linux's rules for packets; kernel events get their context as it is given."""
    kind = ProgType(held.program.call.prog_type)
    repeat = max(call.repeat, 1)
    with surroundings(kernel) as env:
        return _test_run(kernel, held, call, env, kind, repeat)


@contextmanager
def surroundings(kernel: "UserKernel") -> Iterator[Env]:
    """An environment for runs of this thread."""
    env = own_env(kernel.state.trace.address, kernel.possible_cpus)
    routes = kernel.state.routes
    env.routes = ctypes.addressof(routes) if routes is not None else None
    kernel.state.grace.watch(env)
    kernel.runs[id(env)] = env
    env.stop = int(kernel.leaving)
    try:
        yield env
    finally:
        kernel.runs.pop(id(env), None)
        kernel.state.grace.forget(env)


def _test_run(kernel: "UserKernel", held: ProgramObject, call: ProgTestRun, env: Env, kind: ProgType, repeat: int) -> TestRunResult:
    if kind == ProgType.XDP:
        return _run_xdp(kernel, held, call, env, repeat)
    if kind in _ABOVE_LINK:
        return _run_skb(kernel, held, call, env, repeat, at_link=_ABOVE_LINK[kind])
    if call.data:
        raise KernelError(errno.EINVAL, "bpf(PROG_TEST_RUN)", "programs on kernel events take a context, no data")
    ctx = ctypes.create_string_buffer(call.ctx, max(_CTX, len(call.ctx)))
    where = ctypes.addressof(ctx)
    result, elapsed = _execute(kernel, held, where, env, repeat, {where: (len(ctx), True)})
    return TestRunResult(result & 0xFFFFFFFF, elapsed // repeat, b"", ctx.raw[: len(call.ctx)] if call.ctx_size_out >= 0 else b"")


def _run_xdp(kernel: "UserKernel", held: ProgramObject, call: ProgTestRun, env: Env, repeat: int) -> TestRunResult:
    size = len(call.data)
    if size < _SHORTEST:
        raise KernelError(errno.EINVAL, "bpf(PROG_TEST_RUN)", f"a frame of {size} bytes: Ethernet needs {_SHORTEST}")
    if size > _LARGEST - _HEADROOM - _TAILROOM:
        raise KernelError(errno.EINVAL, "bpf(PROG_TEST_RUN)", f"a frame of {size} bytes is too long")
    # A page, as Linux gives a test run, of which the last bytes are kept; a longer packet fills its buffer.
    room = max(_PAGE - _TAILROOM, _HEADROOM + size)
    buffer = ctypes.create_string_buffer(room + _TAILROOM)
    base = ctypes.addressof(buffer)
    ctypes.memmove(base + _HEADROOM, call.data, size)
    start = base + _HEADROOM
    ctx = Xdp(start, start + size, start, 1, 0, 0, 0, base, base + room)
    if call.ctx:
        if len(call.ctx) < 24:
            raise KernelError(errno.EINVAL, "bpf(PROG_TEST_RUN)", "struct xdp_md has 24 bytes")
        ctx.ingress_ifindex, ctx.rx_queue_index = struct.unpack_from("<II", call.ctx, 12)
    where = ctypes.addressof(ctx)
    regions = {where: (ctypes.sizeof(ctx), True), base: (len(buffer), True)}
    result, elapsed = _execute(kernel, held, where, env, repeat, regions)
    # Metadata that the program put in front of the packet comes out with it.
    out = ctypes.string_at(ctx.data_meta, ctx.data_end - ctx.data_meta)
    return TestRunResult(result & 0xFFFFFFFF, elapsed // repeat, out, b"")


def _run_skb(kernel: "UserKernel", held: ProgramObject, call: ProgTestRun, env: Env, repeat: int, *, at_link: bool) -> TestRunResult:
    where_ = "bpf(PROG_TEST_RUN)"
    size = len(call.data)
    if size < _SHORTEST:
        raise KernelError(errno.EINVAL, where_, f"a frame of {size} bytes: Ethernet needs {_SHORTEST}")
    if size > _LARGEST - _HEADROOM - _TAILROOM:
        raise KernelError(errno.EINVAL, where_, f"a frame of {size} bytes is too long")
    room = max(_PAGE - _TAILROOM, _HEADROOM + size)
    buffer = ctypes.create_string_buffer(room + _TAILROOM)
    base = ctypes.addressof(buffer)
    link = base + _HEADROOM
    ctypes.memmove(link, call.data, size)
    network = link + _SHORTEST
    start = link if at_link else network
    ctx = Skb(len=link + size - start, protocol=_protocol(call.data), pkt_type=_addressee(call.data), ifindex=1)
    _take_ctx(ctx, call.ctx)
    if call.ctx:
        ctx.wire_len = ctx.wire_len or ctx.len
    ctx.data = ctx.data_meta = start
    ctx.data_end = link + size
    ctx.link_header, ctx.network_header = link, network
    ctx.hard_begin, ctx.hard_end = base, base + room
    where = ctypes.addressof(ctx)
    regions = {where: (ctypes.sizeof(ctx), True), base: (len(buffer), True)}
    result, elapsed = _execute(kernel, held, where, env, repeat, regions)
    out = ctypes.string_at(ctx.data, ctx.data_end - ctx.data)
    # Linux gives the link's header back empty where the program did not see it.
    packet = out if at_link else bytes(_SHORTEST) + out
    answer = Skb(**{name: getattr(ctx, name) for name in _GIVEN if name != "cb"})
    answer.cb = ctx.cb
    answer.gso_size = 0
    return TestRunResult(result & 0xFFFFFFFF, elapsed // repeat, packet, bytes(answer)[:_SK_BUFF] if call.ctx else b"")


def _take_ctx(ctx: Skb, given: bytes) -> None:
    """Take what a test run's caller may say of a packet. EINVAL for any other field that is not zero."""
    if not given:
        return
    if any(given[_SK_BUFF:]):
        raise KernelError(errno.E2BIG, "bpf(PROG_TEST_RUN)", f"struct __sk_buff has {_SK_BUFF} bytes")
    theirs = Skb.from_buffer_copy(given[:_SK_BUFF].ljust(ctypes.sizeof(Skb), b"\0"))
    for name in _GIVEN:
        value = getattr(theirs, name)
        if name == "cb":
            ctx.cb = value
            ctypes.memset(ctypes.addressof(theirs) + Skb.cb.offset, 0, Skb.cb.size)
            continue
        if value:
            setattr(ctx, name, value)
        setattr(theirs, name, 0)
    if any(bytes(theirs)):
        raise KernelError(errno.EINVAL, "bpf(PROG_TEST_RUN)", f"of struct __sk_buff only {', '.join(_GIVEN)} can be given")


def _protocol(frame: bytes) -> int:
    """`protocol` of a frame: its EtherType in the network's order, or which of the older framings it has."""
    number = int.from_bytes(frame[12:14], "big")
    if number < _OLDEST_ETHERTYPE:
        number = _IEEE_802_3 if frame[14:16] == b"\xff\xff" else _IEEE_802_2
    return int.from_bytes(number.to_bytes(2, "big"), "little")


def _addressee(frame: bytes) -> int:
    """`pkt_type` on the loopback interface, whose own and broadcast address is zero: 0 this host, 2 several, 3 another host."""
    to = frame[:6]
    return 2 if to[0] & 1 else 3 if any(to) else 0


def _execute(
    kernel: "UserKernel", held: ProgramObject, ctx: int, env: Env, repeat: int, regions: Mapping[int, tuple[int, bool]]
) -> tuple[int, int]:
    begin = time.perf_counter_ns()
    result = elapsed = 0
    if held.program.entry:
        took = ctypes.c_uint64()
        result = int(library().rt_run(held.program.entry, ctx, pointer(env), repeat, ctypes.byref(took)))
        elapsed = took.value
    else:
        for _ in range(repeat):
            env.tail_calls = 0
            env.runs += 1
            try:
                result = interpreter(kernel, held, env, regions).run(ctx)
            finally:
                env.runs += 1
            if env.stop:
                break
        elapsed = time.perf_counter_ns() - begin
    if env.stop:
        raise KernelError(
            errno.ETIMEDOUT, "bpf(PROG_TEST_RUN)", f"stopped after {env.runs // 2} of {repeat} runs, {elapsed / 1e9:.1f} s: the time is up"
        )
    return result, elapsed


def function(kernel: "UserKernel", held: ProgramObject) -> Function:
    """An XDP program as a function of a packet: machine code called as directly as Python can, else test runs."""
    if held.program.call.prog_type != ProgType.XDP:
        raise NotSupportedError("a program as a function", "only XDP programs are yet")
    if not held.program.entry:
        return lambda packet: test_run(kernel, held, ProgTestRun(0, packet)).retval
    env = own_env(kernel.state.trace.address, kernel.possible_cpus)
    made, caller = packet_function(held.program.entry, env, held.program.call.name)
    held.program.callers.append(caller)
    return made


def replay(
    kernel: "UserKernel",
    held: ProgramObject,
    capture: Capture,
    *,
    repeat: int = 1,
    sinks: Mapping[int, str] | None = None,
    limit: int | None = None,
) -> ReplayStats:
    """Run an XDP program over a capture, natively where there is machine code."""
    if held.program.call.prog_type != ProgType.XDP:
        raise NotSupportedError("replay", "only XDP programs run over a capture yet")
    capture.require_ethernet()
    if not held.program.entry:
        return _replay_slowly(kernel, held, capture, repeat=repeat, sinks=sinks, limit=limit)
    view = memoryview(capture.buffer)
    window = (ctypes.c_char * len(view)).from_buffer_copy(view) if view.readonly else (ctypes.c_char * len(view)).from_buffer(view)
    begin = ctypes.addressof(window)
    space = ctypes.create_string_buffer(_LARGEST)
    state = Replay()
    state.pcapng, state.swapped = int(capture.pcapng), int(capture.swapped)
    state.buffer, state.buffer_size = ctypes.addressof(space), _LARGEST
    state.ifindex, state.nanoseconds = 1, int(capture.nanoseconds)
    files = _open_sinks(sinks)
    for verdict in range(len(state.sinks)):
        state.sinks[verdict] = files.get(verdict, -1)
    try:
        with surroundings(kernel) as env:
            for _ in range(repeat):
                state.at, state.end = begin + capture.start, begin + len(view)
                state.limit = (state.packets + limit) if limit else 0
                library().rt_replay(ctypes.byref(state), held.program.entry, pointer(env))
    finally:
        for fd in files.values():
            os.close(fd)
    if state.torn and not limit:
        raise capture.torn(state.packets // repeat, capture.start + state.consumed)
    verdicts = {n: state.verdicts[n] for n in range(len(state.verdicts)) if state.verdicts[n]}
    return ReplayStats(state.packets, verdicts, state.invalid + state.oversize, state.elapsed_ns, state.bytes)


def _open_sinks(sinks: Mapping[int, str] | None) -> dict[int, int]:
    files: dict[int, int] = {}
    for verdict, path in (sinks or {}).items():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)
        os.write(fd, header())
        files[verdict] = fd
    return files


def _replay_slowly(
    kernel: "UserKernel",
    held: ProgramObject,
    capture: Capture,
    *,
    repeat: int,
    sinks: Mapping[int, str] | None,
    limit: int | None,
) -> ReplayStats:
    """The same by the interpreter: the definition, and what there is without machine code."""
    files = _open_sinks(sinks)
    verdicts: dict[int, int] = {}
    packets = invalid = size = 0
    begin = time.perf_counter_ns()
    try:
        for _ in range(repeat):
            for number, packet in enumerate(capture):
                if limit is not None and number >= limit:
                    break
                packets += 1
                size += len(packet.data)
                if len(packet.data) < _SHORTEST:
                    invalid += 1
                    continue
                with surroundings(kernel) as env:
                    answer = _run_xdp(kernel, held, ProgTestRun(0, packet.data), env, 1)
                verdicts[answer.retval] = verdicts.get(answer.retval, 0) + 1
                if answer.retval in files:
                    seconds, rest = divmod(packet.timestamp_ns, 10**9)
                    record = struct.pack("<IIII", seconds, rest // 1000, len(answer.data), len(answer.data))
                    os.write(files[answer.retval], record + answer.data)
    finally:
        for fd in files.values():
            os.close(fd)
    return ReplayStats(packets, verdicts, invalid, time.perf_counter_ns() - begin, size)
