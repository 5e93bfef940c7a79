"""Interrupts that are disabled, and resilient locks: what may be done inside, and that all is given back in order."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import verify
from ebpf.isa import asm
from ebpf.uapi import MapType, ProgType


def _kernel() -> tuple[Btf, dict[str, int]]:
    """A kernel with the functions of interrupts and resilient locks, and their numbers."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    long = build.integer("unsigned long", 8)
    flag = ("flags__irq_flag", build.ptr(long))
    lock = ("lock", build.ptr(build.struct("bpf_res_spin_lock", 4, [("val", number, 0)])))
    it = build.ptr(build.struct("bpf_iter_num", 8, [("__opaque", long, 0)]))
    prototypes = {
        "bpf_local_irq_save": (0, [flag]),
        "bpf_local_irq_restore": (0, [flag]),
        "bpf_res_spin_lock": (number, [lock]),
        "bpf_res_spin_unlock": (0, [lock]),
        "bpf_res_spin_lock_irqsave": (number, [lock, flag]),
        "bpf_res_spin_unlock_irqrestore": (0, [lock, flag]),
        "bpf_rcu_read_lock": (0, []),
        "bpf_rcu_read_unlock": (0, []),
        "bpf_iter_num_new": (number, [("it", it), ("start", number), ("end", number)]),
        "bpf_iter_num_destroy": (0, [("it", it)]),
    }
    functions = {name: build.func(name, build.func_proto(*proto)) for name, proto in prototypes.items()}
    return build.build(), functions


KERNEL, FUNCTIONS = _kernel()


def _at(off: int) -> str:
    return f"r1 = r10; r1 += {off}; "


def _save(off: int) -> str:
    return _at(off) + "bpf_local_irq_save; "


def _restore(off: int) -> str:
    return _at(off) + "bpf_local_irq_restore; "


#: r8 and r9 are locks in two values of one map.
LOCKS: Final = "".join(
    f"*(u32 *)(r10 - 4) = {key}; r2 = r10; r2 += -4; r1 = LOCKS; call 1; if r0 == 0 goto end; r{reg} = r0; "
    for key, reg in ((0, 8), (1, 9))
)
END: Final = "end: r0 = 0; exit"


def _lock(reg: int, *, irq: int = 0) -> str:
    return f"r1 = r{reg}; " + (f"r2 = r10; r2 += {irq}; bpf_res_spin_lock_irqsave; " if irq else "bpf_res_spin_lock; ")


def _unlock(reg: int, *, irq: int = 0) -> str:
    return f"r1 = r{reg}; " + (f"r2 = r10; r2 += {irq}; bpf_res_spin_unlock_irqrestore; " if irq else "bpf_res_spin_unlock; ")


FAILED: Final = "if r0 != 0 goto end; "


