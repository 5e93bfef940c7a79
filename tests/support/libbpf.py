"""Debian's libbpf, called to load objects as it does: what ours are compared with."""

import ctypes as c
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_P = c.c_void_p


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
    for name in ("bpf_object__load", "bpf_object__close", "bpf_program__fd", "bpf_map__max_entries"):
        getattr(lib, name).argtypes = [_P]
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


def verdicts(lib: c.CDLL, path: str) -> Mapping[str, Verdict]:
    """Load each program of an object alone, and say what came of it."""
    out: dict[str, Verdict] = {}
    held = lib.bpf_object__open_file(path.encode(), None)
    assert held, f"libbpf does not open {path}"
    names = [lib.bpf_program__name(p) for p in _each(lib, held, "program")]
    lib.bpf_object__close(held)
    for wanted in names:
        held = lib.bpf_object__open_file(path.encode(), None)
        for program in _each(lib, held, "program"):
            lib.bpf_program__set_autoload(program, lib.bpf_program__name(program) == wanted)
        result = lib.bpf_object__load(held)
        if result:
            out[wanted.decode()] = Verdict(-result)
        else:
            (program,) = (p for p in _each(lib, held, "program") if lib.bpf_program__name(p) == wanted)
            out[wanted.decode()] = _info(lib, lib.bpf_program__fd(program))
        lib.bpf_object__close(held)
    return out
