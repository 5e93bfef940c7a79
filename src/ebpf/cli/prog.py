"""`ebpf prog`: list, load, dump and run programs, in bpftool's grammar."""

import time
from collections.abc import Sequence

from ebpf.cli import handles, table
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Misuse, Verb, dispatch, done, help_verb
from ebpf.cli.words import Words, is_prefix
from ebpf.errors import UsageError
from ebpf.sys.calls import ProgInfo


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `prog` command."""
    return dispatch(context, argv, "prog", _VERBS)


def show(context: Context, words: Words) -> int:
    """Print every program, or those a handle names."""
    kernel = context.kernel()
    handle = handles.take(words, "prog") if words else None
    words.end()
    with handles.programs(kernel, handle) as found:
        pins = handles.pins(kernel, "prog") if context.bpffs else {}
        if handle is not None and not found:
            handles.only(found, handle, "prog")
        if context.json:
            rows = [_row(f.info) | handles.pinned_row(pins, f.info.id) for f in found]
            one = handle is not None and len(rows) == 1
            context.write(dumps(rows[0] if one else rows, pretty=context.pretty))
        elif handle is None and table.wanted(context):
            pins = pins or handles.pins(kernel, "prog")
            table.write(context, _COLUMNS, [_cells(each.info, pins.get(each.info.id, ())) for each in found])
        else:
            for each in found:
                context.write(_text(each.info, pins.get(each.info.id, ())))
        return 0


def loaded_at(info: ProgInfo) -> float:
    """When a program was loaded, in seconds since 1970 (the kernel counts from boot)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    now = time.clock_gettime(clock) if clock is not None else time.monotonic()
    return time.time() - now + info.load_time_ns / 1e9


def _row(info: ProgInfo) -> dict[str, Json]:
    row: dict[str, Json] = {"id": info.id, "type": handles.program_type(info.type)}
    if info.name:
        row["name"] = info.name
    row |= {
        "tag": info.tag.hex(),
        "gpl_compatible": info.gpl_compatible,
        "loaded_at": int(loaded_at(info)),
        "uid": info.created_by_uid,
        "orphaned": False,
        "bytes_xlated": info.xlated_len,
        "jited": bool(info.jited_len),
    }
    if info.jited_len:
        row["bytes_jited"] = info.jited_len
    row["bytes_memlock"] = info.memlock
    if info.map_ids:
        row["map_ids"] = list(info.map_ids)
    if info.btf_id:
        row["btf_id"] = info.btf_id
    return row


# So many maps' ids are named in a table.
_MAPS = 4
_COLUMNS = (
    table.Column("ID", right=True, colour="36"),
    table.Column("TYPE"),
    table.Column("NAME", colour="1"),
    table.Column("TAG", colour="2"),
    table.Column("INSNS", right=True),
    table.Column("JITED", right=True),
    table.Column("MAPS"),
    table.Column("LOADED", right=True),
    table.Column("UID", right=True),
    table.Column("PINNED", colour="32"),
)


def _cells(info: ProgInfo, pins: Sequence[str]) -> tuple[object, ...]:
    loaded = table.age(time.time() - loaded_at(info))
    jited = f"{info.jited_len}B" if info.jited_len else "no"
    maps = ",".join(map(str, info.map_ids[:_MAPS])) + (f" +{len(info.map_ids) - _MAPS}" if len(info.map_ids) > _MAPS else "")
    kind = handles.program_type(info.type)
    return (info.id, kind, info.name, info.tag.hex(), info.xlated_len // 8, jited, maps, loaded, info.created_by_uid, " ".join(pins))


def _text(info: ProgInfo, pins: Sequence[str] = ()) -> str:
    name = f"  name {info.name}" if info.name else ""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(loaded_at(info)))
    lines = [
        f"{info.id}: {handles.program_type(info.type)}{name}  tag {info.tag.hex()}" + ("  gpl" if info.gpl_compatible else ""),
        f"\tloaded_at {stamp}  uid {info.created_by_uid}",
        f"\txlated {info.xlated_len}B  "
        + (f"jited {info.jited_len}B" if info.jited_len else "not jited")
        + f"  memlock {info.memlock}B"
        + (f"  map_ids {','.join(map(str, info.map_ids))}" if info.map_ids else ""),
    ]
    lines += [f"\tpinned {path}" for path in pins]
    if info.btf_id:
        lines.append(f"\tbtf_id {info.btf_id}")
    return "\n".join(lines)


def load(context: Context, words: Words) -> int:
    """Load an object and pin its first program."""
    from ebpf.cli.load import load as load_object

    return load_object(context, words, every=False)


