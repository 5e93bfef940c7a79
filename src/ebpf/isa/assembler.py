"""Text to instructions: accepts what `disasm` writes, in the kernel's style and in clang's, and labels besides.

    start:
        r0 = 0
        r1 = 0x123456789 ll
        if r1 s> 7 goto done
        call map_lookup_elem
        call start
    done:
        exit

A line may begin with its slot and opcode, as in a dump; `;`, `//` and a `#` after a blank begin a comment.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

from ebpf.errors import FormatError
from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import (
    CALL,
    CALLX,
    EXIT,
    FETCH,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
    Alu,
    Atomic,
    Class,
    Jmp,
    K,
    Mode,
    Size,
    X,
)
from ebpf.uapi import HELPERS_BY_NAME, CallSrc, PseudoSrc

_COMMENT: Final = re.compile(r"(?:;|//|(?:^|(?<=\s))#).*$")
_PREFIX: Final = re.compile(r"^(?:\d+:\s+)?(?:\(([0-9a-f]{2})\)\s+)?")
_LABEL: Final = re.compile(r"^([A-Za-z_.$][\w.$]*):$")

_ALU: Final = {
    "+=": Alu.ADD,
    "-=": Alu.SUB,
    "*=": Alu.MUL,
    "/=": Alu.DIV,
    "s/=": Alu.DIV,
    "|=": Alu.OR,
    "&=": Alu.AND,
    "<<=": Alu.LSH,
    ">>=": Alu.RSH,
    "%=": Alu.MOD,
    "s%=": Alu.MOD,
    "^=": Alu.XOR,
    "=": Alu.MOV,
    "s>>=": Alu.ARSH,
}
_JMP: Final = {
    "==": Jmp.JEQ,
    ">": Jmp.JGT,
    ">=": Jmp.JGE,
    "&": Jmp.JSET,
    "!=": Jmp.JNE,
    "s>": Jmp.JSGT,
    "s>=": Jmp.JSGE,
    "<": Jmp.JLT,
    "<=": Jmp.JLE,
    "s<": Jmp.JSLT,
    "s<=": Jmp.JSLE,
}
_SIZE: Final = {"8": Size.B, "16": Size.H, "32": Size.W, "64": Size.DW}
_RMW: Final = {"+=": Atomic.ADD, "|=": Atomic.OR, "&=": Atomic.AND, "^=": Atomic.XOR}
_FETCH: Final = {"add": Atomic.ADD, "or": Atomic.OR, "and": Atomic.AND, "xor": Atomic.XOR}
_JUMPS: Final = {"goto": JA, "gotol": GOTOL, "may_goto": MAY_GOTO}

_PIECES: Final = {
    "DST": r"(?P<dst>[rw](?:10|\d))",
    "SRC": r"(?P<src>[rw](?:10|\d))",
    "ANY": r"[rw](?:10|\d)",  # written twice, and checked by the rule or fixed by the instruction
    "IMM": r"(?P<imm>[+-]?(?:0x[0-9a-f]+|\d+))",
    "AT": r"(?P<base>r(?:10|\d))\s*(?P<off>[+-]\s*(?:0x[0-9a-f]+|\d+))?",
    "ALU": r"(?P<op>(?:s?[/%]|s?>>|<<|[-+*|&^])?=)",
    "JMP": r"(?P<op>s?[<>]=?|[!=]=|&)",
    "TO": r"(?P<to>(?:pc)?[+-](?:0x[0-9a-f]+|\d+)|[A-Za-z_.$][\w.$]*)",
    "U": r"u(?P<bits>8|16|32|64)",
}


class _Text:
    """What a rule has matched, as numbers."""

    def __init__(self, match: re.Match[str], hint: int | None) -> None:
        self._match, self.hint = match, hint

    def text(self, name: str) -> str:
        return self._match.group(name)

    def register(self, name: str) -> int:
        return int(self.text(name)[1:])

    def wide(self, name: str) -> bool:
        return self.text(name).startswith("r")

    def imm(self, *, signed_only: bool = False) -> int:
        return _fit(self.text("imm"), 31 if signed_only else 32)

    def has(self, name: str) -> bool:
        return name in self._match.re.groupindex

    @property
    def off(self) -> int:
        return _offset(self.text("off") or "0")

    @property
    def size(self) -> Size:
        return _SIZE[self.text("bits")]


def _number(text: str) -> int:
    return int(text.replace(" ", ""), 0)


def _fit(text: str, bits: int) -> int:
    """A 32-bit immediate as a signed number; `bits` of 31 takes none that the sign extension would change."""
    value = _number(text)
    if not -(1 << 31) <= value < 1 << bits:
        raise ValueError(f"{text} does not fit in a 32-bit immediate" + (" (write `ll` after it)" if bits == 31 else ""))
    return value - (1 << 32) if value >= 1 << 31 else value


def _offset(text: str) -> int:
    value = _number(text)
    if not -(1 << 15) <= value < 1 << 15:
        raise ValueError(f"{text} does not fit in a 16-bit offset")
    return value


def _same(t: _Text) -> Class:
    if t.wide("dst") != t.wide("src"):
        raise ValueError("r and w registers in one operation")
    return Class.ALU64 if t.wide("dst") else Class.ALU


def _once(t: _Text) -> None:
    if t.text("dst") != t.text("src"):
        raise ValueError(f"{t.text('dst')} is made from {t.text('src')}: both must be the same register")


def _alu_reg(t: _Text) -> Insn:
    op = t.text("op")
    signed = op in ("s/=", "s%=")
    return Insn(_same(t) | _ALU[op] | X, t.register("dst"), t.register("src"), int(signed))


def _alu_imm(t: _Text) -> Insn:
    op, kind = t.text("op"), Class.ALU64 if t.wide("dst") else Class.ALU
    if t.hint == LD_IMM64:
        return _wide(t)
    return Insn(kind | _ALU[op] | K, t.register("dst"), 0, int(op in ("s/=", "s%=")), t.imm(signed_only=kind == Class.ALU64))


def _move_signed(t: _Text) -> Insn:
    return Insn(_same(t) | Alu.MOV | X, t.register("dst"), t.register("src"), int(t.text("bits")))


def _negate(t: _Text) -> Insn:
    _once(t)
    return Insn(_same(t) | Alu.NEG, t.register("dst"))


def _swap(t: _Text) -> Insn:
    _once(t)
    opcode = {
        "le": Class.ALU | Alu.END | K,
        "be": Class.ALU | Alu.END | X,
        "bswap": Class.ALU64 | Alu.END | K,
    }[t.text("op")]
    return Insn(opcode, t.register("dst"), 0, 0, int(t.text("bits")))


def _wide(t: _Text) -> Insn:
    value = _number(t.text("imm"))
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{t.text('imm')} does not fit in 64 bits")
    return Insn(LD_IMM64, t.register("dst"), 0, 0, _word(value), _word(value >> 32))


def _word(value: int) -> int:
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _map(t: _Text) -> Insn:
    if t.text("at") is None:
        return Insn(LD_IMM64, t.register("dst"), PseudoSrc.MAP_FD, 0, t.imm())
    return Insn(LD_IMM64, t.register("dst"), PseudoSrc.MAP_VALUE, 0, t.imm(), _fit(t.text("at"), 32))


def _function(t: _Text) -> Insn:
    return Insn(LD_IMM64, t.register("dst"), PseudoSrc.FUNC, 0, t.imm())


def _load(t: _Text) -> Insn:
    signed = t.text("sign") == "s"
    return Insn(Class.LDX | (Mode.MEMSX if signed else Mode.MEM) | t.size, t.register("dst"), t.register("base"), t.off)


def _store(t: _Text) -> Insn:
    return Insn(Class.STX | Mode.MEM | t.size, t.register("base"), t.register("src"), t.off)


def _store_imm(t: _Text) -> Insn:
    return Insn(Class.ST | Mode.MEM | t.size, t.register("base"), 0, t.off, t.imm())


def _atomic(t: _Text, size: Size, imm: int) -> Insn:
    return Insn(Class.STX | Mode.ATOMIC | size, t.register("base"), t.register("src"), t.off, imm)


def _exchange(t: _Text) -> Insn:
    """Clang's own words carry the width in the name: `xchg_64`, `cmpxchg32_32`."""
    size = Size.DW if t.text("width") == "64" else Size.W
    return _atomic(t, size, Atomic.CMPXCHG if t.text("op") == "cmpxchg" else Atomic.XCHG)


