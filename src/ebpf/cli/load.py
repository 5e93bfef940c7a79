"""`prog load` and `prog loadall`: an object into the kernel, its programs (and maps) pinned; in bpftool's grammar and words."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from ebpf.attach import by_section
from ebpf.btf import Btf
from ebpf.cli import handles, refusals, steps
from ebpf.cli.context import Context
from ebpf.cli.noun import Silent, done, pin_object, prepare_pin
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import FormatError, KernelError, NotFoundError, NotSupportedError, UsageError, VerifierError, errno_name
from ebpf.object import Collection, Map, Program, Target, function_of
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import MapInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import SECTIONS, MapType, ProgFlag, ProgType, section_row

# "dev" is what bpftool had before, and what an abbreviation means.
_DEVICES = ("dev", "offload_dev", "xdpmeta_dev")
_DEPRECATED = """Warning: 'bpftool prog load [...] dev <ifname>' syntax is deprecated.
Going further, please use 'offload_dev <ifname>' to offload program to device.
For applications using XDP hints only, use 'xdpmeta_dev <ifname>'."""
_OPTIONS = "'type', 'map', 'offload_dev', 'xdpmeta_dev', 'pinmaps', 'autoattach', or 'kernel_btf'"


@dataclass(slots=True)
class Request:
    """What was typed after `load`. `reuse` has, for each map that is given, its name or number and the handle of what takes its place.

    `target` is the program of which functions are replaced or traced (not bpftool's).
    """

    path: str
    pin: str
    every: bool
    section: str = ""
    maps_folder: str = ""
    attach: bool = False
    kernel_btf: str = ""
    device: str = ""
    device_word: str = ""
    reuse: list[tuple[str | int, handles.Handle]] = field(default_factory=list)
    target: handles.Handle | None = None


def parse(words: Words, *, every: bool, beyond: bool = False) -> Request:
    """Read the words of the command; `beyond`: with those that bpftool has not."""
    words.need(2, "loadall" if every else "load")
    request = Request(words.take("OBJ"), words.take("PATH"), every)
    while words:
        if words.take_if("type"):
            request.section = words.take("TYPE")
        elif words.take_if("map"):
            request.reuse.append(_reuse(words))
        elif words.take_if("pinmaps"):
            request.maps_folder = words.take("DIR")
        elif words.take_if("autoattach"):
            request.attach = True
        elif words.take_if("kernel_btf"):
            request.kernel_btf = words.take("BTF_FILE")
        elif beyond and words.take_if("target"):
            request.target = handles.take(words, "prog")
        elif any(is_prefix(words.peek(), word) for word in _DEVICES):
            _device(request, words)
        else:
            raise UsageError(f"expected no more arguments, {_OPTIONS}, got: '{words.peek()}'?")
    return request


def _device(request: Request, words: Words) -> None:
    if request.device:
        raise UsageError(f"{request.device_word} already specified")
    word = words.take("DEV")
    request.device_word = next(name for name in _DEVICES if name.startswith(word))
    request.device = words.take("NAME")


def _reuse(words: Words) -> tuple[str | int, handles.Handle]:
    which: str | int
    if words.take_if("idx"):
        which = number(words.take("idx"), "idx")
    elif words.take_if("name"):
        which = words.take("name")
    else:
        raise UsageError(f"expected 'idx' or 'name', got: '{words.peek()}'?")
    return which, handles.take(words, "map")


def load(context: Context, words: Words, *, every: bool) -> int:
    """Load an object; pin its first program, or all of them in a folder by their names."""
    if context.use_loader and not every:
        return _try(context, words)
    request = parse(words, every=every, beyond=context.command != "bpftool")
    if request.device_word == "dev":
        context.note(_DEPRECATED)
    kernel = context.kernel()
    with ExitStack() as stack:
        reuse = []
        for which, handle in request.reuse:
            found = stack.enter_context(handles.maps(kernel, handle))
            reuse.append((which, handles.only(found, handle, "map")))
        spec = _read(context, request)
        if not kernel.lasting:
            raise NotSupportedError(
                f"prog load {request.pin}",
                "the user kernel lives in one process, so that nothing is there to keep a pin after this command",
                hint=f"Run it on a capture (ebpf prog run {request.path} --pcap FILE), or load it with --kernel linux",
            )
        targets = stack.enter_context(_targets(kernel, request, spec))
        collection = stack.enter_context(_loaded(context, request, spec, reuse, targets))
        _pin(context, request, collection)
    done(context)
    return 0


@contextmanager
def _targets(kernel: Kernel, request: Request, spec: ObjectSpec) -> Iterator[dict[str, Target]]:
    """For each program that replaces or traces a function: where that is, in the program that was given."""
    if request.target is None:
        yield {}
        return
    with handles.programs(kernel, request.target) as found:
        into = handles.only(found, request.target, "prog")
        around = {n: p for n, p in spec.programs.items() if p.type in (ProgType.EXT, ProgType.TRACING) and p.attach_to and p.autoload}
        yield {name: function_of(kernel, into.fd, into.info.name, program.attach_to) for name, program in around.items()}


def _try(context: Context, words: Words) -> int:
    """Load an object, and let it go: with -L bpftool pins nothing."""
    words.need(1, "load")
    request = Request(words.take("OBJ"), "", every=False)
    with _loaded(context, request, _read(context, request), (), {}):
        return 0


def _pin(context: Context, request: Request, collection: Collection) -> None:
    """Pin all that is asked for, or nothing."""
    if not collection.programs:
        raise UsageError(f"object file doesn't contain any bpf program: {request.path}")
    kernel = context.kernel()
    if request.maps_folder:
        _require_free(context, request.maps_folder, collection)
    with ExitStack() as stack:
        chosen = list(collection.programs.items())[: None if request.every else 1]
        pins = [(f"{request.pin}/{name}" if request.every else request.pin, _lasting(context, stack, request, p)) for name, p in chosen]
        if request.maps_folder:
            # bpffs takes no dots: as libbpf does, .bss becomes _bss.
            pins += [(f"{request.maps_folder}/{name.replace('.', '_')}", held.fd) for name, held in collection.maps.items()]
        with ExitStack() as undo:
            for place, fd in pins:
                pin_object(context, place, fd, folder=request.every or place != request.pin)
                undo.callback(kernel.unpin, place)
            # All are there: they stay.
            undo.pop_all()


def _lasting(context: Context, stack: ExitStack, request: Request, program: Program) -> int:
    """What is pinned for a program: a link that attaches it as its section says, where that is asked for; else the program."""
    if not request.attach:
        return program.fd
    link = by_section(program)
    if link is None or len(link.fds) != 1:
        if link is not None:
            link.close()
        context.note(f"Program {program.name} does not support autoattach, falling back to pinning")
        return program.fd
    return stack.enter_context(link).fd


def _require_free(context: Context, folder: str, collection: Collection) -> None:
    """Insist that no map says itself where it is pinned."""
    prepare_pin(context, f"{folder}/map", folder=True)
    for held in collection.spec.maps.values():
        if held.pinning:
            at = f"/sys/fs/bpf/{held.name}"
            _say(context, f"map '{held.name}' already has pin path '{at}' different from '{folder}/{held.name}'")
            why = "" if context.command == "bpftool" else f": map {held.name!r} is pinned at {at} by its object"
            raise UsageError(f"failed to pin all maps{why}")


def _kernel_types(path: str) -> Btf | None:
    """The types of the kernel that a file has instead of the kernel's own."""
    if not path:
        return None
    try:
        return Btf.parse(Path(path).read_bytes(), path)
    except OSError as error:
        raise UsageError(f"failed to parse vmlinux BTF at '{path}': {os.strerror(error.errno or errno.EIO).lower()}") from error


def _read(context: Context, request: Request) -> ObjectSpec:
    """The object, as programs of the type that was asked for."""
    from ebpf.elf import read_elf, read_object

    if request.section and section_row(request.section) is None:
        _unknown_section(context, request.section + "/" if context.command == "bpftool" else request.section)
    try:
        data = Path(request.path).read_bytes()
    except OSError as error:
        _say(context, f"elf: failed to open {request.path}: -{errno_name(error.errno or 0)}")
        raise _opening(context, UsageError(f"{request.path}: {os.strerror(error.errno or errno.EIO).lower()}")) from error
    try:
        spec = read_object(data, request.path, section=request.section)
        if context.debug:
            for line in steps.opened(read_elf(data, request.path), spec):
                steps.say(context, line)
    except FormatError as error:
        for line in refusals.reading(error, data, request.path):
            _say(context, line)
        raise _opening(context, error) from error
    free = next((program for program in spec.programs.values() if program.type == ProgType.UNSPEC), None)
    if free is not None and context.command == "bpftool":
        _unknown_section(context, free.section)
    return spec


def _say(context: Context, text: str) -> None:
    """A line that libbpf writes beside what bpftool says."""
    if context.command == "bpftool":
        steps.say(context, text)


def _opening(context: Context, error: FormatError | UsageError) -> FormatError | UsageError:
    return UsageError("failed to open object file") if context.command == "bpftool" else error


def _unknown_section(context: Context, name: str) -> None:
    """Refuse a section name (or type) that says nothing of what the program is."""
    if context.command != "bpftool":
        raise UsageError(f"unknown program type '{name}': it is named as its section is (xdp, tc, kprobe, ...)")
    _say(context, f"failed to guess program type from ELF section '{name}'")
    _say(context, "supported section(type) names are: " + " ".join(row.name + ("+" if row.extra else "") for row in SECTIONS))
    raise Silent


def _loaded(
    context: Context,
    request: Request,
    spec: ObjectSpec,
    reuse: Sequence[tuple[str | int, handles.Found[MapInfo]]],
    targets: Mapping[str, Target],
) -> Collection:
    """The object in the kernel, with maps that are there already in the place of some of its own."""
    kernel = context.kernel()
    if context.command == "bpftool" or context.debug:
        kernel = cast("Kernel", steps.Steps(kernel, context))
    spec = _for_device(kernel, request, spec)
    names = list(spec.maps)
    by_name = {held.name: name for name, held in spec.maps.items()}
    taken: dict[str, Map] = {}
    for which, found in reuse:
        name = names[which] if isinstance(which, int) and which < len(names) else by_name.get(str(which), str(which))
        if name not in spec.maps:
            raise UsageError(
                f"map {'idx' if isinstance(which, int) else 'name'} {which!r} is not in {spec.path}; it has {', '.join(by_name)}"
            )
        taken[name] = Map(kernel, found.fd, spec.maps[name])
    try:
        return Collection.load(spec, kernel, reuse=taken, types=_kernel_types(request.kernel_btf), targets=targets)
    except (VerifierError, NotFoundError, KernelError) as error:
        making = isinstance(error, KernelError) and error.call == "bpf(MAP_CREATE)"
        if context.command != "bpftool" or not (error.program or making):
            raise
        if error.program:
            for line in refusals.refused(error):
                _say(context, line)
            _say(context, f"failed to load object '{spec.path}'")
        raise UsageError("failed to load object file") from error


def _for_device(kernel: Kernel, request: Request, spec: ObjectSpec) -> ObjectSpec:
    """The object as a device is to have it: maps and programs in its own memory, or XDP programs that read its metadata."""
    if not request.device:
        return spec
    index = kernel.interfaces().get(request.device)
    if index is None:
        raise UsageError(f"unrecognized netdevice '{request.device}': No such device")
    if request.device_word == "xdpmeta_dev":
        bound = {n: replace(p, ifindex=index, flags=p.flags | ProgFlag.XDP_DEV_BOUND_ONLY) for n, p in spec.programs.items()}
        return replace(spec, programs=bound)
    programs = {name: replace(program, ifindex=index) for name, program in spec.programs.items()}
    maps = {n: m if m.type == MapType.PERF_EVENT_ARRAY else replace(m, ifindex=index) for n, m in spec.maps.items()}
    return replace(spec, programs=programs, maps=maps)
