"""Kernel objects known by BTF: arguments, walks, kernel functions, sections and iterators, with types that are made here."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import asm
from ebpf.uapi import AttachType, ProgType


def _kernel() -> tuple[Btf, dict[str, int]]:
    """A small kernel: tasks that have parents, two tracepoints, and the functions that the rows call."""
    build = Builder()
    number, letter = build.integer("int", 4, signed=True), build.integer("char", 1, signed=True, char=True)
    comm = build.array(letter, 16, number)
    pointer = build.ptr(comm + 2)
    task = build.struct("task_struct", 48, [("pid", number, 0), ("parent", pointer, 8), ("leader", pointer, 16), ("comm", comm, 24)])
    assert task == comm + 2
    build.struct("task_struct__safe_rcu", 8, [("leader", pointer, 0)])
    count = build.struct("bpf_iter_num", 8, [("state", number, 0)])
    counted, numbers = build.ptr(count), build.ptr(number)
    for name in ("wakes", "sched_pi_setprio"):
        traced = build.func_proto(0, [("__data", pointer), ("p", pointer), ("q", pointer), ("n", number)])
        build.typedef(f"btf_trace_{name}", build.ptr(traced))
    context = build.ptr(build.struct("xdp_md", 24, [("data", number, 0)]))
    prototypes = {
        "bpf_xdp_pull_data": (number, [("ctx", context), ("length", number)]),
        "bpf_task_acquire": (pointer, [("p", pointer)]),
        "bpf_task_release": (0, [("p", pointer)]),
        "bpf_throw": (0, [("cookie", number)]),
        "bpf_rcu_read_lock": (0, []),
        "bpf_rcu_read_unlock": (0, []),
        "bpf_preempt_disable": (0, []),
        "bpf_preempt_enable": (0, []),
        "bpf_iter_num_new": (number, [("it", counted), ("start", number), ("end", number)]),
        "bpf_iter_num_next": (numbers, [("it", counted)]),
        "bpf_iter_num_destroy": (0, [("it", counted)]),
        "bpf_put_file": (0, [("p", pointer)]),
        "bpf_copy_from_user_str": (number, []),
        "not_in_the_table": (number, []),
    }
    functions = {name: build.func(name, build.func_proto(*proto)) for name, proto in prototypes.items()}
    return build.build(), functions


KERNEL, FUNCTIONS = _kernel()


@dataclass(frozen=True)
class Row:
    """A program on a tracepoint that gives two tasks and a number: text, and Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""
    to: str = "wakes"
    type: ProgType = ProgType.TRACING
    gpl: bool = True
    privileged: bool = True
    #: What 6.18 says, if it is something else.
    newer: str = ""


