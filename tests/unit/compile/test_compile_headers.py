"""Our bpf/*.h: whole against libbpf's names, generated where a table has the facts, and the same code comes out."""

import os
import re
from pathlib import Path

import pytest

from ebpf.compile import INCLUDE, base_flags, compile_c
from ebpf.compile.generate import TARGET, header
from ebpf.elf import read_object
from ebpf.isa import decode
from ebpf.toolchain import find_clang, run
from ebpf.uapi import HELPERS

PEER = Path(os.environ.get("EBPF_LIBBPF_HEADERS", "/usr/include"))
has_peer = pytest.mark.skipif(not (PEER / "bpf" / "bpf_helpers.h").is_file(), reason="libbpf's headers are not installed (libbpf-dev)")
HEADERS = ("bpf_helpers.h", "bpf_tracing.h", "bpf_core_read.h", "bpf_endian.h", "usdt.bpf.h")

BEFORE, *_REST = (Path(__file__).parent / "macros.c").read_text().split("\n//// ")
CASES = {name: text for name, _, text in (part.partition("\n") for part in _REST)}
# A defined zero first; words loaded in another order; what libbpf 1.1 lacks, or finds out at load (whether system calls have wrappers);
# ours reads registers by the layout of linux/ptrace.h, libbpf's asks for a relocation that no kernel can satisfy ("rdi").
OTHER_CODE = {"bits2", "bits_written", "prog2", "pairs12", "loops", "ksyscall", "syscall_regs", "uprobe", "kfuncs", "probe_read"}
OTHER_CODE |= {"usdt", "usdt_size", "likely", "stream"}


def test_the_helpers_header_is_what_the_generator_writes() -> None:
    assert TARGET.read_text() == header()


def test_every_helper_can_be_called_by_name() -> None:
    names = re.findall(r"\(\* const bpf_(\w+)\)", TARGET.read_text())
    assert sorted(names) == sorted(row.name for row in HELPERS.values())


@pytest.mark.parametrize("case", CASES)
def test_what_the_macros_give_compiles_without_a_warning(case: str) -> None:
    compiled = compile_c("a.c", text=BEFORE + CASES[case], flags=["-Wall", "-Werror"])
    programs = read_object(compiled.object).programs
    assert programs["f"].insns[-8:] == bytes.fromhex("9500000000000000") or case == "weak"


def test_functions_that_are_to_be_inlined_are_although_linux_stddef_h_only_asks() -> None:
    """They may take more arguments than a call can."""
    text = """#include <linux/stddef.h>
    #include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    static __always_inline int many(long *a, long b, long c, long d, long e, long g) { return a[b] + a[c] + a[d] + a[e] + a[g]; }
    SEC("raw_tp/x") int f(long *ctx) { return many(ctx, 0, 1, 2, 3, 4) + many(ctx, 4, 3, 2, 1, 0); }"""
    assert [b"\x85" in program.insns[::8] for program in read_object(compile_c("a.c", text=text).object).programs.values()] == [False]


def test_a_place_in_a_structure_of_the_kernel_is_found_out_at_load() -> None:
    spec = read_object(compile_c("a.c", text="#include <stddef.h>\n" + BEFORE + CASES["place"]).object)
    assert spec.btf is not None
    assert [(spec.btf.name(relo.type_id), relo.access) for relo in spec.programs["f"].core_relocs] == [
        ("task_struct", "0:2"),
        ("task_struct", "0:1"),
    ]


def test_what_programs_include_of_the_c_library_has_a_meaning_without_one() -> None:
    names = ("string", "errno", "inttypes", "time", "features", "sys/types", "sys/socket", "netinet/in", "arpa/inet", "gnu/stubs-32")
    head = "".join(f"#include <{name}.h>\n" for name in ("linux/bpf", *names, "bpf/bpf_helpers"))
    body = """struct sockaddr_in a; struct sockaddr_in6 b; struct timespec t;
    _Static_assert(ESRCH == 3 && AF_INET6 == 10 && IPPROTO_TCP == 6 && sizeof(time_t) == 8 && htons(1) == 256, "");
    SEC("xdp") int f(struct xdp_md *ctx) { char x[64]; memset(x, ctx->data, 64); return x[ctx->data & 63]; }"""
    compiled = compile_c("a.c", text=head + body, flags=["-Wall", "-Werror"])
    assert not read_object(compiled.object).programs["f"].relocs


def test_linuxs_headers_have_the_sizes_of_bpf() -> None:
    text = """#include <linux/types.h>
    #include <linux/aio_abi.h>
    _Static_assert(sizeof(__kernel_size_t) == 8 && sizeof(__kernel_ssize_t) == 8 && sizeof(__kernel_fsid_t) == 8, "");
    _Static_assert(__BITS_PER_LONG == 64, "");
    typedef __kernel_ulong_t __kernel_size_t; /* as the kernel's BTF has it */
    int x;"""
    compile_c("a.c", text=text, flags=["-Wall", "-Werror"])


@has_peer
@pytest.mark.parametrize("case", [case for case in CASES if case not in OTHER_CODE])
def test_the_same_code_comes_out_as_with_libbpfs_headers(case: str, tmp_path: Path) -> None:
    ours, theirs = (_code(BEFORE + CASES[case], folder, tmp_path) for folder in (INCLUDE, _only_bpf(tmp_path)))
    assert ours == theirs


@has_peer
@pytest.mark.parametrize("name", HEADERS)
def test_every_public_macro_of_libbpfs_is_in_ours(name: str) -> None:
    ours = {word for header_name in HEADERS for word in _macros((INCLUDE / "bpf" / header_name).read_text())}
    assert {word for word in _macros((PEER / "bpf" / name).read_text()) if not _private(word)} <= ours


@has_peer
def test_every_helper_of_libbpfs_has_its_number_in_ours() -> None:
    rows = dict(re.findall(r"(bpf_\w+)\)\(.*\) = \(void \*\) ?(\d+);", (PEER / "bpf" / "bpf_helper_defs.h").read_text()))
    ours = dict(re.findall(r"(bpf_\w+)\)\(.*\) = \(void \*\) ?(\d+);", TARGET.read_text()))
    assert rows.items() <= ours.items()


def _macros(text: str) -> set[str]:
    return set(re.findall(r"^\s*#\s*define\s+(\w+)", text, re.MULTILINE))


def _private(word: str) -> bool:
    """Names that no program writes: three underscores, include guards, machines that ours does not serve."""
    machines = ("bpf_target_", "__PT_", "PT_REGS_ARM64", "PT_REGS_S390", "__BPF_TARGET_MISSING", "__CORE_BITFIELD_PROBE_READ")
    return word.startswith(("___", *machines)) or bool(re.fullmatch(r"__(USDT_)?BPF_\w+_H?_*", word))


def _only_bpf(folder: Path) -> Path:
    """A folder that holds libbpf's headers and no other of the host's."""
    alone = folder / "peer"
    alone.mkdir()
    (alone / "bpf").symlink_to(PEER / "bpf")
    return alone


def _code(text: str, include: Path, folder: Path) -> object:
    clang = find_clang()
    flags = [str(include) if flag == str(INCLUDE) else flag for flag in base_flags(clang)]
    out = folder / "out.o"
    answer = run([*clang.command, *flags, "-c", "-o", str(out), "-x", "c", "-"], stdin=text.encode())
    assert answer.returncode == 0, answer.stderr.decode()
    program = read_object(out.read_bytes()).programs["f"]
    return list(map(str, decode(program.insns))), program.relocs, program.core_relocs
