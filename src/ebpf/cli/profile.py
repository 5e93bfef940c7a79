"""`prog profile PROG [duration D] METRICs`: what a program's runs cost, counted by programs at its beginning and its end."""

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from ebpf.btf import Btf
from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.words import Words, number
from ebpf.errors import EbpfError, NotSupportedError, UsageError
from ebpf.object import Collection, Map, function_of
from ebpf.records import record
from ebpf.sys.calls import FdById, GetBtfInfo, GetProgInfo, MapUpdate, ProgInfo
from ebpf.sys.kernel import Counter, Kernel
from ebpf.uapi import Cmd

_HARDWARE, _SOFTWARE, _CACHE = 0, 1, 3
_L1D, _LL, _DTLB, _ITLB = 0, 2, 3, 4
_ACCESSES, _MISSES = 0, 1 << 16
_MOST = 4


@record
class Metric:
    """Something that is counted: perf's name for it, and what of another metric it is told as a part of (times `scale`)."""

    name: str
    type: int
    config: int
    of: str = ""
    scale: float = 1.0
    words: str = ""
    ours: bool = False


_ROWS: Final = (
    Metric("cycles", _HARDWARE, 0),
    Metric("instructions", _HARDWARE, 1, "cycles", 1.0, "insns per cycle"),
    Metric("l1d_loads", _CACHE, _L1D | _ACCESSES),
    Metric("llc_misses", _CACHE, _LL | _MISSES, "instructions", 1e6, "LLC misses per million insns"),
    Metric("itlb_misses", _CACHE, _ITLB | _MISSES, "instructions", 1e6, "itlb misses per million insns"),
    Metric("dtlb_misses", _CACHE, _DTLB | _MISSES, "instructions", 1e6, "dtlb misses per million insns"),
    # Nanoseconds: there are machines without counters.
    Metric("cpu_clock", _SOFTWARE, 0, ours=True),
)
METRICS: Final = {row.name: row for row in _ROWS}

_SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
struct row { struct bpf_perf_event_value of[METRICS]; __u64 runs; };
#define MAP(name, kind, count, value_type) struct { __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, count); __type(key, int); \\
    __type(value, value_type); } name SEC(".maps")