UNRELEASED: Final = "Unreleased reference id=1 alloc_insn={}"
LEAK: Final = "BPF_EXIT instruction in main prog would lead to reference leak"
TASK: Final = "r6 = *(u64 *)(r1 + 0); "
ACQUIRE: Final = TASK + "r1 = r6; bpf_task_acquire; if r0 == 0 goto +{0}; "
ITER: Final = "r6 = r10; r6 += -8; r1 = r6; r2 = 0; r3 = 10; bpf_iter_num_new; "
END: Final = "r1 = r6; bpf_iter_num_destroy; r0 = 0; exit"
ROWS: Final = [
    Row("a field of an argument", TASK + "r0 = *(u32 *)(r6 + 0); exit"),
    Row("a number is no pointer", "r1 = *(u64 *)(r1 + 16); r0 = *(u32 *)(r1 + 0); exit", "R1 invalid mem access 'scalar'"),
    Row("there is no fourth argument", "r0 = *(u64 *)(r1 + 24); exit", "invalid bpf_context access off=24 size=8"),
    Row("half of a pointer", "r0 = *(u32 *)(r1 + 0); exit", "invalid bpf_context access off=0 size=4"),
    Row("an argument is not written", "r2 = 0; *(u64 *)(r1 + 0) = r2; r0 = 0; exit", "invalid bpf_context access off=0 size=8"),
    Row(
        "an argument that may be null",
        "r2 = *(u64 *)(r1 + 8); r0 = *(u32 *)(r2 + 0); exit",
        "R2 invalid mem access 'trusted_ptr_or_null_'",
        to="sched_pi_setprio",
    ),
    Row("a walk to the parent", TASK + "r2 = *(u64 *)(r6 + 8); r0 = *(u32 *)(r2 + 0); exit"),
    Row("beyond the struct", TASK + "r0 = *(u64 *)(r6 + 48); exit", "access beyond struct task_struct at off 48 size 8"),
    Row("a hole", TASK + "r0 = *(u32 *)(r6 + 4); exit", "struct task_struct doesn't have field at offset 4"),
    Row("before the struct", TASK + "r0 = *(u64 *)(r6 - 8); exit", "R6 is ptr_task_struct invalid negative access: off=-8"),
    Row(
        "part of a pointer field",
        TASK + "r0 = *(u32 *)(r6 + 8); exit",
        "cannot access ptr member parent with moff 8 in struct task_struct with off 8 size 4",
    ),
    Row("a helper reads a field", TASK + "r1 = r6; r1 += 24; r2 = 8; call 6; r0 = 0; exit"),
    Row(
        "a helper reads beyond a field",
        TASK + "r1 = r6; r1 += 24; r2 = 17; call 6; r0 = 0; exit",
        "access beyond the end of member comm (mend:40) in struct task_struct with off 24 size 17",
    ),
    Row("the kernel is not written", TASK + "r1 = 0; *(u32 *)(r6 + 0) = r1; r0 = 0; exit", "only read is supported"),
    Row(
        "without a GPL licence",
        TASK + "r0 = *(u32 *)(r6 + 0); exit",
        "Cannot access kernel 'struct task_struct' from non-GPL compatible program",
        gpl=False,
    ),
    Row("acquired and released", ACQUIRE.format(2) + "r1 = r0; bpf_task_release; r0 = 0; exit"),
    Row("acquired and not released", ACQUIRE.format(0) + "r0 = 0; exit", UNRELEASED.format(2), newer=LEAK),
    Row(
        "released without a test",
        TASK + "r1 = r6; bpf_task_acquire; r1 = r0; bpf_task_release; r0 = 0; exit",
        "arg#0 is ptr_or_null_ expected ptr_ or socket",
        newer="Possibly NULL pointer passed to trusted arg0",
    ),
    Row(
        "what was not acquired is released",
        TASK + "r1 = r6; bpf_task_release; r0 = 0; exit",
        "release kernel function bpf_task_release expects refcounted PTR_TO_BTF_ID",
    ),
    Row("released twice", ACQUIRE.format(4) + "r7 = r0; r1 = r7; bpf_task_release; r1 = r7; bpf_task_release; r0 = 0; exit", "*"),
    Row(
        "a trusted field is taken",
        TASK + "r1 = *(u64 *)(r6 + 16); bpf_task_acquire; if r0 == 0 goto +2; r1 = r0; bpf_task_release; r0 = 0; exit",
    ),
    Row("a field that is not trusted", TASK + "r1 = *(u64 *)(r6 + 8); bpf_task_acquire; r0 = 0; exit", "R1 must be a rcu pointer"),
    Row("null is acquired", "r1 = 0; bpf_task_acquire; r0 = 0; exit", "Possibly NULL pointer passed to trusted arg0"),
    Row("a number is acquired", "r1 = 1; bpf_task_acquire; r0 = 0; exit", "*"),
    Row("for other program types", "r1 = 0; bpf_put_file; r0 = 0; exit", "calling kernel function bpf_put_file is not allowed"),
    Row(
        "who may not sleep",
        "bpf_copy_from_user_str; r0 = 0; exit",
        "program must be sleepable to call sleepable kfunc bpf_copy_from_user_str",
    ),
    Row("an RCU section", "bpf_rcu_read_lock; bpf_rcu_read_unlock; r0 = 0; exit"),
    Row(
        "an RCU section is left open",
        "bpf_rcu_read_lock; r0 = 0; exit",
        "BPF_EXIT instruction in main prog cannot be used inside bpf_rcu_read_lock-ed region",
    ),
    Row(
        "RCU sections do not nest",
        "bpf_rcu_read_lock; bpf_rcu_read_lock; r0 = 0; exit",
        "nested rcu read lock (kernel function bpf_rcu_read_lock)",
    ),
    Row("RCU is not entered", "bpf_rcu_read_unlock; r0 = 0; exit", "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)"),
    Row(
        "what RCU kept is gone",
        TASK + "r7 = *(u64 *)(r6 + 16); bpf_rcu_read_lock; bpf_rcu_read_unlock; r1 = r7; bpf_task_acquire; r0 = 0; exit",
        "R1 must be a rcu pointer",
    ),
    Row("sections of preemption nest", "bpf_preempt_disable; bpf_preempt_disable; bpf_preempt_enable; bpf_preempt_enable; r0 = 0; exit"),
    Row(
        "preemption stays disabled",
        "bpf_preempt_disable; r0 = 0; exit",
        "BPF_EXIT instruction in main prog cannot be used inside bpf_preempt_disable-ed region",
    ),
    Row("a loop over numbers", ITER + "l: r1 = r6; bpf_iter_num_next; if r0 != 0 goto l; " + END),
    Row(
        "a loop whose sum grows",
        "r7 = 0; " + ITER + "l: r1 = r6; bpf_iter_num_next; if r0 == 0 goto +3; r1 = *(u32 *)(r0 + 0); r7 += r1; goto l; " + END,
    ),
    Row("an element without a test", ITER + "r1 = r6; bpf_iter_num_next; r7 = *(u32 *)(r0 + 0); " + END, "R0 invalid mem access 'scalar'"),
    Row(
        "an element after the iterator ended",
        ITER
        + "r1 = r6; bpf_iter_num_next; r7 = r0; r1 = r6; bpf_iter_num_destroy; if r7 == 0 goto +1; r7 = *(u32 *)(r7 + 0); r0 = 0; exit",
        "R7 invalid mem access 'scalar'",
    ),
    Row(
        "a packet after a kernel function moved it",
        "r6 = r1; r2 = *(u32 *)(r1 + 0); r3 = *(u32 *)(r1 + 4); r7 = r2; r2 += 1; if r2 > r3 goto +4; r1 = r6; r2 = 8; bpf_xdp_pull_data;"
        " r0 = *(u8 *)(r7 + 0); r0 = 0; exit",
        "R7 invalid mem access 'scalar'",
        type=ProgType.XDP,
    ),
    Row("an exception ends the program", "r1 = 0; bpf_throw; r0 = r9; exit"),
    Row(
        "an exception leaves nothing behind",
        TASK + "r1 = r6; bpf_task_acquire; if r0 == 0 goto +2; r1 = 0; bpf_throw; r0 = 0; exit",
        UNRELEASED.format(2),
        newer="bpf_throw would lead to reference leak",
    ),
    Row(
        "an exception in a section",
        "bpf_rcu_read_lock; r1 = 0; bpf_throw; r0 = 0; exit",
        "bpf_throw cannot be used inside bpf_rcu_read_lock-ed region",
    ),
    Row("elements are not written", ITER + "r1 = r6; bpf_iter_num_next; if r0 == 0 goto +2; r1 = 0; *(u32 *)(r0 + 0) = r1; " + END, "*"),
    Row("an iterator is not ended", ITER + "r0 = 0; exit", UNRELEASED.format(5), newer=LEAK),
    Row(
        "an iterator begins twice", ITER + "r1 = r6; r2 = 0; r3 = 1; bpf_iter_num_new; " + END, "expected uninitialized iter_num as arg #0"
    ),
    Row("none was begun", "r6 = r10; r6 += -8; " + END, "expected an initialized iter_num as arg #0"),
    Row("an iterator is overwritten", ITER + "r1 = 0; *(u64 *)(r6 + 0) = r1; " + END, "expected an initialized iter_num as arg #0"),
    Row(
        "the index of an array runs out",
        ITER
        + "r7 = r10; r7 += -24; l: r1 = r6; bpf_iter_num_next; if r0 == 0 goto +4; r7 += -8; r1 = 0; *(u64 *)(r7 + 0) = r1; goto l; "
        + END,
        "*",
    ),
    Row("not allowed with CAP_BPF alone", TASK + "r0 = *(u32 *)(r6 + 0); exit", "*", privileged=False),
]


