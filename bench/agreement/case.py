"""A case: one program with all that a verifier has to know of it, and what a kernel said to it."""

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from bench.agreement.folder import blob_path, pack, unpack

MAP_FD, MAP_VALUE = 1, 2  # what `src` of a ld_imm64 says
LD_IMM64, CALL = 0x18, 0x85
BTF_ID, KFUNC = 3, 2

#: What a program was asked with: everything, or CAP_BPF and CAP_NET_ADMIN alone.
ALL, BPF_ONLY = "all", "bpf"


@dataclass(frozen=True, slots=True)
class MapCase:
    """A map as it is made; `btf` names the types it has, `initial` is its first element where it is frozen."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    name: str = ""
    map_extra: int = 0
    btf: str = ""
    key_type: int = 0
    value_type: int = 0
    frozen: bool = False
    initial: str = ""
    inner: "MapCase | None" = None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        inner = row.get("inner")
        return cls(**{**row, "inner": cls.of(inner) if inner else None})


@dataclass(frozen=True, slots=True)
class Case:
    """A program. `code` are its instructions: those in `map_slots` have the number of a map in `maps` instead of a descriptor.

    `kfuncs` and `ksyms` are the slots that name something of the kernel's BTF; `target` is what it would be attached to.
    """

    id: str
    set: str
    file: str
    name: str
    code: bytes
    prog_type: int
    attach_type: int = 0
    flags: int = 0
    license: str = "GPL"
    maps: tuple[MapCase, ...] = ()
    map_slots: tuple[int, ...] = ()
    kfuncs: dict[int, str] = field(default_factory=dict)
    ksyms: dict[int, str] = field(default_factory=dict)
    target: str = ""
    btf: str = ""
    func_info: bytes = b""
    func_info_size: int = 0
    line_info: bytes = b""
    line_info_size: int = 0
    core: bytes = b""
    caps: str = ALL
    stage: int = 1

    def row(self) -> dict[str, Any]:
        """As JSON has it, fields that say nothing left out."""
        out = asdict(self)
        for key in ("code", "func_info", "line_info", "core"):
            out[key] = pack(out[key]) if out[key] else ""
        return {key: value for key, value in out.items() if value or key in ("id", "prog_type")}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        out = {key: value for key, value in row.items() if key in known}
        for key in ("code", "func_info", "line_info", "core"):
            out[key] = unpack(out[key]) if out.get(key) else b""
        out["maps"] = tuple(MapCase.of(each) for each in out.get("maps", ()))
        out["map_slots"] = tuple(out.get("map_slots", ()))
        for key in ("kfuncs", "ksyms"):
            out[key] = {int(slot): name for slot, name in out.get(key, {}).items()}
        return cls(**out)

    def with_maps(self, numbers: list[int]) -> bytes:
        """The instructions with `numbers[n]` in place of map `n`."""
        code = bytearray(self.code)
        for slot in self.map_slots:
            at = slot * 8 + 4
            code[at : at + 4] = numbers[int.from_bytes(code[at : at + 4], "little")].to_bytes(4, "little")
        return bytes(code)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verifier said. `verdict`: accepted, refused, unknown, or environment: it could not be asked.

    `error` is all of its complaint, `message` the last line of that; `why` is what could not be judged.
    """

    verdict: str
    message: str = ""
    error: str = ""
    processed: int = 0
    errno: int = 0
    log: str = ""
    why: str = ""
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in row.items() if key in known})


def keep_blob(data: bytes) -> str:
    """Put types into the cache; their name."""
    digest = hashlib.sha256(data).hexdigest()[:24]
    path = blob_path(digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return digest
