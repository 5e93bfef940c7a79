"""`ebpf prog run OBJ --pcap FILE`: an XDP program over every packet of a capture."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.words import Words, number
from ebpf.errors import NotFoundError, NotSupportedError, UsageError
from ebpf.uapi import ProgType, XdpAction

if TYPE_CHECKING:
    from ebpf.object import Collection, Program
    from ebpf.spec import ObjectSpec


def run(context: Context, words: Words) -> int:
    """Load the object, replay the capture, print verdicts, packets per second and global variables."""
    from ebpf.object import Collection
    from ebpf.sys.capture import Capture

    path, wanted = Path(words.take("OBJ")), ""
    options: dict[str, str] = {}
    trace = False
    while words:
        word = words.take("option")
        if word == "--trace":
            trace = True
        elif word in ("--pcap", "--repeat", "--write", "--limit"):
            options[word] = words.take(word)
        elif word.startswith("-") or wanted:
            raise UsageError(f"prog run: unexpected '{word}'; ebpf prog help")
        else:
            wanted = word
    if "--pcap" not in options:
        raise UsageError("prog run: over which packets? add --pcap FILE")
    spec = read(path)
    kernel = context.kernel(here=True)
    capture = Capture.open(options["--pcap"])
    trace_fd = kernel.trace_open() if trace else -1
    with Collection.load(spec, kernel, load=False) as collection:
        program = _choose(collection, wanted, path)
        sinks = _sinks(options["--write"]) if "--write" in options else None
        stats = kernel.lab.replay(
            program.fd,
            capture,
            repeat=number(options.get("--repeat", "1"), "repeat"),
            sinks=sinks,
            limit=number(options["--limit"], "limit") if "--limit" in options else None,
        )
        if sinks is not None:
            _drop_empty(sinks, stats.verdicts)
        verdicts = {_verdict(v): n for v, n in sorted(stats.verdicts.items()) if n}
        variables = collection.variables()
        rate = stats.packets / (stats.elapsed_ns / 1e9) if stats.elapsed_ns else 0.0
        if trace:
            context.out.write(kernel.trace_read(trace_fd).decode(errors="replace"))
        if context.json:
            row: dict[str, Json] = {
                "program": program.name,
                "packets": stats.packets,
                "verdicts": verdicts,
                "globals": {k: _plain(v) for k, v in variables.items()},
                "invalid": stats.invalid,
                "packets_per_second": round(rate),
            }
            context.write(dumps(row, pretty=context.pretty))
            return 0
        context.write(f"{path.name}: {program.name} over {stats.packets} packets of {Path(options['--pcap']).name}")
        for name, count in verdicts.items():
            context.write(f"  {name:<14} {count:>12}")
        if stats.invalid:
            context.write(f"  {'too short':<14} {stats.invalid:>12}  (under 14 bytes: not run)")
        context.write(f"  {'packets/s':<14} {_rate(rate):>12}")
        for name, value in variables.items():
            context.write(f"  {name} = {_plain(value)}")
    return 0


def read(path: Path) -> "ObjectSpec":
    """An object file, or C source that is compiled first, as a spec."""
    from ebpf.elf import read_object

    if not path.is_file():
        raise NotFoundError("file", str(path))
    if path.suffix == ".c":
        from ebpf.compile import compile_c

        return read_object(compile_c(path).object, str(path.with_suffix(".o")))
    return read_object(path.read_bytes(), str(path))


def _choose(collection: "Collection", wanted: str, path: Path) -> "Program":
    programs = {n: p for n, p in collection.programs.items() if p.spec.type == ProgType.XDP}
    if wanted:
        if wanted not in collection.programs:
            raise NotFoundError("program", wanted, where=str(path), near=list(collection.programs))
        if wanted not in programs:
            raise NotSupportedError(f"program {wanted!r}", "only XDP programs run over a capture yet")
        return programs[wanted]
    if not programs:
        raise NotFoundError("XDP program", 'SEC("xdp")', where=str(path))
    if len(programs) > 1:
        raise UsageError(f"{path} has several XDP programs: which? {', '.join(programs)}")
    return next(iter(programs.values()))


def _sinks(folder: str) -> dict[int, str]:
    os.makedirs(folder, exist_ok=True)
    return {int(action): os.path.join(folder, f"{action.name}.pcap") for action in XdpAction}


def _drop_empty(sinks: dict[int, str], verdicts: "dict[int, int] | object") -> None:
    counts = dict(verdicts) if isinstance(verdicts, dict) else {}
    for verdict, path in sinks.items():
        if not counts.get(verdict) and os.path.exists(path):
            os.unlink(path)


def _verdict(number: int) -> str:
    try:
        return XdpAction(number).name
    except ValueError:
        return f"unknown {number}"


def _plain(value: object) -> Json:
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)


def _rate(rate: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.1f} {unit}"
    return f"{rate:.0f}"
