"""Memory that may be anything: what bpf_rdonly_cast() gives, and what a function's argument tagged untrusted points to."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import asm
from ebpf.uapi import AttachType, ProgType


def _kernel() -> tuple[Btf, int]:
    """A kernel of tasks, and the number of its bpf_rdonly_cast()."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    task = build.struct("task_struct", 8, [("pid", number, 0), ("tgid", number, 4)])
    pointer = build.ptr(0)
    build.typedef("btf_trace_wakes", build.ptr(build.func_proto(0, [("__data", pointer), ("p", build.ptr(task))])))
    cast = build.func("bpf_rdonly_cast", build.func_proto(pointer, [("obj__ign", pointer), ("btf_id__k", number)]))
    return build.build(), cast


KERNEL, CAST = _kernel()
CASTED: Final = f"r1 = 0; r2 = 0; call kfunc#{CAST}; "


def _program(argument: str, *tags: str) -> tuple[Btf, tuple[int, int]]:
    """Types of a program whose function takes a pointer to a task, an int, void or a struct that the kernel has not."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    what = {
        "task": build.struct("task_struct", 8, [("pid", number, 0), ("tgid", number, 4)]),
        "int": number,
        "void": 0,
        "own": build.struct("of_my_own", 4, [("x", number, 0)]),
    }[argument]
    main = build.func("main", build.func_proto(number, [("ctx", build.ptr(0))]), 1)
    function = build.func("f", build.func_proto(number, [("p", build.ptr(what))]), 1)
    for tag in tags:
        build.tag(f"arg:{tag}", function, 0)
    return build.build(), (main, function)


@dataclass(frozen=True)
class Row:
    """A program on a tracepoint that gives a task: text, Linux's words ("": accepted), its function's argument and its tags."""

    name: str
    text: str
    says: str = ""
    argument: str = ""
    tags: tuple[str, ...] = ("untrusted",)


def _calls(first: str, function: str) -> str:
    """A program that gives `first` in r1 to a function, which is all that follows."""
    return f"{first}call f; exit; {function}"


READS: Final = "r0 = *(u32 *)(r1 + 0); exit"
ROWS: Final = [
    Row("it is read", CASTED + "r0 = *(u8 *)(r0 + 32767); exit"),
    Row("it is not written", CASTED + "r1 = 1; *(u32 *)(r0 + 0) = r1; r0 = 0; exit", "R0 cannot write into rdonly_untrusted_mem"),
    Row("where it points is not followed", CASTED + "r0 += 1000000; r0 *= 3; r0 = *(u8 *)(r0 + 0); exit"),
    Row("a number plus it is a number", CASTED + "r1 = 0; r1 += r0; r0 = *(u8 *)(r1 + 0); exit", "R1 invalid mem access 'scalar'"),
    Row(
        "a load of it or of an object",
        f"r6 = 0; r1 = *(u64 *)(r1 + 0); r7 = *(u32 *)(r1 + 0); if r7 == 0 goto l; {CASTED}r6 = r0; goto m; l: r6 = r1; "
        "m: r0 = *(u32 *)(r6 + 0); exit",
    ),
    Row(
        "a load of it or of the context",
        f"r6 = r1; r7 = *(u64 *)(r1 + 0); r7 = *(u32 *)(r7 + 0); if r7 == 0 goto l; {CASTED}r6 = r0; l: r0 = *(u64 *)(r6 + 0); r0 = 0; exit",
        "same insn cannot be used with different pointers",
    ),
    Row("anything is given for a task", _calls("r1 = 7; ", READS), argument="task"),
    Row("anything is given for a number", _calls("r1 = r10; ", READS), argument="int"),
    Row("anything is given for void", _calls("r1 = *(u64 *)(r1 + 0); ", READS), argument="void"),
    Row(
        "what was given is not written",
        _calls("", "*(u32 *)(r1 + 0) = 1; r0 = 0; exit"),
        "R1 cannot write into rdonly_untrusted_mem",
        "int",
    ),
    Row("a task is not written", _calls("", "*(u32 *)(r1 + 0) = 1; r0 = 0; exit"), "only read is supported", "task"),
    Row(
        "it is of no type of the kernel",
        _calls("", READS),
        "arg#0 reference type('STRUCT of_my_own') has no matches\nCaller passes invalid args into func#1 ('f')",
        "own",
    ),
    Row(
        "no other tag goes with it",
        _calls("", READS),
        "arg#0 untrusted cannot be combined with any other tags\nCaller passes invalid args into func#1 ('f')",
        "task",
        ("untrusted", "nullable"),
    ),
]


def _judged(row: Row, release: str = "6.18") -> Verdict:
    lines = row.text.replace("l: ", "l:\n").replace("m: ", "m:\n").replace("; ", "\n")
    if not row.argument:
        return verify(_code(lines, (), None), rules=RULES[release])
    before = lines.split("call f\n")[0].count("\n")
    btf, (main, function) = _program(row.argument, *row.tags)
    lines = lines.replace("call f\n", "call pc+1\n")
    return verify(_code(lines, ((0, main), (before + 2, function)), btf), rules=RULES[release])


def _code(lines: str, functions: tuple[tuple[int, int], ...], btf: Btf | None) -> Code:
    return Code(
        asm(lines),
        int(ProgType.TRACING),
        name="main",
        gpl=True,
        attach_type=AttachType.TRACE_RAW_TP,
        kernel_btf=KERNEL,
        attach_to="wakes",
        btf=btf,
        functions=functions,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_memory_that_may_be_anything_is_read_alone(row: Row) -> None:
    verdict = _judged(row)
    assert not verdict.unknown
    assert verdict.accepted == (not row.says), verdict.log
    assert verdict.says == row.says


def test_its_loads_may_fault() -> None:
    assert _judged(ROWS[0]).btf_loads == {3}


def test_older_linux_has_none_of_it() -> None:
    assert _judged(ROWS[0], "6.12").says == "kfunc bpf_rdonly_cast type ID argument must be of a struct"
    assert _judged(ROWS[6], "6.12").unknown == "arguments of global functions tagged untrusted"