def _code(row: Row) -> Code:
    text = row.text
    for name, number in FUNCTIONS.items():
        text = text.replace(f"{name};", f"call kfunc#{number};")
    insns = asm(text.replace("l: ", "l:\n").replace("; ", "\n").replace(";", "\n"))
    return Code(
        insns,
        int(row.type),
        name="f",
        gpl=row.gpl,
        attach_type=AttachType.TRACE_RAW_TP,
        kernel_btf=KERNEL,
        attach_to=row.to,
        privileged=row.privileged,
    )


def _judged(row: Row, release: str = "6.12") -> Verdict:
    return verify(_code(row), rules=RULES[release])


@pytest.mark.parametrize("release", ["6.12", "6.18"])
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_kernel_objects_are_judged_by_their_types(row: Row, release: str) -> None:
    verdict = _judged(row, release)
    assert not verdict.unknown
    assert verdict.accepted == (not row.says), verdict.log
    if row.says not in ("", "*"):
        assert verdict.says.split("\n")[-1] == ((release == "6.18" and row.newer) or row.says)


@pytest.mark.parametrize(
    ("row", "feature"),
    [
        (Row("", "r1 = 0; not_in_the_table; r0 = 0; exit"), "calls of not_in_the_table()"),
        (Row("", "call kfunc#9999; r0 = 0; exit"), "calls of functions that are not among the kernel's types"),
        (Row("", TASK + "r0 = 0; exit", to="no_such_tracepoint"), "'no_such_tracepoint', which is not among the kernel's types"),
    ],
)
def test_what_is_not_known_is_not_judged(row: Row, feature: str) -> None:
    verdict = _judged(row)
    assert not verdict.accepted
    assert verdict.unknown == feature


