"""The disassembly of every instruction is what Linux's verifier writes in its log."""

import os
import re
from dataclasses import replace

import pytest
from every_insn import EVERY, name

from ebpf.isa import OPCODES, Form, Insn, asm, disasm_one, encode
from ebpf.isa.opcodes import EXIT
from ebpf.uapi import HELPERS
from support import linux_bpf

_JUMPS = {Form.JUMP, Form.JUMP_WIDE, Form.BRANCH, Form.BRANCH_IMM}


def _reachable(insn: Insn) -> Insn:
    """Its jump to the next instruction, so that the control flow is sound."""
    form = OPCODES[insn.opcode].form
    return replace(insn, off=0, **({"imm": 0} if form is Form.JUMP_WIDE else {})) if form in _JUMPS else insn


def _helper(insn: Insn, slot: int) -> str:
    return f"bpf_{HELPERS[insn.imm].name}#{insn.imm}"


#: These are judged before the verifier begins to write: calls of functions and kfuncs that are not there.
LOGGED = [
    _reachable(i) for i in EVERY if OPCODES[i.opcode].form is not Form.CALL_REG and not (OPCODES[i.opcode].form is Form.CALL and i.src)
]


@pytest.mark.linux
@pytest.mark.parametrize("insn", LOGGED, ids=name)
def test_the_log_of_linux_has_our_text(insn: Insn) -> None:
    before = asm("r6 = r1\nr2 = 1\nr3 = 1\nr4 = 1\nr5 = 1\nr1 = 1\nr0 = 1\n*(u64 *)(r10 - 8) = 0")
    after = () if insn.opcode == EXIT else asm("r0 = 0\nexit")
    fd, log = linux_bpf.load(encode((*before, insn, *after)), linux_bpf.SOCKET_FILTER, log_level=2)
    if fd >= 0:
        os.close(fd)
    line = re.search(rf"^{len(before)}: (\(.*?)\s*(;.*)?$", log, re.MULTILINE)
    assert line is not None, log
    assert disasm_one(insn, len(before), name_call=_helper) == line[1]
