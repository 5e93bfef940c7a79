"""How older releases say the same, and which opcodes they know."""

import pytest

from ebpf.engine.program import Code
from ebpf.engine.verifier import RULES, verify
from ebpf.engine.verifier.known_opcodes import known
from ebpf.engine.verifier.words import said
from ebpf.isa import Insn, asm
from ebpf.isa.opcodes import GOTOL, LD_IMM64, MAY_GOTO
from ebpf.uapi import ProgType


@pytest.mark.parametrize(
    ("newest", "middle", "old"),
    [
        ("misaligned stack access off 0+0+-31 size 8", "", "misaligned stack access off (0x0; 0x0)+0+-31 size 8"),
        ("R1 type=ctx expected=sock, ptr_, trusted_ptr_", "", "R1 type=ctx expected=sock, ptr_"),
        ("R1 type=ctx expected=ptr_, trusted_ptr_, rcu_ptr_", "", "R1 type=ctx expected=ptr_"),
        ("R1 type=ctx expected=percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_", "", "R1 type=ctx expected=percpu_ptr_"),
        ("R1 type=ctx expected=fp, mem, ringbuf_mem, buf, trusted_ptr_", "", "R1 type=ctx expected=fp, mem, alloc_mem, buf"),
        ("infinite loop detected at insn 3\ncur state: R0=0\nold state: R0=0", "", "infinite loop detected at insn 3"),
        ("tail_call would lead to reference leak", "", ""),
        ("Unreleased\nBPF_EXIT instruction in main prog would lead to reference leak", "Unreleased", "Unreleased"),
        ("R1 invalid mem access 'scalar'", "", ""),
    ],
)
def test_each_release_has_its_words(newest: str, middle: str, old: str) -> None:
    assert said(RULES["6.18"], newest) == newest
    assert said(RULES["6.12"], newest) == (middle or newest)
    assert said(RULES["6.1"], newest) == (old or middle or newest)


def test_a_release_knows_the_opcodes_of_the_one_before_it() -> None:
    old, middle, new = (known(RULES[release]) for release in ("6.1", "6.12", "6.18"))
    assert old < middle < new
    assert {int(LD_IMM64), 0x07, 0x85, 0x95, 0xDB} <= old
    assert not {0x00, 0x0D, 0x8C, 0x8D, 0x96, 0xFF} & new
    assert {int(GOTOL), int(MAY_GOTO), 0xD7} <= middle - old


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Insn(0x2D, 2, 1, 0, 7), "R2 !read_ok"),
        (Insn(0x2D, 1, 1, 0, 7), "BPF_JMP/JMP32 uses reserved fields"),
        (Insn(0x20, 0, 3), "BPF_LD_[ABS|IND] instructions not allowed for this program type"),
        (Insn(0x01, 0, 1), "BPF_LDX uses reserved fields"),
        (Insn(0x62 ^ 0x60, 10, 0, -8), "unknown opcode 02"),
        (Insn(0xB4, 0, 0, 8), "BPF_MOV uses reserved fields"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_wrong_is_found_in_linuxs_order(wrong: Insn, says: str) -> None:
    for rules in RULES.values():
        assert verify(Code((wrong, *asm("r0 = 0\nexit")), int(ProgType.XDP)), rules=rules).says == says
