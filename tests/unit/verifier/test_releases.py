"""What 6.1 and 6.12 judge otherwise than the newest, each by the smallest program that tells them apart."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf.build import Builder
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import asm
from ebpf.uapi import AttachType, MapType, ProgType

TC, KPROBE, XDP = ProgType.SCHED_CLS, ProgType.KPROBE, ProgType.XDP
PLAIN, LOCKED, TIMED = 1, 2, 3
MAPS: Final = {
    PLAIN: MapDesc(PLAIN, int(MapType.HASH), 4, 8, 1),
    LOCKED: MapDesc(LOCKED, int(MapType.HASH), 4, 8, 1, special=((4, "bpf_spin_lock", 4),), typed=True),
    TIMED: MapDesc(TIMED, int(MapType.ARRAY), 4, 16, 1, special=((0, "bpf_timer", 16),), typed=True),
}
ATTACHED: Final = {ProgType.NETFILTER: AttachType.NETFILTER, ProgType.CGROUP_SOCK_ADDR: AttachType.CGROUP_UNIX_CONNECT}
#: Slot 0 to 7: a value of the map in r0, or the end.
LOOKUP: Final = "*(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = map[id:{}]; call 1; if r0 != 0 goto +2; r0 = 0; exit; "
#: A packet of 20 bytes, if r4 is 20.
PACKET: Final = "r2 = *(u32 *)(r1 + 76); r3 = *(u32 *)(r1 + 80); w4 = 20; *(u32 *)(r10 - 8) = r4; "
CHECKED: Final = "r0 = r2; r0 += r4; if r0 > r3 goto +1; r0 = *(u32 *)(r2 + 0); r0 = 0; exit"
OUTSIDE: Final = "R2 offset is outside of the packet"


@dataclass(frozen=True)
class Row:
    """A program, and Linux's last words by release ("": accepted) from the oldest on; one that is not named is as the one before it."""

    name: str
    text: str
    says: dict[str, str]
    type: ProgType = TC


ROWS: Final = [
    Row("a part of a number on the stack", PACKET + "r4 = *(u16 *)(r10 - 8); " + CHECKED, {"6.1": OUTSIDE, "6.12": ""}),
    Row("all of it", PACKET + "r4 = *(u32 *)(r10 - 8); " + CHECKED, {"6.1": ""}),
    Row(
        "a key that a helper has read",
        "r6 = *(u32 *)(r1 + 76); r7 = *(u32 *)(r1 + 80); "
        "*(u32 *)(r10 - 8) = 20; r2 = r10; r2 += -8; r1 = map[id:1]; call 1; "
        "r4 = *(u32 *)(r10 - 8); r2 = r6; r3 = r7; " + CHECKED,
        {"6.1": OUTSIDE, "6.12": ""},
    ),
    Row(
        "a lock is left to the caller",
        LOOKUP.format(LOCKED) + "r6 = r0; r1 = r0; r1 += 4; call pc+5; r1 = r6; r1 += 4; call 94; r0 = 0; exit; call 93; r0 = 0; exit",
        {"6.1": "bpf_spin_unlock is missing", "6.12": ""},
    ),
    Row(
        "a timer that sets itself anew",
        LOOKUP.format(TIMED) + "r1 = r0; r2 = subprog[+4]; call 170; r0 = 0; exit; r1 = r3; r2 = subprog[-2]; call 170; r0 = 0; exit",
        {"6.1": ""},
    ),
    Row(
        "a pointer that equals another one",
        LOOKUP.format(PLAIN) + "r6 = r0; *(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = map[id:1]; call 1; "
        "if r0 != r6 goto +1; r1 = *(u64 *)(r0 + 0); r0 = 0; exit",
        {"6.1": "R0 invalid mem access 'map_value_or_null'", "6.12": ""},
    ),
    Row(
        "functions that need 256 and 250 bytes",
        "r6 = r1; *(u64 *)(r10 - 256) = 1; call pc+2; r0 = 0; exit; *(u64 *)(r10 - 248) = 1; call pc+2; r0 = 0; exit; r0 = 0; exit",
        {"6.1": "combined stack size of 3 calls is 544. Too large", "6.12": ""},
    ),
    Row(
        "writes to a task's memory",
        "r1 = 0; r2 = r10; r2 += -8; *(u64 *)(r2 + 0) = 0; r3 = 8; call 36; r0 = 0; exit",
        {"6.1": "", "6.18": "*"},
        KPROBE,
    ),
    Row("which of two CPUs", "call 8; if r0 < 2 goto +1; r10 = 0; r0 = 0; exit", {"6.1": "frame pointer is read only", "6.12": ""}),
    Row("nothing of what is beyond the stack", "r1 = r10; r2 = 0; r3 = r10; r4 = 0; r5 = 0; call 28; r0 = 0; exit", {"6.1": "*"}),
    Row(
        "the elements of two maps",
        "r6 = r1; r1 = map[id:1]; r0 = *(u32 *)(r6 + 0); if r0 == 0 goto +2; r1 = map[id:2]; "
        "r2 = subprog[+6]; r3 = 0; r4 = 0; call 164; r0 = 0; exit; r0 = 0; exit",
        {"6.1": "tail_call abusing map_ptr", "6.12": ""},
    ),
    Row(
        "a field that is newer",
        "r0 = *(u64 *)(r1 + 216); r0 = 1; exit",
        {"6.1": "invalid bpf_context access off=216 size=8", "6.12": ""},
        ProgType.SOCK_OPS,
    ),
    Row("a way to attach that is newer", "r0 = 1; exit", {"6.1": "attach type is unknown", "6.12": ""}, ProgType.CGROUP_SOCK_ADDR),
    Row("a program of netfilter", "r0 = 1; exit", {"6.1": "program type netfilter is unknown", "6.12": ""}, ProgType.NETFILTER),
]


