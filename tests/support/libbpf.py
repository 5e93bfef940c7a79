"""Debian's libbpf, called to load objects as it does: what ours are compared with."""

import ctypes as c
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ebpf.spec import ObjectSpec
from ebpf.uapi import MapType, ProgType

_P = c.c_void_p
#: What user space gives a map that has no size: 127 addresses for a stack, and so many entries.
STACK_SIZE, ENTRIES = 127 * 8, 10240


@dataclass(frozen=True)
class Verdict:
    """What came of a program: errno (0: loaded), and what the kernel then says of it."""

    errno: int
    type: int = 0
    tag: str = ""
    xlated: int = 0
    funcs: int = 0
    lines: int = 0


def library() -> c.CDLL | None:
    """libbpf.so.1 with its messages turned off; None if it is not installed."""
    try:
        lib = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        return None
    for name in ("open_file", "next_program", "next_map"):
        function = getattr(lib, f"bpf_object__{name}")
        function.restype, function.argtypes = _P, ([c.c_char_p, _P] if name == "open_file" else [_P, _P])
    for name in ("bpf_program__name", "bpf_map__name"):
        function = getattr(lib, name)
        function.restype, function.argtypes = c.c_char_p, [_P]
    for name in ("object__load", "object__close", "program__fd", "program__type", "map__max_entries", "map__value_size", "map__type"):
        getattr(lib, f"bpf_{name}").argtypes = [_P]
    for name in ("program__set_type", "map__set_max_entries", "map__set_value_size"):
        getattr(lib, f"bpf_{name}").argtypes = [_P, c.c_uint32]
    lib.bpf_program__set_autoload.argtypes = [_P, c.c_bool]
    lib.bpf_obj_get_info_by_fd.argtypes = [c.c_int, _P, c.POINTER(c.c_uint32)]
    lib.libbpf_set_print.argtypes = [_P]
    lib.libbpf_set_print(None)
    return lib


def _each(lib: c.CDLL, held: int, what: str) -> Iterator[int]:
    item = None
    while item := getattr(lib, f"bpf_object__next_{what}")(held, item):
        yield item


def _info(lib: c.CDLL, fd: int) -> Verdict:
    raw, size = c.create_string_buffer(232), c.c_uint32(232)
    assert lib.bpf_obj_get_info_by_fd(fd, raw, c.byref(size)) == 0
    (kind,) = struct.unpack_from("=I", raw)
    (xlated,), (funcs, lines) = struct.unpack_from("=I", raw, 20), struct.unpack_from("=II", raw, 144)
    return Verdict(0, kind, raw.raw[8:16].hex(), xlated, funcs, lines)


def _complete(lib: c.CDLL, held: int) -> None:
    for item in _each(lib, held, "map"):
        kind = lib.bpf_map__type(item)
        if kind == MapType.STACK_TRACE and not lib.bpf_map__value_size(item):
            lib.bpf_map__set_value_size(item, STACK_SIZE)
        if kind != MapType.PERF_EVENT_ARRAY and not lib.bpf_map__max_entries(item):
            lib.bpf_map__set_max_entries(item, ENTRIES)
    for program in _each(lib, held, "program"):
        if lib.bpf_program__type(program) == ProgType.UNSPEC:
            lib.bpf_program__set_type(program, ProgType.XDP)


def completed(spec: ObjectSpec) -> ObjectSpec:
    """The object with what its user space would set: sizes of maps that have none, and XDP for sections that say no type."""
    for name, row in spec.maps.items():
        if row.type == MapType.STACK_TRACE and not row.value_size:
            spec = spec.with_map(name, value_size=STACK_SIZE)
        if row.type != MapType.PERF_EVENT_ARRAY and not row.max_entries:
            spec = spec.with_map(name, max_entries=ENTRIES)
    for name, program in spec.programs.items():
        if program.type == ProgType.UNSPEC:
            spec = spec.with_program(name, section="xdp")
    return spec


def verdicts(lib: c.CDLL, path: str, *, complete: bool = False) -> Mapping[str, Verdict]:
    """Load each program of an object alone, and say what came of it; with `complete`, of what `completed` makes of it."""
    out: dict[str, Verdict] = {}
    held = lib.bpf_object__open_file(path.encode(), None)
    assert held, f"libbpf does not open {path}"
    names = [lib.bpf_program__name(p) for p in _each(lib, held, "program")]
    lib.bpf_object__close(held)
    for wanted in names:
        held = lib.bpf_object__open_file(path.encode(), None)
        for program in _each(lib, held, "program"):
            lib.bpf_program__set_autoload(program, lib.bpf_program__name(program) == wanted)
        if complete:
            _complete(lib, held)
        result = lib.bpf_object__load(held)
        if result:
            out[wanted.decode()] = Verdict(-result)
        else:
            (program,) = (p for p in _each(lib, held, "program") if lib.bpf_program__name(p) == wanted)
            out[wanted.decode()] = _info(lib, lib.bpf_program__fd(program))
        lib.bpf_object__close(held)
    return out
