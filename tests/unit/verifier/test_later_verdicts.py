"""Functions that are run later: by timers, work queues and task work; they begin anew, and may sleep or not whatever begins them."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import asm
from ebpf.uapi import MapType, ProgType


def _kernel() -> tuple[Btf, dict[str, int]]:
    """A kernel with work queues and task work, and the numbers of its functions."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    void = build.ptr(0)
    task = ("task", build.ptr(build.struct("task_struct", 4, [("pid", number, 0)])))
    wq = ("wq", build.ptr(build.struct("bpf_wq", 16, [("val", number, 0)])))
    work = ("tw", build.ptr(build.struct("bpf_task_work", 16, [("val", number, 0)])))
    run = ("callback", build.ptr(build.func_proto(number, [("map", void), ("key", void), ("value", void)])))
    prototypes = {
        "bpf_wq_init": (number, [wq, ("p__map", void), ("flags", number)]),
        "bpf_wq_set_callback_impl": (number, [wq, run, ("flags", number), ("aux__prog", void)]),
        "bpf_wq_start": (number, [wq, ("flags", number)]),
        "bpf_task_work_schedule_signal_impl": (number, [task, work, ("map__map", void), run, ("aux__prog", void)]),
        "bpf_copy_from_user_str": (number, [("dst", void), ("dst__sz", number), ("unsafe_ptr__ign", void), ("flags", number)]),
        "bpf_preempt_disable": (0, []),
        "bpf_preempt_enable": (0, []),
    }
    functions = {name: build.func(name, build.func_proto(*proto)) for name, proto in prototypes.items()}
    return build.build(), functions


KERNEL, FUNCTIONS = _kernel()
TIMERS, QUEUES, OTHERS, WORKS = 5, 6, 7, 8
SLEEPS: Final = "r1 = r10; r1 += -8; r2 = 8; r3 = 0; r4 = 0; bpf_copy_from_user_str; r0 = 0; exit"


def _value(map_: int) -> str:
    """A program's beginning: r6 is the value of a map."""
    return f"*(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = map[id:{map_}]; call 1; if r0 == 0 goto end; r6 = r0; "


def _timer(function: str) -> str:
    return _value(TIMERS) + "r1 = r6; r2 = func f; call 170; end: r0 = 0; exit; f: " + function


def _queue(function: str, before: str = "", after: str = "") -> str:
    return (
        f"{_value(QUEUES)}{before}r1 = r6; r2 = func f; r3 = 0; r4 = 0; bpf_wq_set_callback_impl; {after}end: r0 = 0; exit; f: {function}"
    )


def _work(function: str, map_: int = WORKS) -> str:
    call = f"call 158; r1 = r0; r2 = r6; r3 = map[id:{map_}]; r4 = func f; bpf_task_work_schedule_signal_impl; "
    return f"{_value(WORKS)}{call}end: r0 = 0; exit; f: {function}"


def _init(map_: int, first: str = "r1 = r6; ") -> str:
    return f"{_value(QUEUES)}{first}r2 = map[id:{map_}]; r3 = 0; bpf_wq_init; end: r0 = 0; exit"