def _acquire(t: _Text) -> Insn:
    return Insn(Class.STX | Mode.ATOMIC | t.size, t.register("dst"), t.register("base"), t.off, Atomic.LOAD_ACQ)


def _packet(t: _Text) -> Insn:
    if t.text("src") is None:
        return Insn(Class.LD | Mode.ABS | t.size, 0, 0, 0, t.imm())
    return Insn(Class.LD | Mode.IND | t.size, 0, t.register("src"), 0, _fit(t.text("imm2") or "0", 32))


def _goto(t: _Text) -> Insn:
    return _aim(Insn(_JUMPS[t.text("op")]), t.text("to"))


def _branch(t: _Text) -> Insn:
    kind, op = Class.JMP if t.wide("dst") else Class.JMP32, _JMP[t.text("op")]
    if t.has("src"):
        _same(t)
        return _aim(Insn(kind | op | X, t.register("dst"), t.register("src")), t.text("to"))
    return _aim(Insn(kind | op | K, t.register("dst"), 0, 0, t.imm()), t.text("to"))


def _aim(insn: Insn, target: str) -> Insn:
    """Set the distance of a jump; a label's comes later."""
    text = target.removeprefix("pc")
    if text[0] not in "+-":
        return insn
    return replace(insn, imm=_fit(text, 32)) if insn.opcode == GOTOL else replace(insn, off=_offset(text))


