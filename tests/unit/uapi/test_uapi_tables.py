"""The tables of the kernel's numbers are whole, and agree with the headers that they were read from."""

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ebpf.uapi import (
    CONTEXTS,
    HELPERS,
    HELPERS_BY_NAME,
    MAP_TYPES,
    PROGRAM_TYPES,
    SECTIONS,
    SYSCALLS,
    AttachType,
    Cmd,
    LinkType,
    MapFlag,
    MapType,
    ProgType,
    Ret,
    section_row,
)
from ebpf.uapi.bpf import UpdateFlag


def _headers() -> Path:
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        pytest.skip("ziglang, which ships the headers, is not installed")
    return Path(spec.origin).parent / "lib" / "libc" / "include"


@pytest.fixture(scope="module")
def bpf_h() -> str:
    return (_headers() / "any-linux-any" / "linux" / "bpf.h").read_text()


def test_helpers_are_numbered_without_gaps() -> None:
    assert list(HELPERS) == list(range(1, 212))
    assert {row.name: row for row in HELPERS.values()} == HELPERS_BY_NAME


def test_helpers_have_the_names_of_the_header(bpf_h: str) -> None:
    rows = {int(number): name for name, number in re.findall(r"^\s*FN\((\w+), (\d+), ##ctx\)", bpf_h, re.MULTILINE)}
    assert {row.id: row.name for row in HELPERS.values()} == {number: name for number, name in rows.items() if number}


def test_helper_prototypes_are_those_of_the_header(bpf_h: str) -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+", "", text)

    documented: dict[str, set[tuple[str, str]]] = {}
    for result, name, args in re.findall(r"^ \* (\w[\w *]*?[ *])bpf_(\w+)\(([^()]*)\)$", bpf_h, re.MULTILINE):
        documented.setdefault(name, set()).add((plain(result), "" if args == "void" else plain(args)))
    assert set(documented) == set(HELPERS_BY_NAME)
    wrong = [row.name for row in HELPERS.values() if (plain(row.c_return), plain(row.c_args)) not in documented[row.name]]
    assert wrong == []


def test_a_helpers_arguments_are_as_many_as_its_prototype_has() -> None:
    for row in HELPERS.values():
        if row.args is not None and "..." not in row.c_args:
            assert len(row.args) == len([part for part in row.c_args.split(",") if part.strip()]), row.name
        assert row.args is None or len(row.args) <= 5, row.name
        # What is documented as void leaves nothing in r0 (Linux 6.18 was asked), but for one.
        void = row.c_return.strip() == "void" and row.name != "set_hash_invalid"
        assert (row.ret is Ret.VOID) >= void or row.args is None, row.name