def _judged(row: Row, release: str) -> Verdict:
    attach = int(ATTACHED.get(row.type, 0))
    return verify(Code(asm(row.text.replace("; ", "\n")), int(row.type), MAPS, attach_type=attach, cpus=2), rules=RULES[release])


@pytest.mark.parametrize("release", RULES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_each_release_judges_as_it_does(row: Row, release: str) -> None:
    verdict = _judged(row, release)
    says = next(words for since, words in reversed(row.says.items()) if RULES[release].has(since))
    assert not verdict.unknown
    assert verdict.accepted == (not says), verdict.log
    assert says == "*" or verdict.says.split("\n")[-1] == says


def test_6_1_trusts_what_is_read_from_an_object() -> None:
    build = Builder()
    number = build.integer("int", 4, signed=True)
    task = build.struct("task_struct", 16, [("pid", number, 0), ("parent", 3, 8)])
    pointer = build.ptr(task)
    assert (task, pointer) == (2, 3)
    build.func("bpf_iter_task", build.func_proto(number, [("meta", pointer), ("task", pointer)]))
    build.struct("pt_regs", 8, [("ax", number, 0)])
    kernel = build.build()
    says = {}
    for width in ("u64", "u32"):
        text = f"r1 = *({width} *)(r1 + 8)\nif r1 == 0 goto +2\nr1 = *(u64 *)(r1 + 8)\ncall 175\nr0 = 0\nexit"
        for release in RULES:
            attach = int(AttachType.TRACE_ITER)
            code = Code(asm(text), int(ProgType.TRACING), attach_type=attach, attach_to="task", kernel_btf=kernel, sleepable=True)
            says[width, release] = verify(code, rules=RULES[release]).says
    assert says["u64", "6.1"] == ""
    assert "untrusted_ptr_" in says["u64", "6.12"]
    assert says["u32", "6.12"] == says["u32", "6.18"] == "invalid bpf_context access off=8 size=4"


SAVES: Final = "*(u64 *)(r10 - 8) = r1; call 8; r1 = *(u64 *)(r10 - 8); "


@pytest.mark.parametrize(
    ("inner", "fits"),
    [
        (SAVES + "exit", True),
        (SAVES.replace("call 8", "call 7") + "exit", False),
        (SAVES + SAVES.replace("call 8", "call 7") + "exit", False),
        (SAVES + "r0 = *(u64 *)(r10 - 8); exit", False),
        ("if r1 == 0 goto +1; " + SAVES + "exit", False),
        (SAVES + "*(u64 *)(r10 - 16) = r1; exit", False),
    ],
    ids=["only saved", "no such helper", "one of two", "read besides", "a jump into it", "not the lowest"],
)
def test_registers_saved_around_some_calls_take_no_stack(inner: str, *, fits: bool) -> None:
    text = "r1 = 42; *(u64 *)(r10 - 512) = r1; call pc+2; r0 = 0; exit; " + inner
    code = Code(asm(text.replace("; ", "\n")), int(XDP))
    assert not verify(code, rules=RULES["6.1"]).accepted
    for release in ("6.12", "6.18"):
        verdict = verify(code, rules=RULES[release])
        assert verdict.accepted == (fits or (release == "6.18" and inner.startswith("if")))
        assert verdict.accepted or "combined stack size" in verdict.says


DYNPTR: Final = LOOKUP.format(PLAIN) + "r1 = r0; r2 = 8; r3 = 0; r4 = r10; r4 += -24; call 197; "
READ: Final = "r1 = r10; r1 += -8; r2 = 8; r3 = r10; r3 += -24; r4 = 0; r5 = 0; call 201; r0 = 0; exit"


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (DYNPTR + READ, "", ""),
        (DYNPTR + "*(u64 *)(r10 - 16) = 0; " + READ, "*", "*"),
        (DYNPTR + DYNPTR + READ, "Dynptr has to be an uninitialized dynptr", ""),
        (
            "r1 = map[id:4]; r2 = 8; r3 = 0; r4 = r10; r4 += -24; call 198; *(u64 *)(r10 - 24) = 0; r1 = r10; r1 += -24; r2 = 0; call 200; r0 = 0; exit",
            "*",
            "cannot overwrite referenced dynptr",
        ),
    ],
    ids=["read", "overwritten", "begun twice", "one that must be given back"],
)
def test_6_1_does_not_watch_dynptrs(text: str, old: str, new: str) -> None:
    maps = {**MAPS, 4: MapDesc(4, int(MapType.RINGBUF), 0, 0, 4096)}
    for release in RULES:
        verdict = verify(Code(asm(text.replace("; ", "\n")), int(KPROBE), maps), rules=RULES[release])
        says = old if release == "6.1" else new
        assert verdict.accepted == (not says), verdict.log
        assert says in ("", "*") or says == verdict.says.split("\n")[-1]
    assert "cannot overwrite" not in verify(Code(asm(text.replace("; ", "\n")), int(KPROBE), maps), rules=RULES["6.1"]).says