def loadall(context: Context, words: Words) -> int:
    """Load an object and pin all its programs in a folder, by their names."""
    from ebpf.cli.load import load as load_object

    return load_object(context, words, every=True)


def dump(context: Context, words: Words) -> int:
    """Print the instructions of loaded programs, or their machine code; or store one's image as it is in a file."""
    # Only who dumps needs these: listing starts without them.
    from ebpf.cli import graph, jited, xlated

    what = words.take("xlated|jited")
    kind = next((kind for kind in ("xlated", "jited") if is_prefix(what, kind)), None)
    if kind is None:
        raise UsageError(f"expected 'xlated' or 'jited', got: {what}")
    words.need(2, what)
    handle = handles.take(words, "prog")
    flags: set[str] = set()
    path = ""
    if words.take_if("file"):
        if not words:
            raise UsageError("expected file path")
        path = words.take("FILE")
    while words:
        flag = next((flag for flag in ("opcodes", "linum", "visual") if is_prefix(words.peek(), flag)), None)
        if flag is None or path:
            raise Misuse("prog")
        words.take("FLAG")
        flags.add(flag)
    if "visual" in flags and context.json:
        raise UsageError("'visual' is not compatible with JSON output")
    kernel = context.kernel()
    with handles.programs(kernel, handle, images=True) as found:
        infos = [each.info for each in found]
        if not infos:
            handles.only(found, handle, "prog")
        if (path or "visual" in flags) and len(infos) > 1:
            raise UsageError("several programs matched, can't " + ("dump them in a file" if path else "draw them in one graph"))
        if path:
            _store(path, infos[0].xlated if kind == "xlated" else infos[0].jited)
            done(context)
        elif kind == "jited":
            _require_image(all(info.jited for info in infos))
            jited.write(context, kernel, infos, opcodes="opcodes" in flags, linum="linum" in flags)
        elif "visual" in flags:
            graph.write(context, kernel, infos[0], opcodes="opcodes" in flags, linum="linum" in flags)
        else:
            xlated.write(context, kernel, infos, opcodes="opcodes" in flags, linum="linum" in flags)
    return 0


def _require_image(there: object) -> None:
    if not there:
        raise UsageError("error retrieving insn dump: the kernel does not give it away (see kernel.kptr_restrict, or it was not compiled)")


def _store(path: str, image: bytes) -> None:
    _require_image(image)
    try:
        with open(path, "wb") as file:
            file.write(image)
    except OSError as error:
        raise UsageError(f"can't open file {path}: {error.strerror}") from error


def tracelog(context: Context, words: Words) -> int:
    """Copy what programs write with bpf_printk, until Ctrl-C."""
    from ebpf.events import TracePipe

    words.end()
    lines: list[Json] = []
    with TracePipe(context.kernel()) as pipe:
        try:
            for line in pipe:
                text = line.decode(errors="replace")
                if context.json:
                    lines.append(text + "\n")
                else:
                    context.write(text)
                    context.out.flush()
        except KeyboardInterrupt:
            pass
    if context.json:
        context.write(dumps(lines, pretty=context.pretty))
    return 0


def run_program(context: Context, words: Words) -> int:
    """Run a loaded program on data; or a program of an object over a capture."""
    from ebpf.cli.replay import run as run_replay
    from ebpf.cli.testrun import run as run_test

    if any(word.startswith("--pcap") for word in words.rest) or (words and "." in words.peek()):
        return run_replay(context, words)
    return run_test(context, words)


def unload(context: Context, words: Words) -> int:
    """Let go of what keeps a program loaded."""
    from ebpf.cli.unload import unload as unload_program

    return unload_program(context, words)


def attach(context: Context, words: Words) -> int:
    """Attach a loaded program to a hook."""
    from ebpf.cli.attach import attach as attach_program

    return attach_program(context, words)


def detach(context: Context, words: Words) -> int:
    """Take a program off a map of sockets or a network namespace."""
    from ebpf.cli.attach import detach as detach_program

    return detach_program(context, words)


def profile(context: Context, words: Words) -> int:
    """Count what a program's runs cost."""
    from ebpf.cli.profile import profile as profile_program

    return profile_program(context, words)


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "help": help_verb("prog"),
    "dump": dump,
    "pin": handles.pin_verb("prog"),
    "load": load,
    "loadall": loadall,
    "unload": unload,
    "attach": attach,
    "detach": detach,
    "tracelog": tracelog,
    "run": run_program,
    "profile": profile,
}
