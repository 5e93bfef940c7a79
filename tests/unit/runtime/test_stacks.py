"""Stacks of real processes: the frames of a program that keeps frame pointers, innermost first."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.kernel import Command

NATIVE = """
long inner(void);
long middle(void);
long outer(void);
__attribute__((noinline)) long inner(void)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(110), "D"(inner), "S"(middle), "d"(outer) : "rcx", "r11", "memory");
    return result + 1;
}
__attribute__((noinline)) long middle(void) { return inner() + 2; }
__attribute__((noinline)) long outer(void) { return middle() + 3; }
__attribute__((noreturn)) void begin(void)
{
    outer();
    outer();
    __asm__ volatile("syscall" : : "a"(60), "D"(0));
    __builtin_unreachable();
}
__asm__(".globl _start\\n_start: xor %ebp, %ebp\\n call begin\\n");
"""
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct entry { __u64 common; int nr, pad; __u64 args[6]; };
struct { __uint(type, BPF_MAP_TYPE_STACK_TRACE); __uint(max_entries, 4096); __uint(key_size, 4); __uint(value_size, 10 * 8); } stacks SEC(".maps");
__u64 functions[3] = {}, frames[8] = {}, skipped[8] = {};
long got[8] = {};
SEC("tracepoint/syscalls/sys_enter_getppid") int enter(struct entry *ctx)
{
    for (int i = 0; i < 3; i++)
        functions[i] = ctx->args[i];
    return 0;
}
SEC("tracepoint/syscalls/sys_exit_getppid") int leave(void *ctx)
{
    got[0] = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
    got[1] = bpf_get_stack(ctx, skipped, sizeof(skipped), BPF_F_USER_STACK | 2);
    got[2] = bpf_get_stack(ctx, skipped + 4, 8, 0);
    got[3] = bpf_get_stack(ctx, skipped + 4, 7, BPF_F_USER_STACK);
    got[4] = bpf_get_stack(ctx, skipped + 4, 8, BPF_F_USER_STACK | 100);
    got[5] = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
    got[6] = bpf_get_stackid(ctx, &stacks, 0);
    got[7] = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 1);
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is written for x86-64")
def test_frames_are_told_from_the_innermost_on(tmp_path: Path) -> None:
    (tmp_path / "native.c").write_text(NATIVE)
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86_64-linux-musl",
        "-O1",
        "-fno-omit-frame-pointer",
        "-nostdlib",
        "-static",
    ]
    command += ["-fno-sanitize=all", "-fno-stack-protector", "-o", str(tmp_path / "native"), str(tmp_path / "native.c")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    spec = read_object(compile_c("stacks.bpf.c", text=SOURCE).object)
    with open_kernel("user") as kernel:
        kernel.lab.spawn(Command((str(tmp_path / "native"),), {}))
        with (
            Collection.load(spec, kernel) as held,
            attach.tracepoint(held.programs["enter"], "syscalls:sys_enter_getppid"),
            attach.tracepoint(held.programs["leave"], "syscalls:sys_exit_getppid"),
        ):
            with pytest.raises(KeyboardInterrupt):
                kernel.wait([], 20)
            seen = held.variables()
            kept = held.maps["stacks"].raw
            got, functions, frames, skipped = (seen[name] for name in ("got", "functions", "frames", "skipped"))
            assert isinstance(got, list)
            assert isinstance(functions, list)
            assert isinstance(frames, list)
            assert isinstance(skipped, list)
            assert got[:5] == [5 * 8, 3 * 8, -14, -22, -14]
            for frame, function in zip(frames, functions):
                assert function < frame < function + 100
            assert frames[5:] == [0, 0, 0]
            assert skipped[:3] == frames[2:5]
            assert got[6] == -14
            for id_, whole in ((got[5], frames[:5]), (got[7], frames[1:5])):
                raw = kept[id_.to_bytes(4, "little")]
                assert [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 80, 8)] == whole + [0] * (10 - len(whole))
