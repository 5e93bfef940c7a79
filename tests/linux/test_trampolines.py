"""Programs in the place of functions, or around them: freplace, fentry and fexit of other programs, fmod_ret; pinned, told of, detached."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.cli.main import main
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import AttachError, KernelError, NotFoundError, UsageError, VerifierError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from ebpf.sys.calls import ObjGet
from ebpf.uapi import LinkType
from support.lacking import need
from support.place import bpffs

pytestmark = pytest.mark.linux
HEAD = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
"""
#: Two programs with a function of the same types, which others replace and trace.
INTO = """
__noinline int answer(struct __sk_buff *skb, int more) { volatile int one = 1; return skb ? one + more : 0; }
SEC("tc") int asks(struct __sk_buff *skb) { return answer(skb, 10); }
"""
AROUND = """
long seen = 0, first = 0, result = 0;
SEC("freplace/answer") int mine(struct __sk_buff *skb, int more) { seen++; return 40 + more; }
SEC("?freplace/answer") int wrong(struct __sk_buff *skb) { return 3; }
SEC("?freplace/anser") int nobody(struct __sk_buff *skb, int more) { return 3; }
SEC("?fentry/answer") int BPF_PROG(before, struct sk_buff *skb, int more) { seen++; first = more; return 0; }
SEC("?fexit/answer") int BPF_PROG(after, struct sk_buff *skb, int more, int got) { seen++; first = more; result = got; return 0; }
"""
#: bpf_modify_return_test() is a function of the kernel's that is there for tests; to what group init belongs is refused to us alone.
MODIFIES = """
const volatile int mine = 0;
SEC("fmod_ret/bpf_modify_return_test") int BPF_PROG(instead, int a, int *b, int got) { return -22; }
SEC("fmod_ret/security_task_getpgid") int BPF_PROG(refuses, struct task_struct *task, int got) {
    return bpf_get_current_pid_tgid() >> 32 == mine && task->tgid == 1 ? -11 : got;
}
SEC("?fmod_ret/do_exit") int BPF_PROG(never, long code) { return -1; }
"""
PACKET = bytes(64)