MAP(events, PERF_EVENT_ARRAY, CPUS * METRICS, int);
MAP(begun, PERCPU_ARRAY, 1, struct row);
MAP(total, PERCPU_ARRAY, 1, struct row);
static int counted(struct row *row)
{
    __u32 cpu = bpf_get_smp_processor_id();
#pragma unroll
    for (int i = 0; i < METRICS; i++)
        if (bpf_perf_event_read_value(&events, cpu + i * CPUS, &row->of[i], sizeof(row->of[i])))
            return 0;
    return 1;
}
SEC("fentry/FUNCTION") int enters(void *ctx)
{
    int zero = 0;
    struct row *row = bpf_map_lookup_elem(&begun, &zero);
    if (row)
        row->runs = counted(row);
    return 0;
}
SEC("fexit/FUNCTION") int leaves(void *ctx)
{
    int zero = 0;
    struct row now, *from, *sum;
    if (!counted(&now))
        return 0;
    from = bpf_map_lookup_elem(&begun, &zero);
    sum = bpf_map_lookup_elem(&total, &zero);
    if (!from || !sum || !from->runs)
        return 0;
    from->runs = 0;
#pragma unroll
    for (int i = 0; i < METRICS; i++) {
        sum->of[i].counter += now.of[i].counter - from->of[i].counter;
        sum->of[i].enabled += now.of[i].enabled - from->of[i].enabled;
        sum->of[i].running += now.of[i].running - from->of[i].running;
    }
    sum->runs++;
    return 0;
}
"""


@record
class Reading:
    """What was counted of a metric, and for how long the counter was asked for and truly ran."""

    metric: Metric
    value: int
    enabled: int
    running: int


def profile(context: Context, words: Words) -> int:
    """Count until the duration is over or Ctrl-C, then print."""
    words.need(3, "profile")
    handle = handles.take(words, "prog")
    seconds = number(words.take("duration"), "duration") if words.take_if("duration") else None
    metrics = _metrics(context, words)
    kernel = context.kernel()
    with handles.programs(kernel, handle) as found:
        each = handles.only(found, handle, "prog")
        with _counting(kernel, each.fd, kernel.bpf(GetProgInfo(each.fd, images=True)), metrics) as total:
            _wait(seconds)
            runs, readings = _sum(total.lookup(bytes(4)) or b"", metrics)
    if context.json:
        context.write(dumps(_rows(runs, readings), pretty=context.pretty))
    else:
        context.write(f"\n{runs:18} {'run_cnt':<20}")
        for line in _lines(readings):
            context.write(line)
    return 0


def _metrics(context: Context, words: Words) -> list[Metric]:
    known = {name: row for name, row in METRICS.items() if not row.ours or context.command != "bpftool"}
    chosen: dict[str, Metric] = {}
    while words:
        name = words.take("METRIC")
        if name not in known:
            more = "" if context.command == "bpftool" else f"; there is {', '.join(known)}"
            raise UsageError(f"unknown metric {name}{more}")
        chosen[name] = known[name]
    if not chosen:
        raise UsageError("no metric: say which")
    if len(chosen) > _MOST:
        raise UsageError(f"too many ({len(chosen)}) metrics, please specify no more than {_MOST} metrics at a time")
    # As the table has them: what is told as a part of another comes after it.
    return [row for row in _ROWS if row.name in chosen]


@contextmanager
def _counting(kernel: Kernel, fd: int, info: ProgInfo, metrics: Sequence[Metric]) -> Iterator[Map]:
    """The map with the sums, while the counters run and the program is traced."""
    from ebpf import attach
    from ebpf.compile import compile_c
    from ebpf.elf import read_object

    function = _entry(kernel, info)
    cpus = kernel.possible_cpus
    text = _SOURCE.replace("FUNCTION", function).replace("METRICS", str(len(metrics))).replace("CPUS", str(cpus))
    spec = read_object(compile_c("profile.bpf.c", text=text).object)
    with ExitStack() as stack:
        opened = {}
        for number_, metric in enumerate(metrics):
            for cpu in range(cpus):
                opened[number_ * cpus + cpu] = event = _opened(kernel, metric, cpu)
                stack.callback(kernel.close, event)
                kernel.perf_enable(event)
        target = function_of(kernel, fd, info.name, function)
        held = stack.enter_context(Collection.load(spec, kernel, targets=dict.fromkeys(spec.programs, target)))
        for key, event in opened.items():
            kernel.bpf(MapUpdate(held.maps["events"].fd, struct.pack("=I", key), struct.pack("=i", event)))
        for program in held.programs.values():
            stack.enter_context(attach.trace(program))
        yield held.maps["total"]


def _opened(kernel: Kernel, metric: Metric, cpu: int) -> int:
    try:
        return kernel.perf_event_open(Counter(metric.type, metric.config), pid=-1, cpu=cpu)
    except NotSupportedError as error:
        error.hint = "cpu_clock counts nanoseconds where a machine has no counters"
        raise
    except EbpfError as error:
        raise UsageError(f"failed to create event {metric.name} on cpu {cpu}: {error}") from error


def _entry(kernel: Kernel, info: ProgInfo) -> str:
    """The name of a program's first function."""
    if not info.btf_id or len(info.func_info) < 8:
        raise UsageError(f"program {info.id} has no types: only one that was compiled with -g can be profiled")
    fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, info.btf_id))
    try:
        btf = Btf.parse(kernel.bpf(GetBtfInfo(fd)).data)
    finally:
        kernel.close(fd)
    return btf.type(struct.unpack_from("=II", info.func_info)[1]).name


def _wait(seconds: int | None) -> None:
    try:
        while seconds is None:
            time.sleep(3600)
        time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _sum(data: bytes, metrics: Sequence[Metric]) -> tuple[int, list[Reading]]:
    """The runs, and what was counted, of all CPUs together."""
    size = len(metrics) * 24 + 8
    parts = [struct.unpack_from(f"={len(metrics) * 3 + 1}Q", data, at) for at in range(0, len(data), size)]
    sums = [sum(column) for column in zip(*parts, strict=True)]
    return sums[-1], [Reading(metric, *sums[3 * i : 3 * i + 3]) for i, metric in enumerate(metrics)]


def _rows(runs: int, readings: Sequence[Reading]) -> list[Json]:
    return [
        {"metric": each.metric.name, "run_cnt": runs, "value": each.value, "enabled": each.enabled, "running": each.running}
        for each in readings
    ]


def _lines(readings: Sequence[Reading]) -> Iterator[str]:
    values = {each.metric.name: each.value for each in readings}
    for each in readings:
        whole = values.get(each.metric.of)
        part = f"# {each.value / whole * each.metric.scale:8.2f} {each.metric.words:<30}" if whole else f"{'':41}"
        ran = f"({each.running * 100 / each.enabled:.2f}%)" if each.enabled > each.running else ""
        yield f"{each.value:18} {each.metric.name:<20}{part}{ran}"
