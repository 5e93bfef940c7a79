"""The C arrays of test_verifier as cases: its own code, compiled with a recording libbpf (arrays.c), says what it would load."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.agreement.case import LD_IMM64, MAP_FD, MAP_VALUE, Case, MapCase, keep_blob
from bench.agreement.folder import cache
from bench.agreement.sources import selftests
from bench.agreement.stage import stage_of

_FIRST_FD = 100_000
_OPTS = {"6.1": "const", "6.12": ""}


def cases(release: str) -> Iterator[Case]:
    """All programs of a release's test_verifier."""
    maps: dict[int, MapCase] = {}
    types: dict[int, str] = {}
    for line in _dump(release):
        row = json.loads(line)
        if row["what"] == "btf":
            types[row["fd"]] = keep_blob(bytes.fromhex(row["data"]))
        elif row["what"] == "map":
            maps[row["fd"]] = _map(row, maps, types)
        else:
            yield _case(f"arrays-{release}", row, maps, types)


def _map(row: dict[str, Any], maps: dict[int, MapCase], types: dict[int, str]) -> MapCase:
    plain = {key: row[key] for key in ("type", "key_size", "value_size", "max_entries")}
    return MapCase(
        **plain,
        flags=row.get("flags", 0),
        inner=maps.get(row.get("inner", 0)),
        btf=types.get(row.get("btf", 0), ""),
        key_type=row.get("key_type", 0),
        value_type=row.get("value_type", 0),
    )


def _case(name: str, row: dict[str, Any], maps: dict[int, MapCase], types: dict[int, str]) -> Case:
    code = bytearray.fromhex(row["insns"])
    used: dict[int, int] = {}
    slots, kfuncs = [], {}
    names = dict(row["kfuncs"])
    for slot in range(len(code) // 8):
        at = slot * 8
        imm = int.from_bytes(code[at + 4 : at + 8], "little")
        # A fix-up may also stand in an instruction that is no ld_imm64: those tests want a wrong one, any number does.
        if code[at] == LD_IMM64 and code[at + 1] >> 4 in (MAP_FD, MAP_VALUE) and imm in maps:
            code[at + 4 : at + 8] = used.setdefault(imm, len(used)).to_bytes(4, "little")
            slots.append(slot)
        elif imm in names:
            kfuncs[slot] = names[imm]
    case = Case(
        id=f"{name}/{row['file']}#{row['index']}",
        set=name,
        file=row["file"],
        name=row["name"],
        code=bytes(code),
        prog_type=row["type"],
        attach_type=row["attach_type"],
        flags=row["flags"],
        license=row["license"],
        maps=tuple(maps[fd] for fd in used),
        map_slots=tuple(slots),
        kfuncs=kfuncs,
        target=row["target"],
        btf=types.get(row["btf"], ""),
        func_info=bytes.fromhex(row["func_info"]),
        func_info_size=row["func_info_size"],
    )
    return stage_of(case)


def _dump(release: str) -> Iterator[str]:
    tests = selftests(release)
    build = cache() / "build" / release
    program = _compile(release, tests, build)
    out = build / "arrays.jsonl"
    with out.open("wb") as recorded:
        fd = recorded.fileno()
        os.set_inheritable(fd, True)
        subprocess.run(["bash", "-c", f"exec '{program}' 3>&{fd}"], pass_fds=[fd], stdout=subprocess.DEVNULL, check=True)
    with out.open() as lines:
        yield from lines
    out.unlink()


def _compile(release: str, tests: Path, build: Path) -> Path:
    (build / "verifier").mkdir(parents=True, exist_ok=True)
    listed = [f'{{ .descr = "@file {each.name}" }},\n#include "{each.name}"\n' for each in sorted((tests / "verifier").glob("*.c"))]
    (build / "verifier" / "tests.h").write_text("".join(listed))
    tools = tests.parents[2]
    folders = (build, tests, tests / "verifier", tools / "lib", tools / "include", tools / "include/uapi")
    subprocess.run(
        [
            *("gcc", "-w", "-static", f"-DOPTS={_OPTS[release]}", "-ffunction-sections", "-Wl,--gc-sections"),
            *("-Wl,--unresolved-symbols=ignore-all", *(f"-I{each}" for each in folders)),
            *("-o", str(build / "arrays"), str(Path(__file__).with_name("arrays.c"))),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return build / "arrays"
