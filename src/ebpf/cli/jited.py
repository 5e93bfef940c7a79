"""The text of `prog dump jited`: machine code as assembly, with prototypes and source lines between. capstone reads it."""

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.types import open_btf
from ebpf.cli.xlated import Source, SourceLines, header, title
from ebpf.errors import NotSupportedError
from ebpf.sys.calls import ProgInfo
from ebpf.sys.kernel import Kernel

_HEX = re.compile(r"(\$?)(-?)0x([0-9a-f]+)")
_BIG = re.compile(r"\$(\d{10,})")


@dataclass(frozen=True, slots=True)
class Line:
    """One machine instruction: where it lies in its function, its bytes, and its text."""

    at: int
    code: bytes
    operation: str
    operands: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function's machine code: its name for the kernel, its prototype if types tell it, where it lies in memory."""

    name: str
    proto: str
    address: int
    code: bytes


def disassemble(code: bytes) -> Iterator[Line]:
    """Machine code of this machine's kind as text. Raises NotSupportedError without capstone."""
    try:
        import capstone
    except ImportError as error:
        raise NotSupportedError(
            "prog dump jited",
            "the package capstone, which reads machine code, is not installed",
            hint="pip install 'ebpf[disasm]', or store the code with `prog dump jited PROG file FILE`",
        ) from error
    if platform.machine() == "aarch64":
        engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    else:
        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    engine.skipdata = True
    for insn in engine.disasm(code, 0):
        jumps = insn.mnemonic.startswith(("j", "call", "b", "loop")) and insn.op_str.startswith("0x")
        yield Line(insn.address, bytes(insn.bytes), insn.mnemonic, insn.op_str if jumps else _decimal(insn.op_str))


def _decimal(text: str) -> str:
    """Operands as LLVM writes them: numbers in decimal and signed, no spaces within an address."""
    text = _HEX.sub(lambda found: f"{found[1]}{found[2]}{int(found[3], 16)}", text)
    text = _BIG.sub(lambda found: f"${int(found[1]) - (1 << 64 if int(found[1]) >> 63 else 0)}", text)
    return re.sub(r"\(([^)]*)\)", lambda found: "(" + found[1].replace(", ", ",") + ")", text)


def functions(kernel: Kernel, info: ProgInfo) -> list[Function]:
    """A program's functions in the order of their code; one where the kernel does not tell them apart."""
    lines = SourceLines(info, open_btf(kernel, info.btf_id))
    protos = [lines.protos[slot] for slot in sorted(lines.protos)]
    lengths = info.jited_func_lens or (len(info.jited),)
    out, at = [], 0
    for number, length in enumerate(lengths):
        tag = info.tags[number] if number < len(info.tags) else info.tag
        proto = protos[number] if number < len(protos) else ""
        name = re.match(r"[^(]*?(\w+)\(", proto)
        short = name[1] if name else ("F" if number else info.name)
        address = info.jited_ksyms[number] if number < len(info.jited_ksyms) else 0
        out.append(Function(f"bpf_prog_{tag.hex()}_{short}", proto, address, info.jited[at : at + length]))
        at += length
    return out


def write(context: Context, kernel: Kernel, infos: Sequence[ProgInfo], *, opcodes: bool, linum: bool) -> None:
    """Print the machine code of programs."""
    documents: list[Json] = []
    for number, info in enumerate(infos):
        lines = SourceLines(info, open_btf(kernel, info.btf_id))
        sources = dict(zip(info.jited_lines, (lines.sources[slot] for slot in sorted(lines.sources)), strict=False))
        found = functions(kernel, info)
        if context.json:
            rows = [_row(function, sources, opcodes=opcodes, linum=linum) for function in found]
            documents.append(rows if len(infos) == 1 else {**header(info), "insns": rows})
            continue
        if len(infos) > 1:
            context.write(("\n" if number else "") + title(info))
        for function in found:
            _plain(context, function, sources, opcodes=opcodes, linum=linum)
    if context.json:
        context.write(dumps(documents[0] if len(documents) == 1 else documents, pretty=context.pretty))


def _plain(context: Context, function: Function, sources: dict[int, Source], *, opcodes: bool, linum: bool) -> None:
    if function.proto:
        context.write(f"{function.proto}:")
    context.write(f"{function.name}:")
    for line in disassemble(function.code):
        source = sources.get(function.address + line.at)
        if source is not None and source.text:
            context.write(source.plain(linum=linum))
        context.write(f"{line.at:4x}:\t{line.operation}" + (f"\t{line.operands}" if line.operands else ""))
        if opcodes:
            context.write("\t" + "".join(f"{byte:02x} " for byte in line.code))
    context.write("")


def _row(function: Function, sources: dict[int, Source], *, opcodes: bool, linum: bool) -> dict[str, Json]:
    rows: list[Json] = []
    for line in disassemble(function.code):
        source = sources.get(function.address + line.at)
        row: dict[str, Json] = source.row(linum=linum) if source is not None and source.text else {}
        # Parts of an address are listed one by one, as bpftool lists them.
        parts = [part for part in re.split(r"[,()\s]+", line.operands) if part]
        row |= {"pc": f"{line.at:#x}", "operation": line.operation, "operands": parts or [None]}
        if opcodes:
            row["opcodes"] = hex_bytes(line.code)
        rows.append(row)
    out: dict[str, Json] = {"proto": function.proto} if function.proto else {}
    return out | {"name": function.name, "insns": rows}