@dataclass(frozen=True)
class Row:
    """A program and, after `f:`, its function: text, the last line of Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""
    type: ProgType = ProgType.SCHED_CLS


_ASLEEP: Final = "program must be sleepable to call sleepable kfunc bpf_copy_from_user_str"
ROWS: Final = [
    Row("a timer", _timer("r0 = 0; exit")),
    Row("a timer must not sleep", _timer(SLEEPS), _ASLEEP),
    Row("not even where the program may", _timer(SLEEPS), _ASLEEP, ProgType.SYSCALL),
    Row("a work queue may", _queue(SLEEPS)),
    Row("task work may", _work(SLEEPS), "", ProgType.PERF_EVENT),
    Row(
        "a queue returns 0", _queue("r0 = 1; exit"), "At async callback return the register R0 has smin=1 smax=1 should have been in [0, 0]"
    ),
    Row("task work returns what it likes", _work("r0 = 1; exit"), "", ProgType.PERF_EVENT),
    Row("it has the value", _queue("r0 = *(u32 *)(r3 + 16); r0 = 0; exit")),
    Row("and not more", _queue("r0 = *(u32 *)(r3 + 24); exit"), "R3 min value is outside of the allowed memory range"),
    Row("and no registers of the program's", _queue("r0 = r6; exit"), "R6 !read_ok"),
    Row("it begins outside of sections", _queue(SLEEPS, "bpf_preempt_disable; ", "bpf_preempt_enable; ")),
    Row(
        "it leaves its own",
        _queue("bpf_preempt_disable; r0 = 0; exit"),
        "BPF_EXIT instruction in main prog cannot be used inside bpf_preempt_disable-ed region",
    ),
    Row(
        "a reference of the program's is not its",
        "r1 = map[id:9]; r2 = 8; r3 = 0; call 131; if r0 == 0 goto end; r7 = r0; "
        + _value(QUEUES).replace("goto end", "goto give")
        + "r1 = r6; r2 = func f; r3 = 0; r4 = 0; bpf_wq_set_callback_impl; give: r1 = r7; r2 = 0; call 133; end: r0 = 0; exit; f: r0 = 0; exit",
    ),
    Row(
        "no function",
        _queue("r0 = 0; exit").replace("r2 = func f", "r2 = 0").partition("f: ")[0],
        "Possibly NULL pointer passed to trusted arg1",
    ),
    Row("a queue begins with its map", _init(QUEUES)),
    Row(
        "and with no other",
        _init(OTHERS),
        "workqueue pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0",
    ),
    Row("a queue on the stack", _init(QUEUES, "r1 = r10; r1 += -24; "), "arg#0 doesn't point to a map value"),
    Row("beside a queue", _init(QUEUES, "r1 = r6; r1 += 4; "), "off 4 doesn't point to 'struct bpf_wq' that is at 0"),
    Row(
        "a queue is no number to read",
        _value(QUEUES) + "r0 = *(u32 *)(r6 + 0); end: r0 = 0; exit",
        "bpf_wq cannot be accessed directly by load/store",
    ),
    Row("programs that trace have no queues", _init(QUEUES), "tracing progs cannot use bpf_wq yet", ProgType.KPROBE),
    Row("but task work", _work("r0 = 0; exit"), "", ProgType.KPROBE),
]


def _linked(lines: list[str]) -> list[str]:
    """The lines with the distance to the function where its address is taken."""
    slots, at = {}, 0
    for line in lines:
        slots[line] = at
        at += 0 if line.endswith(":") else 2 if "[id:" in line or "func f" in line else 1
    return [line.replace("func f", f"subprog[{slots.get('f:', 0) - slots[line] - 1:+d}]") for line in lines]


def _judged(row: Row, release: str = "6.18") -> Verdict:
    text = row.text
    for name, number in FUNCTIONS.items():
        text = text.replace(f"{name};", f"call kfunc#{number};")
    for label in ("end", "f", "give"):
        text = text.replace(f" {label}: ", f" {label}:\n")
    fields = {TIMERS: "bpf_timer", QUEUES: "bpf_wq", OTHERS: "bpf_wq", WORKS: "bpf_task_work"}
    maps = {fd: MapDesc(fd, MapType.ARRAY, 4, 24, 2, name="m", special=((0, what, 16),), typed=True) for fd, what in fields.items()}
    maps[9] = MapDesc(9, MapType.RINGBUF, 0, 0, 4096)
    insns = asm("\n".join(_linked(text.replace("; ", "\n").split("\n"))))
    sleepable = row.type == ProgType.SYSCALL
    return verify(Code(insns, int(row.type), maps, "p", gpl=True, kernel_btf=KERNEL, sleepable=sleepable), rules=RULES[release])


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_what_is_run_later_is_judged_apart(row: Row) -> None:
    verdict = _judged(row)
    assert not verdict.unknown
    assert verdict.accepted == (not row.says), verdict.log
    assert verdict.says.split("\n")[-1] == row.says


def test_in_older_linux_a_timer_sleeps_where_the_program_may() -> None:
    assert _judged(ROWS[2], "6.12").accepted
