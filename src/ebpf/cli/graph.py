"""`prog dump xlated ... visual`: a program's control flow as a Graphviz digraph, as bpftool draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ebpf.cli.context import Context
from ebpf.cli.types import open_btf
from ebpf.cli.xlated import Disasm, SourceLines, disassembler
from ebpf.isa import Insn, decode, encode
from ebpf.isa.opcodes import CALL, EXIT, GOTOL, JA, Class, Jmp
from ebpf.sys.calls import ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import CallSrc


@dataclass(slots=True)
class Block:
    """Instructions that run one after the other, from slot `first`; where they go on (-1: out)."""

    number: int
    first: int
    insns: list[tuple[int, Insn]] = field(default_factory=list)
    following: list[int] = field(default_factory=list)


def write(context: Context, kernel: Kernel, info: ProgInfo, *, opcodes: bool, linum: bool) -> None:
    """Print the graph of a program."""
    one = disassembler(kernel, info)
    lines = SourceLines(info, open_btf(kernel, info.btf_id))
    context.write('digraph "DOT graph for eBPF program" {')
    for number, code in enumerate(_functions(info)):
        _cluster(context, number, _blocks(code), lines, one, opcodes=opcodes, linum=linum)
    context.write("}")


def _jumps(insn: Insn) -> bool:
    return insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode & 0xF0 not in (Jmp.CALL, Jmp.EXIT)


def _target(slot: int, insn: Insn) -> int:
    return slot + 1 + (insn.imm if insn.opcode == GOTOL else insn.off)


def _functions(info: ProgInfo) -> list[list[tuple[int, Insn]]]:
    """The instructions of each function, with their slots."""
    placed, slot = [], 0
    for insn in decode(info.xlated):
        placed.append((slot, insn))
        slot += insn.slots
    calls = {slot + 1 + (insn.off or insn.imm) for slot, insn in placed if insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL}
    out: list[list[tuple[int, Insn]]] = []
    for slot, insn in placed:
        if slot in calls or not out:
            out.append([])
        out[-1].append((slot, insn))
    return out


def _blocks(code: Sequence[tuple[int, Insn]]) -> list[Block]:
    """The blocks of a function: one begins at its start, after each jump, and where a jump leads."""
    heads = {code[0][0]}
    for slot, insn in code:
        if _jumps(insn):
            heads |= {slot + 1, _target(slot, insn)}
        elif insn.opcode == EXIT:
            heads.add(slot + 1)
    blocks: list[Block] = []
    for slot, insn in code:
        if slot in heads:
            blocks.append(Block(len(blocks) + 2, slot))
        blocks[-1].insns.append((slot, insn))
    by_slot = {block.first: block.number for block in blocks}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        slot, last = block.insns[-1]
        if last.opcode == EXIT or after is None:
            block.following = [1]
        elif _jumps(last):
            goes = [by_slot.get(_target(slot, last), 1)]
            block.following = goes if last.opcode in (JA, GOTOL) else [after.number, *goes]
        else:
            block.following = [after.number]
    return blocks


# What stands escaped in an instruction, and in a line of C.
_IN_CODE, _IN_TEXT = "<>|&{}", '"{}<>|\\ '


def _escape(text: str, special: str) -> str:
    """A text within a record's label."""
    return "".join("\\" + c if c in special else c for c in text)


def _cluster(
    context: Context, number: int, blocks: Sequence[Block], lines: SourceLines, one: Disasm, *, opcodes: bool, linum: bool
) -> None:
    name = f"fn_{number}_bb"
    context.write(f'subgraph "cluster_{number}" {{\n\tstyle="dashed";\n\tcolor="black";\n\tlabel="func_{number} ()";')
    context.write(f'\t{name}_0 [shape=Mdiamond,style=filled,label="ENTRY"];\n')
    for block in blocks:
        context.write(f'\t{name}_{block.number} [shape=record,style=filled,label="{{\\')
        for place, (slot, insn) in enumerate(block.insns):
            parts = _label(slot, lines, linum=linum)
            parts.append(f"{slot}: {_escape(one(insn, slot), '<>|&{}')}\\l\\")
            if opcodes:
                parts.append("\\ \\ \\ \\ " + " ".join(f"{byte:02x}" for byte in encode([insn])) + "\\l\\")
            context.write(("| " if place else "") + "\n".join(parts))
        context.write('}"];\n')
    context.write(f'\t{name}_1 [shape=Mdiamond,style=filled,label="EXIT"];\n')
    edges = [(0, blocks[0].number)] + [(block.number, to) for block in blocks for to in block.following]
    for source, to in edges:
        context.write(f'\t{name}_{source}:s -> {name}_{to}:n [style="solid,bold", color=black, weight=10, constraint=true];')
    context.write(f'\t{name}_0:s -> {name}_1:n [style="invis", constraint=true];\n}}')


def _label(slot: int, lines: SourceLines, *, linum: bool) -> list[str]:
    """The prototype and the source line that stand before an instruction."""
    parts = []
    if slot in lines.protos:
        parts.append(f"; {lines.protos[slot]}:\\l\\")
    source = lines.sources.get(slot)
    if source is not None and source.text:
        if linum:
            # The end of the path is what tells files apart.
            parts.append(f"; [.../{'/'.join(source.path.split('/')[-2:])} line:{source.line} col:{source.column}]\\l\\")
        parts.append(f"; {_escape(source.text, _IN_TEXT)}\\l\\")
    return parts