@pytest.mark.parametrize(
    ("table", "prefix"),
    [
        (Cmd, "BPF_"),
        (MapType, "BPF_MAP_TYPE_"),
        (ProgType, "BPF_PROG_TYPE_"),
        (AttachType, "BPF_"),
        (LinkType, "BPF_LINK_TYPE_"),
        (MapFlag, "BPF_F_"),
        (UpdateFlag, "BPF_"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_numbers_are_those_of_the_header(table: Any, prefix: str, tmp_path: Path) -> None:
    """Clang itself compares them: a wrong number is a failed static assertion with its name."""
    _compile(
        tmp_path,
        "#include <linux/bpf.h>\n"
        + "".join(f'_Static_assert({prefix}{row.name} == {int(row)}, "{row.name}");\n' for row in table if row.name != "COMMON_ATTRS"),
    )


def test_context_fields_lie_where_the_headers_have_them(tmp_path: Path) -> None:
    lines = ["#include <linux/bpf.h>", "#include <linux/bpf_perf_event.h>", "#define at __builtin_offsetof"]
    for context in CONTEXTS.values():
        if context.name in ("pt_regs", "bpf_perf_event_data"):
            continue  # the header's own struct is the user's view of another architecture's registers
        if not context.words:
            lines.append(f'_Static_assert(sizeof(struct {context.name}) == {context.size}, "{context.name}");')
        for field in context.fields:
            array = re.fullmatch(r"(cb|args|\w+_ip6_|\w+_ip6)_?(\d)", field.name)
            path = f"{array[1].rstrip('_')}[{array[2]}]" if array else field.name
            lines.append(f'_Static_assert(at(struct {context.name}, {path}) == {field.offset}, "{context.name}.{field.name}");')
            lines.append(f'_Static_assert(sizeof(((struct {context.name} *)0)->{path}) == {field.size}, "size {field.name}");')
    _compile(tmp_path, "\n".join(lines) + "\n")


def test_context_fields_do_not_overlap_and_fit() -> None:
    for context in CONTEXTS.values():
        end = 0
        for field in context.fields:
            assert field.offset >= end, f"{context.name}.{field.name}"
            end = field.offset + field.size
        assert end <= context.size
        assert len({field.name for field in context.fields}) == len(context.fields)


def _compile(folder: Path, text: str) -> None:
    import subprocess

    from ebpf.toolchain import find_clang

    clang = find_clang()
    source = folder / "facts.c"
    source.write_text(text)
    done = subprocess.run(
        [*clang.command, "--target=bpfel", *clang.isystem, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_program_type_and_map_type_has_a_row() -> None:
    assert set(PROGRAM_TYPES) == set(ProgType) - {ProgType.UNSPEC}
    assert set(MAP_TYPES) == set(MapType) - {MapType.UNSPEC}
    for rows in (PROGRAM_TYPES, MAP_TYPES):
        assert len({row.name for row in rows.values()}) == len(rows)
        assert all(key == row.type for key, row in rows.items())


def test_program_types_name_contexts_and_helpers_that_exist() -> None:
    for row in PROGRAM_TYPES.values():
        assert row.helpers is None or row.helpers <= set(HELPERS_BY_NAME), row.name
        assert row.context == "" or row.context in CONTEXTS or row.context in _BTF_CONTEXTS, row.name


#: Contexts of kernel pointers: their fields come from BTF.
_BTF_CONTEXTS = {"bpf_nf_ctx"}


def test_section_names_are_unique() -> None:
    assert [name for name, count in Counter(row.name for row in SECTIONS).items() if count > 1] == []
    assert len(SECTIONS) == 116


@pytest.mark.parametrize(
    ("name", "program", "attach", "target"),
    [
        ("xdp", ProgType.XDP, AttachType.XDP, ""),
        ("xdp.frags/cpumap", ProgType.XDP, AttachType.XDP_CPUMAP, ""),
        ("kprobe/do_exit", ProgType.KPROBE, None, "do_exit"),
        ("kprobe", ProgType.KPROBE, None, ""),
        ("tracepoint/syscalls/sys_enter_open", ProgType.TRACEPOINT, None, "syscalls/sys_enter_open"),
        ("tp_btf.s/x", ProgType.TRACING, AttachType.TRACE_RAW_TP, "x"),
        ("fsession.multi.s/f*", ProgType.TRACING, AttachType.TRACE_FSESSION_MULTI, "f*"),
        ("cgroup/connect4", ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, ""),
    ],
)
def test_a_section_name_says_the_program_type(name: str, program: ProgType, attach: AttachType | None, target: str) -> None:
    found = section_row(name)
    assert found is not None
    assert (found[0].type, found[0].attach, found[1]) == (program, attach, target)


@pytest.mark.parametrize("name", ["xdp/eth0", "nonsense", "kprobes/x", ".text", ""])
def test_other_section_names_mean_nothing(name: str) -> None:
    assert section_row(name) is None


@pytest.mark.parametrize(
    ("arch", "header"), [("x86_64", "x86-linux-any/asm/unistd_64.h"), ("aarch64", "aarch64-linux-any/asm/unistd_64.h")]
)
def test_system_call_numbers_are_those_of_the_header(arch: str, header: str) -> None:
    text = (_headers() / header).read_text()
    rows = {name: int(number) for name, number in re.findall(r"^#define __NR_(\w+) (\d+)$", text, re.MULTILINE)}
    assert SYSCALLS[arch] == rows
    assert len(set(SYSCALLS[arch].values())) == len(rows)
