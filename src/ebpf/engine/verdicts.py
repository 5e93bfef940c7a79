"""Verdicts on disk: a program that was accepted before is accepted again without being walked, or the verifier being imported."""

import hashlib
import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ebpf import __version__
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.isa import Bytecode, encode
from ebpf.isa.opcodes import LD_IMM64
from ebpf.toolchain import cache_folder, write_atomically
from ebpf.uapi import PseudoSrc

#: The most bytes of a kernel's types that are looked at for a key.
_SMALL = 1 << 16
#: What decides a verdict besides the program: the text of these folders.
_JUDGES = ("engine", "engine/verifier", "uapi", "isa", "btf")
#: The src of an ld_imm64 that names a map.
_MAP = (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE)


def judge(code: Code) -> Verdict:
    """The verdict on a program, by the newest rules. Acceptance is kept by content; a refusal is made anew each time.

    Those by the types of a whole kernel are not kept: they are too large to be looked at for a key.
    """
    kept = code.kernel_btf is None or len(code.kernel_btf.raw) <= _SMALL
    named = _named(Bytecode.of(code.insns))
    numbers = {fd: at for at, fd in enumerate(dict.fromkeys(named.values()))}
    path = cache_folder("verdicts") / _key(code, named, numbers) if kept else None
    if path is not None:
        found = _read(path, {at: fd for fd, at in numbers.items()})
        if found is not None:
            return found
    from ebpf.engine.verifier import verify

    verdict = verify(code)
    if verdict.accepted and path is not None:
        try:
            write_atomically(path, _packed(verdict, numbers))
        except OSError:
            # A full or read-only disk costs time at the next load, nothing else.
            return verdict
    return verdict


def verdict_key(code: Code) -> str:
    """The name of a program's verdict: all that it depends on, with maps by the order in which they are named."""
    named = _named(Bytecode.of(code.insns))
    return _key(code, named, {fd: at for at, fd in enumerate(dict.fromkeys(named.values()))})


def _key(code: Code, named: Mapping[int, int], numbers: dict[int, int]) -> str:
    raw = bytearray(encode(code.insns))
    for slot, fd in named.items():
        raw[8 * slot + 4 : 8 * slot + 8] = numbers[fd].to_bytes(4, "little")
    facts = [
        *(code.prog_type, code.attach_type, code.attach_to, code.gpl, code.sleepable, code.privileged, code.bypass_spectre),
        *(code.strict_alignment, code.all_states, code.cpus, code.returns_nothing, code.functions),
        [_map(code.maps[fd]) if fd in code.maps else None for fd in numbers],
        __version__,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode() + _judges())
    for types in (code.btf, code.kernel_btf):
        btf = types
        while btf is not None:
            digest.update(hashlib.sha256(btf.raw).digest())
            btf = btf.base
        digest.update(b";")
    digest.update(raw)
    return digest.hexdigest()[:40]


def _named(insns: Bytecode) -> Mapping[int, int]:
    """The slots where a program names a map, and which."""
    return insns.imms(LD_IMM64, *_MAP)


def _map(desc: MapDesc) -> list[object]:
    content = hashlib.sha256(desc.content).hexdigest() if desc.content is not None else ""
    inner = _map(desc.inner) if desc.inner is not None else None
    sizes = (desc.type, desc.key_size, desc.value_size, desc.max_entries, desc.flags)
    return [*sizes, desc.frozen, content, desc.special, desc.typed, desc.placed, inner]


@lru_cache(maxsize=1)
def _judges() -> bytes:
    """What the verifier is: another one may judge otherwise."""
    root = Path(__file__).parent.parent
    files = [file for folder in _JUDGES for file in sorted((root / folder).glob("*.py"))]
    return json.dumps([[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files]).encode()


def _packed(verdict: Verdict, numbers: dict[int, int]) -> bytes:
    """A verdict as lists of numbers, each behind its length: those of a large program are read faster than JSON is."""
    lists = (
        [verdict.processed],
        [part for slot, access in verdict.ctx_access.items() for part in (slot, *access)],
        [part for slot, fd in verdict.call_map.items() if fd in numbers for part in (slot, numbers[fd])],
        [part for pair in verdict.stack_depth.items() for part in pair],
        sorted(verdict.btf_loads),
        sorted(verdict.dead),
    )
    body = b"".join(struct.pack(f"<I{len(each)}i", len(each), *each) for each in lists)
    return hashlib.sha256(body).digest() + body


def _read(path: Path, fds: dict[int, int]) -> Verdict | None:
    """A kept verdict; None if there is none, or it is torn or damaged."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        return None
    lists, at = [], 0
    while at < len(body):
        count = int.from_bytes(body[at : at + 4], "little")
        lists.append(struct.unpack_from(f"<{count}i", body, at + 4))
        at += 4 + 4 * count
    (processed,), accesses, calls, depths, loads, dead = lists
    return Verdict(
        True,
        processed=processed,
        ctx_access=dict(zip(accesses[::3], zip(accesses[1::3], accesses[2::3], strict=True), strict=True)),
        call_map={slot: fds[number] for slot, number in zip(calls[::2], calls[1::2], strict=True)},
        stack_depth=dict(zip(depths[::2], depths[1::2], strict=True)),
        btf_loads=frozenset(loads),
        dead=frozenset(dead),
    )
