"""`ebpf prog`: list, load, dump and run programs, in bpftool's grammar."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Verb, dispatch, done, help_verb, make_folder, pin_object, status
from ebpf.cli.words import Words, is_prefix
from ebpf.errors import NotSupportedError, UsageError
from ebpf.sys.calls import ProgInfo
from ebpf.uapi import PROGRAM_TYPES, ProgType, section_row


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `prog` command."""
    return dispatch(context, argv, "prog", _VERBS)


def type_name(number: int) -> str:
    """A program type as bpftool prints it."""
    try:
        return PROGRAM_TYPES[ProgType(number)].name
    except (ValueError, KeyError):
        return f"type {number}"


def show(context: Context, words: Words) -> int:
    """Print every program, or those a handle names."""
    kernel = context.kernel()
    handle = handles.take(words, "prog") if words else None
    words.end()
    with handles.programs(kernel, handle) as found:
        pins = handles.pins(kernel, "prog") if context.bpffs else {}
        if context.json:
            rows = [_row(f.info) | handles.pinned_row(pins, f.info.id) for f in found]
            one = handle is not None and len(rows) == 1
            context.write(dumps(rows[0] if one else rows, pretty=context.pretty))
        else:
            for each in found:
                context.write(_text(each.info, pins.get(each.info.id, ())))
        return 0 if found or handle is None else 255


def loaded_at(info: ProgInfo) -> float:
    """When a program was loaded, in seconds since 1970 (the kernel counts from boot)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    now = time.clock_gettime(clock) if clock is not None else time.monotonic()
    return time.time() - now + info.load_time_ns / 1e9


def _row(info: ProgInfo) -> dict[str, Json]:
    row: dict[str, Json] = {"id": info.id, "type": type_name(info.type)}
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


def _text(info: ProgInfo, pins: Sequence[str] = ()) -> str:
    name = f"  name {info.name}" if info.name else ""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(loaded_at(info)))
    lines = [
        f"{info.id}: {type_name(info.type)}{name}  tag {info.tag.hex()}" + ("  gpl" if info.gpl_compatible else ""),
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
    return _load(context, words, every=False)


def loadall(context: Context, words: Words) -> int:
    """Load an object and pin all its programs in a folder, by their names."""
    return _load(context, words, every=True)


def _load(context: Context, words: Words, *, every: bool) -> int:
    from ebpf.elf import read_object
    from ebpf.object import Collection

    words.need(2, "loadall" if every else "load")
    path, pin = Path(words.take("OBJ")), words.take("PATH")
    section = folder = ""
    while words:
        if words.take_if("type"):
            section = words.take("TYPE")
        elif words.take_if("pinmaps"):
            folder = words.take("DIR")
        elif words.peek() in ("map", "autoattach", "kernel_btf", "offload_dev", "xdpmeta_dev", "dev"):
            raise NotSupportedError(f"prog load ... {words.peek()}", "this option is not built yet")
        else:
            raise UsageError(f"expected no more arguments, 'type', 'map' or 'dev', got: '{words.peek()}'?")
    spec = read_object(path.read_bytes(), str(path))
    if section:
        found = section_row(section)
        if found is None:
            raise UsageError(f"unknown program type '{section}': it is named as its section is (xdp, tc, kprobe, ...)")
        row = found[0]
        attach = int(row.attach) if row.attach is not None else None
        spec = replace(spec, programs={name: replace(p, type=int(row.type), attach_type=attach) for name, p in spec.programs.items()})
    kernel = context.kernel()
    if not kernel.lasting:
        raise NotSupportedError(
            f"prog load {pin}",
            "the user kernel lives in one process, so that nothing is there to keep a pin after this command",
            hint=f"Run it on a capture (ebpf prog run {path} --pcap FILE), or load it with --kernel linux",
        )
    with Collection.load(spec, kernel) as collection, ExitStack() as undo:
        if not collection.programs:
            raise UsageError(f"{path}: no program in it")
        places = [(f"{pin}/{name}", program.fd) for name, program in collection.programs.items()]
        if not every:
            places = [(pin, places[0][1])]
        if folder:
            # bpffs takes no dots: as libbpf does, .bss becomes _bss.
            places += [(f"{folder}/{name.replace('.', '_')}", held.fd) for name, held in collection.maps.items()]
        for place, fd in places:
            make_folder(kernel, place)
            pin_object(kernel, place, fd)
            undo.callback(kernel.unpin, place)
        # All are there: they stay.
        undo.pop_all()
    done(context)
    return 0


def pin(context: Context, words: Words) -> int:
    """Give a loaded program a path."""
    with status(234):
        words.need(3, "pin")
    handle = handles.take(words, "prog")
    path = words.take("FILE")
    words.end()
    kernel = context.kernel()
    with handles.programs(kernel, handle) as found:
        make_folder(kernel, path)
        pin_object(kernel, path, handles.only(found, handle, "prog").fd)
    done(context)
    return 0


def dump(context: Context, words: Words) -> int:
    """Print the instructions of a loaded program, or store them or its machine code as they are in a file."""
    from ebpf.cli.xlated import write

    what = words.take("xlated|jited")
    kind = next((kind for kind in ("xlated", "jited") if is_prefix(what, kind)), None)
    if kind is None:
        raise UsageError(f"expected 'xlated' or 'jited', got: {what}")
    handle = handles.take(words, "prog")
    opcodes = linum = visual = False
    path = ""
    while words:
        if words.take_if("file"):
            path = words.take("FILE")
            words.end()
        elif words.take_if("opcodes"):
            opcodes = True
        elif words.take_if("linum"):
            linum = True
        elif words.take_if("visual"):
            visual = True
        else:
            words.end()
    if visual and context.json:
        raise UsageError("'visual' is not compatible with JSON output")
    if visual:
        raise NotSupportedError("prog dump xlated ... visual", "graphs are not drawn yet")
    if kind == "jited" and not path:
        raise NotSupportedError(
            "prog dump jited", "machine code is not disassembled yet", hint="`prog dump jited PROG file FILE` stores it"
        )
    kernel = context.kernel()
    with handles.programs(kernel, handle, images=True) as found:
        if path:
            info = handles.only(found, handle, "prog").info
            _store(path, info.xlated if kind == "xlated" else info.jited)
            done(context)
            return 0
        write(context, kernel, [f.info for f in found], opcodes=opcodes, linum=linum)
        return 0 if found else 255


def _store(path: str, image: bytes) -> None:
    if not image:
        raise UsageError("error retrieving insn dump: the kernel does not give it away (see kernel.kptr_restrict, or it was not compiled)")
    try:
        Path(path).write_bytes(image)
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
                    lines.append(text)
                else:
                    context.write(text)
                    context.out.flush()
        except KeyboardInterrupt:
            pass
    if context.json:
        context.write(dumps(lines, pretty=context.pretty))
    return 0


def replay(context: Context, words: Words) -> int:
    """Run an XDP program of an object over a capture."""
    from ebpf.cli.replay import run as run_replay

    return run_replay(context, words)


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "help": help_verb("prog"),
    "dump": dump,
    "pin": pin,
    "load": load,
    "loadall": loadall,
    "tracelog": tracelog,
    "run": replay,
}
