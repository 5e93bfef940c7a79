"""An XDP program as a Python function: a packet in, its verdict out, on both kernels."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.kernels.user.kernel import UserKernel
from ebpf.object import Collection, Program
from ebpf.sys.kernel import Kernel

TEXT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} seen SEC(".maps");
SEC("xdp")
int judge(struct xdp_md *ctx)
{
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    __u32 key = 0;
    __u64 *count = bpf_map_lookup_elem(&seen, &key);
    if (count)
        *count += 1;
    if (data + 15 > end)
        return XDP_ABORTED;
    data[0] = 255;
    return data[14] ? XDP_DROP : XDP_PASS;
}
SEC("socket")
int other(struct __sk_buff *skb)
{
    return 0;
}
char terms[] SEC("license") = "GPL";
"""


@pytest.fixture
def loaded(kernel: Kernel) -> Iterator[Collection]:
    with Collection.load(read_object(compile_c("judge.bpf.c", text=TEXT).object), kernel) as collection:
        yield collection


@pytest.fixture
def judge(loaded: Collection) -> Program:
    return loaded.programs["judge"]


def test_a_packet_in_and_its_verdict_out(loaded: Collection, judge: Program) -> None:
    function = judge.function()
    packet = bytes(64)
    assert [function(packet), function(packet[:14] + b"x" * 50), function(bytes(14)), function(bytes(1500))] == [2, 1, 0, 2]
    assert packet == bytes(64)
    assert loaded.maps["seen"].raw[bytes(4)] == (4).to_bytes(8, "little")


def test_a_frame_that_is_none_is_refused(judge: Program) -> None:
    function = judge.function()
    for packet in (b"", bytes(13), bytes(1 << 20)):
        with pytest.raises((EbpfError, ValueError)):
            function(packet)


@pytest.fixture
def user() -> Iterator[UserKernel]:
    with UserKernel() as kernel:
        yield kernel


@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_in_user_space_both_engines_are_functions(monkeypatch: pytest.MonkeyPatch, user: UserKernel, engine: str) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    with Collection.load(read_object(compile_c("judge.bpf.c", text=TEXT).object), user) as collection:
        assert collection.programs["judge"].function()(bytes(64)) == 2
        with pytest.raises(NotSupportedError, match="only XDP programs"):
            collection.programs["other"].function()


def test_in_user_space_it_takes_bytes_and_ends_with_its_program(user: UserKernel) -> None:
    with Collection.load(read_object(compile_c("judge.bpf.c", text=TEXT).object), user) as collection:
        function = collection.programs["judge"].function()
        with pytest.raises(TypeError):
            function("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="too short"):
            function(b"")
    with pytest.raises(ValueError, match="the program is closed"):
        function(bytes(64))


def answer_of_a_child(work: Callable[[], object]) -> str:
    """What a forked child says of some work."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = repr(work())
        except (EbpfError, ValueError) as error:
            text = str(error)
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as file:
        return file.read()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_user_space_a_child_of_fork_is_refused_and_the_parent_goes_on(user: UserKernel) -> None:
    with Collection.load(read_object(compile_c("judge.bpf.c", text=TEXT).object), user) as collection:
        program = collection.programs["judge"]
        function = program.function()
        assert "does not survive fork" in answer_of_a_child(lambda: function(bytes(64)))
        assert "does not survive fork" in answer_of_a_child(lambda: program.run(bytes(64)))
        assert function(bytes(64)) == 2


def test_signal_handlers_of_the_process_stay_what_they_are(user: UserKernel) -> None:
    """No handler is ours, so none is in the way: a program's wild reads are system calls that fail."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)}
    kept = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with Collection.load(read_object(compile_c("judge.bpf.c", text=TEXT).object), user) as collection:
            function = collection.programs["judge"].function()
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
                assert function(bytes(64)) == 2
        assert {number: signal.getsignal(number) for number in before} == before
        assert seen == [signal.SIGUSR1] * 3
    finally:
        signal.signal(signal.SIGUSR1, kept)