def _call(t: _Text) -> Insn:
    name, number, plain, near = (t.text(part) for part in ("name", "number", "plain", "near"))
    if near is not None:
        return Insn(CALL, 0, CallSrc.PSEUDO_CALL, 0, _fit(near, 32))
    if plain is not None:
        return Insn(CALL, 0, 0, 0, _fit(plain, 32))
    if number is not None:
        return Insn(CALL, 0, CallSrc.KFUNC_CALL if name == "kfunc" else CallSrc.HELPER, 0, _fit(number, 32))
    helper = HELPERS_BY_NAME.get(name.removeprefix("bpf_"))
    # Of a label the distance comes later; a helper's name counts only where no label has it.
    return Insn(CALL, 0, CallSrc.HELPER, 0, helper.id if helper else 0)


def _pattern(template: str) -> re.Pattern[str]:
    """A rule's pattern: pieces in braces, and a blank for any number of them (at least one between words)."""
    text = re.sub(r"(?<=[a-z]) (?=[\w{(])", r"\\s+", template).replace(" ", r"\s*")
    return re.compile(re.sub(r"\{([A-Z]+)\}", lambda m: _PIECES[m[1]], text))


_Build = Callable[[_Text], Insn]


@cache
def _rules() -> tuple[tuple[re.Pattern[str], _Build], ...]:
    """The rules in the order in which they are tried; made at the first use, because patterns are slow to compile."""
    return tuple(
        (_pattern(pattern), build)
        for pattern, build in (
            (r"{DST} = {IMM} ll", _wide),
            (r"{DST} = map\[id:{IMM}\](?:\[0\](?P<at>[+-]\d+))?", _map),
            (r"{DST} = subprog\[{IMM}\]", _function),
            (r"{DST} {ALU} {SRC}", _alu_reg),
            (r"{DST} {ALU} {IMM}", _alu_imm),
            (r"{DST} = \(s(?P<bits>8|16|32)\){SRC}", _move_signed),
            (r"{DST} = -{SRC}", _negate),
            (r"{DST} = (?P<op>le|be|bswap)(?P<bits>16|32|64) {SRC}", _swap),
            (r"{DST} = \*\((?P<sign>[us])(?P<bits>8|16|32|64) \*\)\({AT}\)", _load),
            (r"\*\({U} \*\)\({AT}\) = {SRC}", _store),
            (r"\*\({U} \*\)\({AT}\) = {IMM}", _store_imm),
            (r"lock \*\({U} \*\)\({AT}\) (?P<op>[+|&^]=) {SRC}", lambda t: _atomic(t, t.size, _RMW[t.text("op")])),
            (
                r"{ANY} = atomic(?:64)?_fetch_(?P<op>add|or|and|xor)\(\({U} \*\)\({AT}\), {SRC}\)",
                lambda t: _atomic(t, t.size, _FETCH[t.text("op")] | FETCH),
            ),
            (r"{ANY} = atomic(?:64)?_xchg\(\({U} \*\)\({AT}\), {SRC}\)", lambda t: _atomic(t, t.size, Atomic.XCHG)),
            (r"{ANY} = atomic(?:64)?_cmpxchg\(\({U} \*\)\({AT}\), {ANY}, {SRC}\)", lambda t: _atomic(t, t.size, Atomic.CMPXCHG)),
            (r"{ANY} = (?P<op>xchg)(?:32)?_(?P<width>32|64)\({AT}, {SRC}\)", _exchange),
            (r"{ANY} = (?P<op>cmpxchg)(?:32)?_(?P<width>32|64)\({AT}, {ANY}, {SRC}\)", _exchange),
            (r"{DST} = load_acquire\(\({U} \*\)\({AT}\)\)", _acquire),
            (r"store_release\(\({U} \*\)\({AT}\), {SRC}\)", lambda t: _atomic(t, t.size, Atomic.STORE_REL)),
            (r"r0 = \*\({U} \*\)skb\[(?:{IMM}|{SRC}(?: \+ (?P<imm2>-?\w+))?)\]", _packet),
            (r"if {DST} {JMP} {SRC} goto {TO}", _branch),
            (r"if {DST} {JMP} {IMM} goto {TO}", _branch),
            (r"(?P<op>gotol?|may_goto) {TO}", _goto),
            (r"callx {DST}", lambda t: Insn(CALLX, t.register("dst"))),
            (
                r"call (?:(?P<plain>-?\d\w*)|pc(?P<near>[+-]\d+)(?:#\S*)?|(?P<name>[A-Za-z_.$][\w.$]*)(?:#(?P<number>-?\d+))?)",
                _call,
            ),
            (r"exit", lambda t: Insn(EXIT)),
        )
    )


