"""Programs on USDT probes: where each argument lies is written into the object's map, and the row's number is the place's cookie."""

import re
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from ebpf.attach.binary import resolve_binary
from ebpf.attach.link import Attachable, Link
from ebpf.attach.perf import uprobe
from ebpf.btf import Btf, Value, write_value
from ebpf.elf import Probe, read_probes
from ebpf.errors import FormatError, NotFoundError, UsageError, near
from ebpf.object import Map

#: The map of the programs that read arguments, as the macros of usdt.bpf.h have it.
USDT_SPECS = "__bpf_usdt_specs"
_CONST, _REG, _DEREF, _SIB = 0, 1, 2, 3
# struct pt_regs of x86-64: the registers by the offset of their 8 bytes.
_ORDER = ["r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"]
_OFFSETS = {name: 8 * i for i, name in enumerate(_ORDER)} | {"rip": 128, "rsp": 152}
_NUMBER = r"[-+]?(?:0x[0-9a-fA-F]+|\d+)"
_ARGUMENT = re.compile(
    rf"(?P<size>-?[1248])(?:f)?@(?:\$(?P<const>{_NUMBER})|%(?P<reg>\w+)|(?P<off>{_NUMBER})?\(%(?P<base>\w+)(?:,%(?P<index>\w+)(?:,(?P<scale>[1248]))?)?\))$"
)


class Probing(Attachable, Protocol):
    """A program that can be put on USDT probes: one of an object, or one that is only a descriptor, with its map of them."""

    @property
    def btf(self) -> Btf | None: ...
    @property
    def maps(self) -> Mapping[str, Map]: ...


def usdt(program: Probing, path: str, probe: str, *, pid: int = 0, cookie: int = 0) -> Link:
    """Run a program at every place of a USDT probe, `provider:name`, of a program or library; its semaphore is up meanwhile.

    `cookie` is what bpf_usdt_cookie() answers. Raises NotFoundError, FormatError for arguments that cannot be read, UsageError.
    """
    path = resolve_binary(path)
    provider, colon, name = probe.partition(":")
    if not colon:
        raise UsageError(f"program {program.name!r}: a USDT probe is written provider:name, not {probe!r}")
    probes = read_probes(path)
    places = [each for each in probes if (each.provider, each.name) == (provider, name)]
    if not places:
        known = sorted({f"{each.provider}:{each.name}" for each in probes})
        raise NotFoundError("USDT probe", probe, where=path, near=near(probe, known))
    # A program that reads no argument has no such map.
    specs = program.maps.get(USDT_SPECS)
    rows: dict[str, int] = {}
    links: list[Link] = []
    with ExitStack() as stack:
        for place in places:
            if place.arguments not in rows:
                rows[place.arguments] = _write(stack, specs, program, place, cookie) if specs is not None else 0
            row = rows[place.arguments]
            links.append(stack.enter_context(uprobe(program, path, place.offset, pid=pid, cookie=row, semaphore=place.semaphore)))
        undo = stack.pop_all().close
    return Link("usdt", f"{path}:{probe}", undo, kernel=program.kernel, fds=[fd for link in links for fd in link.fds])


def _write(stack: ExitStack, specs: Map, program: Probing, place: Probe, cookie: int) -> int:
    """Write down where a place's arguments are in a free row; the answer is its number."""
    taken = specs.taken
    row = next((i for i in range(specs.spec.max_entries) if i not in taken), None)
    if row is None:
        raise UsageError(f"program {program.name!r}: no free row in {USDT_SPECS} for its {specs.spec.max_entries} different places")
    arguments = [locate(text, f"{place.provider}:{place.name}") for text in place.arguments.split()]
    if program.btf is None:
        raise UsageError(f"program {program.name!r}: {USDT_SPECS} has no types: compile with -g")
    known = _fields(program.btf, specs.spec.value_type_id)
    value: dict[str, Value] = {
        "args": [{field: v for field, v in argument.items() if field in known} for argument in arguments],
        "usdt_cookie": cookie,
        "arg_cnt": len(arguments),
    }
    specs.update(struct.pack("<I", row), write_value(program.btf, specs.spec.value_type_id, value))
    taken.add(row)
    stack.callback(taken.discard, row)
    return row


def _fields(btf: Btf, type_id: int) -> set[str]:
    """What an argument's row has: libbpf's header has grown."""
    array = btf.resolve(next(m.type_id for m in btf.resolve(type_id).members if m.name == "args"))
    return {member.name for member in btf.resolve(array.ref).members}


def locate(text: str, probe: str = "") -> dict[str, int]:
    """Where an argument lies, as the fields of a row: `-4@-20(%rbp)` is a signed int at rbp - 20. x86-64. Raises FormatError."""
    found = _ARGUMENT.match(text)
    if found is None:
        raise FormatError(f"the argument {text!r} is written in a way that is not known", where=probe)
    size = int(found["size"])
    out = {"arg_signed": int(size < 0), "arg_bitshift": 64 - 8 * abs(size), "val_off": 0, "reg_off": 0}
    if found["const"]:
        return out | {"arg_type": _CONST, "val_off": int(found["const"], 0) & (1 << 64) - 1}
    if found["reg"]:
        return out | {"arg_type": _REG, "reg_off": _register(found["reg"], text, probe)}
    out |= {"val_off": int(found["off"] or "0", 0) & (1 << 64) - 1, "reg_off": _register(found["base"], text, probe)}
    if not found["index"]:
        return out | {"arg_type": _DEREF}
    shift = int(found["scale"] or 1).bit_length() - 1
    return out | {"arg_type": _SIB, "idx_reg_off": _register(found["index"], text, probe), "scale_bitshift": shift}


def _register(name: str, text: str, probe: str) -> int:
    """The offset in struct pt_regs of the register that `eax`, `al` or `r8d` is a part of."""
    if name in _OFFSETS:
        return _OFFSETS[name]
    whole = re.sub(r"^(r\d+)[dwb]$", r"\1", name)
    if whole not in _OFFSETS:
        whole = (
            "r" + name[1:]
            if name.startswith("e")
            else {"l": f"r{name[:-1]}x", "x": f"r{name}", "i": f"r{name}", "p": f"r{name}"}.get(name[-1:], "")
        )
    if whole not in _OFFSETS and name in ("sil", "dil", "bpl", "spl"):
        whole = f"r{name[:2]}"
    if whole not in _OFFSETS:
        raise FormatError(f"the argument {text!r} lies in a register that is not known", where=probe)
    return _OFFSETS[whole]
