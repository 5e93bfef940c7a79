"""`map event_pipe`: what programs give to a perf event array, until Ctrl-C."""

import time

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.words import Words, number
from ebpf.errors import UsageError
from ebpf.events import PerfBuffer
from ebpf.object import Map
from ebpf.spec import MapSpec
from ebpf.uapi import MapType

_ROW = 16


def run(context: Context, words: Words) -> int:
    """Print the samples of every CPU, or of `cpu N` under `index M`."""
    handle = handles.take(words, "map")
    chosen: dict[str, int] = {}
    while words:
        word = words.take("option")
        name = next((name for name in ("cpu", "index") if name.startswith(word)), None)
        if name is None:
            raise UsageError(f"unknown arg {word}")
        chosen[name] = number(words.take(name), name)
    if len(chosen) == 1:
        raise UsageError("cpu and index must be specified together")
    kernel = context.kernel()
    with handles.maps(kernel, handle) as found:
        each = handles.only(found, handle, "map")
        info = each.info
        if info.type != MapType.PERF_EVENT_ARRAY:
            raise UsageError("map is not a perf event array")
        held = Map(kernel, each.fd, MapSpec(info.name, info.type, info.key_size, info.value_size, info.max_entries))
        places = {chosen["cpu"]: chosen["index"]} if chosen else {cpu: cpu for cpu in range(min(kernel.possible_cpus, info.max_entries))}
        with PerfBuffer(held, places=places) as buffer:
            if context.json:
                context.write("[")
            _copy(context, buffer, places)
            if context.json:
                context.write("]")
    return 0


def _copy(context: Context, buffer: PerfBuffer, places: dict[int, int]) -> None:
    first = True

    def sample(cpu: int, data: bytes) -> None:
        nonlocal first
        seconds, nanoseconds = divmod(time.monotonic_ns(), 1_000_000_000)
        if context.json:
            row: dict[str, Json] = {
                "type": 9,
                "cpu": cpu,
                "index": places[cpu],
                "timestamp": seconds * 1_000_000_000 + nanoseconds,
                "data": hex_bytes(data),
            }
            context.write(("" if first else ",") + dumps(row, pretty=context.pretty))
        else:
            context.write(f"== @{seconds}.{nanoseconds:09d} CPU: {cpu} index: {places[cpu]} =====")
            for at in range(0, len(data), _ROW):
                context.write(" ".join(f"{byte:02x}" for byte in data[at : at + _ROW]))
        first = False
        context.out.flush()

    def lost(cpu: int, count: int) -> None:
        context.note(f"lost {count} events of CPU {cpu}")

    try:
        while True:
            buffer.poll(sample, 1.0, lost=lost)
    except KeyboardInterrupt:
        context.note("Stopping...")
