"""Programs of one object are judged one by one, and what cannot be loaded fails with libbpf's number."""

import errno
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from support import libbpf

LIBBPF = libbpf.library()
pytestmark = [pytest.mark.linux, pytest.mark.skipif(LIBBPF is None, reason="libbpf.so.1 is not installed")]
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
extern int no_such_function(int x) __ksym;
SEC("nosuch") int free_form(void *ctx) { return 2; }
SEC("xdp") int good(void *ctx) { return 2; }
SEC("fentry/no_such_target") int no_target(void *ctx) { return 0; }
SEC("tp_btf/no_such_tracepoint") int no_tracepoint(void *ctx) { return 0; }
SEC("fentry") int nowhere(void *ctx) { return 0; }
SEC("fexit/bpf_fentry_test1") int trampoline(void *ctx) { return 0; }
SEC("lsm/file_open") int hook(void *ctx) { return 0; }
SEC("xdp") int refused(void *ctx) { return *(int *)(ctx + 99); }
SEC("raw_tp/sys_enter") int not_offered(void *ctx) { return bpf_get_socket_cookie(ctx); }
SEC("tp_btf.s/sys_enter") int sleeps(void *ctx) { return 0; }
SEC("?xdp") int unwanted(void *ctx) { return 2; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_each_program_fails_alone_and_with_libbpfs_number(tmp_path: Path) -> None:
    path = tmp_path / "mixed.bpf.o"
    path.write_bytes(compile_c("mixed.bpf.c", text=SOURCE.replace("extern int no_such_function(int x) __ksym;", "")).object)
    # Libbpf 1.1 does not know this name: what it says of it is not the kernel's word.
    theirs = {name: verdict.errno for name, verdict in libbpf.verdicts(LIBBPF, str(path)).items() if name != "sleeps"}  # type: ignore[arg-type]
    spec = read_object(path.read_bytes(), str(path))
    ours, named = {}, set()
    with open_kernel("linux") as kernel:
        for name in theirs:
            try:
                with Collection.load(spec, kernel, programs=[name], load=False) as held:
                    held.programs[name].load()
                ours[name] = 0
            except EbpfError as error:
                named.add(error.program)
                ours[name] = error.errno
    assert ours == theirs
    assert named == {name for name, number in ours.items() if number}
    assert (ours["free_form"], ours["no_target"], ours["good"]) == (errno.EINVAL, errno.ESRCH, 0)


def test_a_missing_function_of_the_kernel_fails_with_libbpfs_number(tmp_path: Path) -> None:
    text = SOURCE.replace("int good(void *ctx) { return 2; }", "int good(void *ctx) { return no_such_function(1); }")
    path = tmp_path / "kfunc.bpf.o"
    path.write_bytes(compile_c("kfunc.bpf.c", text=text).object)
    theirs = libbpf.verdicts(LIBBPF, str(path))["good"]  # type: ignore[arg-type]
    with open_kernel("linux") as kernel, pytest.raises(EbpfError, match="no kernel function 'no_such_function'") as caught:
        Collection.load(read_object(path.read_bytes(), str(path)), kernel, programs=["good"]).close()
    assert caught.value.errno == theirs.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["trampoline", "hook"])
def test_a_host_that_forbids_trampolines_is_told_apart_from_a_missing_privilege(name: str) -> None:
    spec = read_object(compile_c("mixed.bpf.c", text=SOURCE.replace("extern int no_such_function(int x) __ksym;", "")).object)
    refusal: EbpfError | None = None
    with open_kernel("linux") as kernel:
        try:
            Collection.load(spec, kernel, programs=[name]).close()
        except EbpfError as error:
            refusal = error
    if refusal is None:
        pytest.skip("this kernel allows trampolines: the program was loaded")
    assert refusal.errno == errno.EPERM
    assert "the kernel refuses it without a word" in str(refusal)
    assert "some hosts forbid all trampolines (fentry, fexit, fmod_ret, lsm, freplace)" in str(refusal)
    assert "a kprobe, a tracepoint or tp_btf instead" in str(refusal.hint)