_AIMS: Final = re.compile(r"(?:goto|gotol|may_goto|call)\s+([A-Za-z_.$][\w.$]*)$")


def _line(text: str, hint: int | None) -> Insn:
    for pattern, build in _rules():
        match = pattern.fullmatch(text)
        if match is not None:
            made = build(_Text(match, hint))
            insn = Insn(made.opcode, made.dst, int(made.src), made.off, int(made.imm), made.imm_hi)
            if hint is not None and insn.opcode != hint:
                raise ValueError(f"{text!r} is opcode {insn.opcode:02x}, not {hint:02x}")
            return insn
    raise ValueError(f"{text!r} is not an instruction")


def asm(text: str) -> tuple[Insn, ...]:
    """Assemble a program. Raises FormatError with the number of the line."""
    insns: list[tuple[int, int, Insn, str]] = []
    labels: dict[str, int] = {}
    slot = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        label = _LABEL.match(line)
        if label is not None:
            labels[label[1]] = slot
            continue
        if not line:
            continue
        prefix = _PREFIX.match(line)
        hint = prefix[1] if prefix is not None else None
        body = re.sub(r"\s*<[^>]*>$", "", line[prefix.end() :] if prefix is not None else line)
        aim = _AIMS.search(body)
        try:
            insn = _line(body, int(hint, 16) if hint else None)
        except ValueError as error:
            raise FormatError(str(error), where=f"line {number}") from error
        insns.append((number, slot, insn, aim[1] if aim is not None else ""))
        slot += insn.slots
    return tuple(_resolve(insn, slot, target, labels, number) for number, slot, insn, target in insns)


def _resolve(insn: Insn, slot: int, target: str, labels: dict[str, int], number: int) -> Insn:
    if not target:
        return insn
    if target not in labels:
        if insn.opcode == CALL and (insn.imm or target.removeprefix("bpf_") == "unspec"):
            return insn
        raise FormatError(f"no label {target!r}" + (" and no such helper" if insn.opcode == CALL else ""), where=f"line {number}")
    distance = labels[target] - slot - 1
    if insn.opcode == CALL:
        return replace(insn, src=int(CallSrc.PSEUDO_CALL), imm=distance)
    return replace(insn, imm=distance) if insn.opcode == GOTOL else replace(insn, off=distance)