@pytest.fixture
def into() -> Iterator[Collection]:
    """What is replaced and traced: the program `asks` says 11."""
    spec = read_object(compile_c("into.bpf.c", text=HEAD + INTO).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as collection:
        yield collection


@pytest.fixture
def around(into: Collection) -> Iterator[Collection]:
    """What does so, each loaded when it is first needed."""
    spec = read_object(compile_c("around.bpf.c", text=HEAD + AROUND).object)
    targets = dict.fromkeys(spec.programs, into.programs["asks"])
    with Collection.load(spec, into.kernel, load=False, targets=targets) as collection:
        yield collection


def says(collection: Collection) -> int:
    return collection.programs["asks"].run(PACKET).retval


def test_a_function_of_another_program_is_replaced_until_the_link_is_closed(into: Collection, around: Collection) -> None:
    need("fentry")
    mine = around.programs["mine"]
    assert says(into) == 11
    with attach.trace(mine) as link:
        assert says(into) == 50
        info = link.info()
        assert (info.type, info.prog_id, info.detail["target_obj_id"]) == (
            LinkType.TRACING,
            mine.info().id,
            into.programs["asks"].info().id,
        )
        with pytest.raises(KernelError) as caught:
            link.detach()
        assert caught.value.errno == errno.EOPNOTSUPP
    assert says(into) == 11
    assert around.variables()["seen"] == 1


def test_an_extension_is_put_into_a_second_program_too(into: Collection, around: Collection) -> None:
    need("fentry")
    mine = around.programs["mine"]
    spec = read_object(compile_c("into.bpf.c", text=HEAD + INTO).object)
    with Collection.load(spec, into.kernel) as second:
        with attach.freplace(mine, second.programs["asks"]) as link:
            assert (says(into), says(second)) == (11, 50)
            assert link.describe() == "freplace asks:answer"
            with pytest.raises(AttachError, match="another program replaces the function already"):
                attach.freplace(mine, second.programs["asks"])
        assert says(second) == 11
        with pytest.raises(NotFoundError, match="no function 'anser' in program 'asks'; did you mean 'answer'"):
            attach.freplace(mine, second.programs["asks"], "anser")


@pytest.mark.parametrize(("name", "expected"), [("before", (2, 10, 0)), ("after", (2, 10, 11))])
def test_a_function_of_another_program_is_traced(name: str, expected: tuple[int, int, int], into: Collection, around: Collection) -> None:
    need("fentry", "fexit")
    with attach.trace(around.programs[name]):
        assert (says(into), says(into)) == (11, 11)
    assert says(into) == 11
    values = around.variables()
    assert tuple(values[each] for each in ("seen", "first", "result")) == expected


def test_an_extension_that_does_not_fit_is_refused(into: Collection, around: Collection) -> None:
    need("fentry")
    with pytest.raises(VerifierError, match=r"program 'wrong' refused: .*answer\(\) has 2 args"):
        around.programs["wrong"].load()
    with pytest.raises(NotFoundError, match="no function 'anser' in program 'asks'; did you mean 'answer'"):
        around.programs["nobody"].load()
    spec = read_object(compile_c("around.bpf.c", text=HEAD + AROUND).object)
    with pytest.raises(UsageError, match="freplace replaces a function of another program: say of which"):
        Collection.load(spec, into.kernel)


@pytest.fixture
def modifies() -> Iterator[Collection]:
    spec = read_object(compile_c("modifies.bpf.c", text=HEAD + MODIFIES).object).with_variables({"mine": os.getpid()})
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


def ran(program: Program) -> tuple[int, int]:
    """What the kernel's functions for tests did: how many of them ran, and what they answered together."""
    answer = program.run().retval
    return answer >> 16, answer & 0xFFFF


def test_a_function_of_the_kernels_answers_what_a_program_says_instead(modifies: Collection) -> None:
    need("fmod_ret")
    program = modifies.programs["instead"]
    count, together = ran(program)
    with attach.trace(program) as link:
        # By itself it would add one to what its second argument points at (2), and answer the sum with its first (1).
        assert ran(program) == (count - 1, together - 4 - 22 & 0xFFFF)
        assert link.info().detail["attach_type"] == program.spec.attach_type
    assert ran(program) == (count, together)


def test_a_function_that_must_not_be_changed_is_refused(modifies: Collection) -> None:
    need("fmod_ret")
    with pytest.raises(VerifierError, match=r"program 'never' refused: do_exit\(\) is not modifiable"):
        modifies.programs["never"].load()


def test_a_question_is_refused_to_one_process(modifies: Collection) -> None:
    need("fmod_ret")
    with attach.trace(modifies.programs["refuses"]):
        with pytest.raises(BlockingIOError):
            os.getpgid(1)
        os.getpgid(0)
    os.getpgid(1)


def test_a_pinned_link_of_an_extension_outlives_its_holder(into: Collection, around: Collection) -> None:
    need("fentry")
    with bpffs() as folder:
        path = f"{folder}/link"
        with attach.trace(around.programs["mine"]) as link:
            link.pin(path)
        assert says(into) == 50
        fd = into.kernel.bpf(ObjGet(path))
        again = Link("freplace", "answer", lambda: into.kernel.close(fd), kernel=into.kernel, fds=(fd,))
        into.kernel.unpin(path)
        assert says(into) == 50
        again.close()
        assert says(into) == 11


def test_the_command_loads_and_attaches_an_extension(into: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    need("fentry")
    path = tmp_path / "around.bpf.o"
    path.write_bytes(compile_c("around.bpf.c", text=HEAD + AROUND).object)
    asks = ("id", str(into.programs["asks"].info().id))

    def ebpf(*words: str) -> tuple[int, str]:
        status = main(["--kernel", "linux", *words])
        return status, capfd.readouterr().err

    with bpffs() as folder:
        assert ebpf("prog", "load", str(path), f"{folder}/mine", "target", *asks) == (0, "")
        pinned = ("pinned", f"{folder}/mine")
        assert ebpf("prog", "attach", *pinned, "trace", "pin", f"{folder}/link") == (0, "")
        assert says(into) == 50
        into.kernel.unpin(f"{folder}/link")
        # What was only pinned goes a little later.
        deadline = time.monotonic() + 20
        while says(into) != 11 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert says(into) == 11
        assert ebpf("prog", "attach", *pinned, "freplace", *asks, "answer", "pin", f"{folder}/link") == (0, "")
        assert says(into) == 50
        into.kernel.unpin(f"{folder}/link")
        status, said = ebpf("prog", "attach", *pinned, "freplace", *asks, "anser", "pin", f"{folder}/link")
        assert (status != 0, "no function 'anser' in program 'asks'; did you mean 'answer'" in said) == (True, True)
        assert ebpf("prog", "load", str(path), f"{folder}/second")[0] != 0
        into.kernel.unpin(f"{folder}/mine")
