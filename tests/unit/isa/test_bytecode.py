"""Bytecode that is looked at as it stands says what its decoded instructions say."""

import pytest
from every_insn import EVERY
from hypothesis import given
from hypothesis import strategies as st

from ebpf.errors import FormatError
from ebpf.isa import Bytecode, Insn, by_slot, decode, encode
from ebpf.isa.opcodes import CALL, LD_IMM64

_programs = st.lists(st.sampled_from([*EVERY, *[insn for insn in EVERY if insn.opcode in (CALL, LD_IMM64)] * 9]), max_size=20)


@given(_programs)
def test_its_instructions_are_those_that_decoding_gives(program: list[Insn]) -> None:
    code = Bytecode(encode(program))
    assert len(code) == len(program)
    assert list(code) == program
    assert code[1:] == tuple(program[1:])
    assert encode(code) == encode(program)
    assert Bytecode.of(program).raw == code.raw
    assert Bytecode.of(code) is code


@given(_programs, st.sampled_from([CALL, LD_IMM64, 0xB7, 0x95]), st.sets(st.integers(0, 3)))
def test_what_is_found_in_the_bytes_is_what_is_found_among_the_instructions(program: list[Insn], opcode: int, kinds: set[int]) -> None:
    code = Bytecode(encode(program))
    slots = by_slot(program)
    found = [at for at, insn in enumerate(slots) if insn and insn.opcode == opcode and (not kinds or insn.src in kinds)]
    assert code.slots(opcode, *kinds) == found
    assert [code.at(slot) for slot in found] == [slots[slot] for slot in found]
    assert [code.imm(slot) for slot in found] == [insn.imm for slot in found if (insn := slots[slot])]


@given(_programs)
def test_instructions_take_the_place_of_others(program: list[Insn]) -> None:
    code = Bytecode(encode(program))
    new = {slot: Insn(LD_IMM64, 9, imm=-2, imm_hi=3) for slot in code.slots(LD_IMM64)} | {slot: Insn(0xB7, 3) for slot in code.slots(CALL)}
    expected = [insn for slot, was in enumerate(by_slot(program)) if was and (insn := new.get(slot, was))]
    assert list(code.replaced(new)) == expected
    assert list(code) == program


@pytest.mark.parametrize(
    "raw",
    [
        b"\x95\0\0",
        bytes([LD_IMM64, *[0] * 7]),
        bytes([LD_IMM64, *[0] * 7, LD_IMM64, *[0] * 15]),
        bytes([0x95, *[0] * 7, LD_IMM64, *[0] * 7, 0, 1, *[0] * 6]),
    ],
    ids=["a torn slot", "half at the end", "a half that is a wide one", "a half with a register"],
)
def test_what_decoding_refuses_it_refuses_with_the_same_words(raw: bytes) -> None:
    with pytest.raises(FormatError) as wanted:
        decode(raw)
    with pytest.raises(FormatError) as found:
        Bytecode(raw)
    assert str(found.value) == str(wanted.value)