@dataclass(frozen=True)
class Row:
    """A program: text, the last line of Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""
    type: ProgType = ProgType.SCHED_CLS


_OPEN: Final = "cannot be used inside bpf_local_irq_save-ed region"
ROWS: Final = [
    Row("flags in the opposite order", _save(-8) + _save(-16) + _restore(-16) + _restore(-8) + END),
    Row(
        "flags in their order",
        _save(-8) + _save(-16) + _restore(-8) + _restore(-16) + END,
        "cannot restore irq state out of order, expected id=2 acquired at insn_idx=5",
    ),
    Row("interrupts stay disabled", _save(-8) + END, f"BPF_EXIT instruction in main prog {_OPEN}"),
    Row("a flag is saved twice", _save(-8) + _save(-8) + END, "expected uninitialized irq flag as arg#0"),
    Row("a flag is restored twice", _save(-8) + _restore(-8) + _restore(-8) + END, "expected an initialized irq flag as arg#0"),
    Row("a flag is overwritten", _save(-8) + "*(u64 *)(r10 - 8) = 0; " + _restore(-8) + END, "expected an initialized irq flag as arg#0"),
    Row("a byte of a flag is", _save(-8) + "*(u8 *)(r10 - 7) = 0; " + _restore(-8) + END, "expected an initialized irq flag as arg#0"),
    Row("a flag is no number to read", _save(-8) + "r0 = *(u64 *)(r10 - 8); " + END, "invalid read from stack off -8+0 size 8"),
    Row("a flag beside the stack", "bpf_local_irq_save; " + END, "arg#0 doesn't point to an irq flag on stack"),
    Row("a flag between slots", _save(-12) + END, "expected uninitialized irq flag as arg#0"),
    Row(
        "a flag is no iterator",
        _at(-8) + "r2 = 0; r3 = 9; bpf_iter_num_new; " + _restore(-8) + END,
        "expected an initialized irq flag as arg#0",
    ),
    Row("a helper that sleeps not", _save(-8) + "call 7; " + _restore(-8) + END),
    Row("a tail call", "r6 = r1; " + _save(-8) + "r1 = r6; r2 = JUMPS; r3 = 0; call 12; " + _restore(-8) + END, f"tail_call {_OPEN}"),
    Row(
        "a tail call under RCU",
        "r6 = r1; bpf_rcu_read_lock; r1 = r6; r2 = JUMPS; r3 = 0; call 12; bpf_rcu_read_unlock; " + END,
        "tail_call cannot be used inside bpf_rcu_read_lock-ed region",
    ),
    Row("a load that may end it", "r6 = r1; " + _save(-8) + "r0 = *(u8 *)skb[0]; " + _restore(-8) + END, f"BPF_LD_[ABS|IND] {_OPEN}"),
    Row(
        "a branch that restores nothing",
        _save(-8) + "call 7; if r0 == 0 goto end; " + _restore(-8) + END,
        f"BPF_EXIT instruction in main prog {_OPEN}",
    ),
    Row("a lock", LOCKS + _lock(8) + FAILED + _unlock(8) + END),
    Row("a lock that is not had is not given back", LOCKS + _lock(8) + _unlock(8) + END, "bpf_res_spin_unlock without taking a lock"),
    Row(
        "what a lock that is not had returns",
        LOCKS + _lock(8) + "if r0 s> 0 goto bad; if r0 s< -4095 goto bad; " + FAILED + _unlock(8) + END + "; bad: r0 = r7; exit",
    ),
    Row("two locks", LOCKS + _lock(8) + FAILED + _lock(9) + "r7 = r0; if r7 != 0 goto +2; " + _unlock(9) + _unlock(8) + END),
    Row(
        "two locks in their order",
        LOCKS + _lock(8) + FAILED + _lock(9) + "if r0 != 0 goto +5; " + _unlock(8) + _unlock(9) + "goto end; " + _unlock(8) + END,
        "bpf_res_spin_unlock cannot be out of order",
    ),
    Row("a lock twice", LOCKS + _lock(8) + FAILED + _lock(8) + END, "Acquiring the same lock again, AA deadlock detected"),
    Row("another lock", LOCKS + _lock(8) + FAILED + _unlock(9) + END, "bpf_res_spin_unlock of different lock"),
    Row("a lock is kept", LOCKS + _lock(8) + END, "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region"),
    Row(
        "a helper inside", LOCKS + _lock(8) + FAILED + "call 7; " + _unlock(8) + END, "function calls are not allowed while holding a lock"
    ),
    Row(
        "a lock on the stack",
        _at(-8) + "*(u64 *)(r10 - 8) = 0; bpf_res_spin_lock; " + END,
        "arg#0 doesn't point to map value or allocated object",
    ),
    Row("beside a lock", LOCKS + "r8 += 4; " + _lock(8) + END, "off 4 doesn't point to 'struct bpf_res_spin_lock' that is at 0"),
    Row(
        "a lock is no number to read",
        LOCKS + "r0 = *(u32 *)(r8 + 0); " + END,
        "bpf_res_spin_lock cannot be accessed directly by load/store",
    ),
    Row("a lock with interrupts disabled", LOCKS + _lock(8, irq=-16) + FAILED + _unlock(8, irq=-16) + END),
    Row(
        "its flag is not restored alone",
        LOCKS + _lock(8, irq=-16) + FAILED + _restore(-16) + END,
        "function calls are not allowed while holding a lock",
    ),
    Row("nor the lock without it", LOCKS + _lock(8, irq=-16) + FAILED + _unlock(8) + END, "bpf_res_spin_unlock of different lock"),
    Row(
        "with a flag of another's",
        LOCKS + _save(-24) + _lock(8, irq=-16) + "if r0 != 0 goto +4; " + _unlock(8, irq=-24) + _restore(-24) + END,
        "irq flag acquired by native kfuncs cannot be restored with lock kfuncs",
    ),
    Row("socket filters have none", LOCKS + END, "socket filter progs cannot use bpf_spin_lock yet", ProgType.SOCKET_FILTER),
    Row("programs that trace have none", LOCKS + END, "tracing progs cannot use bpf_spin_lock yet", ProgType.KPROBE),
]


def _judged(row: Row) -> Verdict:
    text = row.text.replace("LOCKS;", "map[id:5];").replace("JUMPS;", "map[id:6];")
    for name, number in FUNCTIONS.items():
        text = text.replace(f"{name};", f"call kfunc#{number};")
    insns = asm(text.replace("end: ", "end:\n").replace("bad: ", "bad:\n").replace("; ", "\n"))
    maps = {
        5: MapDesc(5, MapType.ARRAY, 4, 8, 2, name="locks", special=((0, "bpf_res_spin_lock", 4),), typed=True),
        6: MapDesc(6, MapType.PROG_ARRAY, 4, 4, 1),
    }
    return verify(Code(insns, int(row.type), maps, "f", gpl=True, kernel_btf=KERNEL))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_what_is_begun_is_ended_in_order(row: Row) -> None:
    verdict = _judged(row)
    assert not verdict.unknown
    assert verdict.accepted == (not row.says), verdict.log
    assert verdict.says.split("\n")[-1] == row.says
