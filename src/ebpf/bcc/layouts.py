"""The arguments of tracepoints, as structs for TRACEPOINT_PROBE: out of the kernel's format files, or our own for system calls."""

import re

from ebpf.errors import NotFoundError
from ebpf.sys.kernel import Kernel

_PROBE = re.compile(r"(?<!\w)TRACEPOINT_PROBE\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)")
_EXPLICIT = re.compile(r"struct\s+tracepoint__(\w+?)__(\w+)\s*\*")
_FIELD = re.compile(r"^\s*field:(?P<decl>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);\s*signed:(?P<signed>\d);", re.MULTILINE)
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_COMMON = 8
_INTEGERS = {1: "char", 2: "short", 4: "int", 8: "long long"}


def tracepoint_struct(text: str, kernel: Kernel) -> str:
    """Declarations of the structs that a text's tracepoint programs take (each on the first line, so that lines stay)."""
    wanted = dict.fromkeys([*_PROBE.findall(text), *_EXPLICIT.findall(text)])
    return "".join(_struct(category, event, kernel).replace("\n", " ") for category, event in wanted)


def _struct(category: str, event: str, kernel: Kernel) -> str:
    name = f"tracepoint__{category}__{event}"
    for root in _TRACEFS:
        try:
            text = kernel.read_file(f"{root}/events/{category}/{event}/format").decode()
        except OSError:
            continue
        return _from_format(name, text)
    if category == "syscalls" and event.startswith("sys_enter_"):
        return f"struct {name} {{ u64 __common; int __syscall_nr; int __pad; u64 args[6]; }}; "
    if category == "syscalls" and event.startswith("sys_exit_"):
        return f"struct {name} {{ u64 __common; int __syscall_nr; int __pad; long ret; }}; "
    raise NotFoundError("tracepoint", f"{category}:{event}")


def _from_format(name: str, text: str) -> str:
    """A struct out of a format file: fields at their offsets, strings by reference as `data_loc_NAME`."""
    parts, at = ["u64 __do_not_use__;"], _COMMON
    for number, found in enumerate(_FIELD.finditer(text)):
        offset, size = int(found["offset"]), int(found["size"])
        if offset < _COMMON:
            continue
        if offset > at:
            parts.append(f"char __pad_{number}[{offset - at}];")
        parts.append(_declaration(found["decl"].strip(), size, signed=found["signed"] == "1"))
        at = offset + size
    return f"struct {name} {{ {' '.join(parts)} }}; "


def _declaration(text: str, size: int, *, signed: bool) -> str:
    location = re.match(r"__data_loc\s+.*?(\w+)$", text)
    if location:
        return f"int data_loc_{location[1]};"
    array = re.match(r"(.+?)\s*\b(\w+)\[(.*)\]$", text)
    if array:
        return f"char {array[2]}[{size}];" if "char" in array[1] else f"u8 {array[2]}[{size}];"
    name = re.split(r"[\s*]+", text)[-1]
    if "*" in text:
        return f"const void *{name};" if size == 8 and "char" not in text else f"const char *{name};"
    return f"{'' if signed else 'unsigned '}{_INTEGERS.get(size, 'char')} {name};" if size in _INTEGERS else f"char {name}[{size}];"