def test_without_the_kernels_types_nothing_is_said_of_its_objects() -> None:
    code = Code(
        asm(TASK.replace("; ", "\n") + "r0 = 0\nexit"), int(ProgType.TRACING), attach_type=AttachType.TRACE_RAW_TP, attach_to="wakes"
    )
    verdict = verify(code, rules=RULES["6.12"])
    assert not verdict.accepted
    assert verdict.unknown == "kernel objects without the types of Linux 6.12"


@pytest.mark.parametrize(
    ("last", "says"), [("r0 = 1", ""), ("r1 = 1; bpf_throw", "bpf_throw kfunc (insn 6) cannot be called from callback subprog 1")]
)
def test_what_is_run_on_an_exception_throws_none(last: str, says: str) -> None:
    build = Builder()
    number = build.integer("unsigned long long", 8)
    proto = build.func_proto(number, [("cookie", number)])
    main, handle = build.func("f", build.func_proto(number, []), linkage=0), build.func("handle", proto, linkage=1)
    build.tag("exception_callback:handle", main)
    text = f"r1 = 0; bpf_throw; r0 = 0; exit; r0 = 0; {last}; r0 = 0; exit".replace("bpf_throw", f"call kfunc#{FUNCTIONS['bpf_throw']}")
    insns = asm(text.replace("; ", "\n"))
    code = Code(insns, int(ProgType.SCHED_CLS), kernel_btf=KERNEL, btf=build.build(), functions=((0, main), (4, handle)))
    assert verify(code, rules=RULES["6.18"]).says.split("\n")[-1] == says


#: Loops, and how many instructions Linux 6.18 walks until they come back to where they were.
LOOPS: Final = [
    ("what is not read any more", "", "l: r1 = r6; bpf_iter_num_next; if r0 != 0 goto l; ", 16),
    (
        "stack that a turn wrote anew",
        "r0 = 0; *(u64 *)(r10 - 32) = r0; ",
        "l: r1 = r6; bpf_iter_num_next; if r0 == 0 goto +3; r1 = 0; *(u64 *)(r10 - 24) = r1; goto l; ",
        32,
    ),
    (
        "stack below all that was there",
        "r0 = 0; ",
        "l: r1 = r6; bpf_iter_num_next; if r0 == 0 goto +3; r1 = 0; *(u64 *)(r10 - 24) = r1; goto l; ",
        20,
    ),
]


@pytest.mark.parametrize(("name", "before", "loop", "walked"), LOOPS, ids=[each[0].replace(" ", "-") for each in LOOPS])
def test_a_loop_comes_back_to_where_it_was(name: str, before: str, loop: str, walked: int) -> None:
    verdict = _judged(Row(name, before + ITER + loop + END), "6.18")
    assert verdict.accepted
    assert verdict.processed == walked
