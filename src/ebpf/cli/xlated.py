"""The text of `prog dump xlated`: instructions as the kernel runs them, with prototypes and source lines between."""

import re
import struct
from collections.abc import Callable, Sequence
from functools import partial

from ebpf.btf import Btf, prototype
from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.types import open_btf
from ebpf.isa import Insn, decode, disasm_one, encode, xlated_imm
from ebpf.records import record
from ebpf.sys.calls import ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import HELPERS, CallSrc


@record
class Source:
    """A line of the C text."""

    text: str
    path: str
    line: int
    column: int

    def plain(self, *, linum: bool) -> str:
        """As it stands between instructions."""
        return f"; {self.text}" + (f" [file:{self.path} line_num:{self.line} line_col:{self.column}]" if linum else "")

    def row(self, *, linum: bool) -> dict[str, Json]:
        """Its members of an instruction's JSON object."""
        out: dict[str, Json] = {"src": self.text}
        return out | ({"file": self.path, "line_num": self.line, "line_col": self.column} if linum else {})


class SourceLines:
    """The prototypes and source lines of a program, by slot."""

    def __init__(self, info: ProgInfo, btf: Btf | None) -> None:
        self.protos: dict[int, str] = {}
        self.sources: dict[int, Source] = {}
        if btf is None:
            return
        for at in range(0, len(info.func_info), info.func_info_rec_size or 8):
            slot, type_id = struct.unpack_from("<II", info.func_info, at)
            self.protos[slot] = prototype(btf, type_id)
        for at in range(0, len(info.line_info), info.line_info_rec_size or 16):
            slot, path, text, place = struct.unpack_from("<IIII", info.line_info, at)
            self.sources[slot] = Source(btf.string(text).lstrip(" \t"), btf.string(path), place >> 10, place & 0x3FF)


def header(info: ProgInfo) -> dict[str, Json]:
    """What heads a program's dump where there are several."""
    return {
        "id": info.id,
        "type": handles.program_type(info.type),
        "name": info.name,
        "tag": info.tag.hex(),
        "gpl_compatible": info.gpl_compatible,
    }


_BASE = re.compile(rb"\n([0-9a-f]+) \w __bpf_call_base\b")


class _Names:
    """Helpers by the offset that the kernel put into a call, out of kallsyms."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._text: bytes | None = None

    def _at(self, address: int) -> str:
        """The symbol at an address, "" if it is not known."""
        if self._text is None:
            try:
                self._text = b"\n" + self._kernel.read_file("/proc/kallsyms")
            except OSError:
                self._text = b""
        begin = self._text.find(b"\n%016x " % address)
        return self._text[begin + 1 : begin + 512].split(maxsplit=3)[2].decode(errors="replace") if begin >= 0 else ""

    def _base(self) -> int:
        """Where calls of helpers count from; 0 if it is not known."""
        self._at(0)
        line = _BASE.search(self._text or b"")
        return int(line[1], 16) if line else 0

    def call(self, info: ProgInfo, insn: Insn, slot: int) -> str | None:
        """`bpf_trace_printk#-61360` on Linux, `bpf_trace_printk#6` where calls keep the helper's number; a function by its tag."""
        del slot
        if insn.src == CallSrc.PSEUDO_CALL:
            # Compiled, the call says which function, and how far it lies in `off`.
            if insn.imm < len(info.jited_ksyms) and insn.imm < len(info.tags):
                return f"pc{insn.off:+d}#bpf_prog_{info.tags[insn.imm].hex()}_{self._function(info, insn.imm)}"
            return f"pc{insn.off:+d}" if insn.off and not insn.imm else None
        row = HELPERS.get(insn.imm)
        if row is not None:
            return f"bpf_{row.name}#{insn.imm}"
        base = self._base()
        name = self._at((base + insn.imm) & (1 << 64) - 1) if base else ""
        return f"{name or 'unknown'}#{insn.imm}"

    def _function(self, info: ProgInfo, number: int) -> str:
        """The name of a program's function for the kernel."""
        address = info.jited_ksyms[number]
        name = self._at(address)
        return name.split("_", 3)[3] if name.count("_") >= 3 else "F"


Disasm = Callable[[Insn, int], str]


def write(context: Context, kernel: Kernel, infos: Sequence[ProgInfo], *, opcodes: bool, linum: bool) -> None:
    """Print the instructions of programs."""
    documents: list[Json] = []
    for number, info in enumerate(infos):
        lines, one = SourceLines(info, open_btf(kernel, info.btf_id)), disassembler(kernel, info)
        if context.json:
            rows = _rows(info, lines, one, opcodes=opcodes, linum=linum)
            documents.append(rows if len(infos) == 1 else {**header(info), "insns": rows})
            continue
        if len(infos) > 1:
            context.write(("\n" if number else "") + title(info))
        _plain(context, info, lines, one, opcodes=opcodes, linum=linum)
    if context.json:
        context.write(dumps(documents[0] if len(documents) == 1 else documents, pretty=context.pretty))


def title(info: ProgInfo) -> str:
    """The line that heads a program's dump where there are several."""
    name = f"  name {info.name}" if info.name else ""
    return f"{info.id}: {handles.program_type(info.type)}{name}  tag {info.tag.hex()}" + ("  gpl" if info.gpl_compatible else "")


def disassembler(kernel: Kernel, info: ProgInfo) -> Disasm:
    """What gives the text of a program's instructions, with the kernel's names."""
    return partial(disasm_one, name_call=partial(_Names(kernel).call, info), name_imm=xlated_imm)


def _plain(context: Context, info: ProgInfo, lines: SourceLines, one: Disasm, *, opcodes: bool, linum: bool) -> None:
    slot = 0
    for insn in decode(info.xlated):
        if slot in lines.protos:
            context.write(f"{lines.protos[slot]}:")
        source = lines.sources.get(slot)
        if source is not None and source.text:
            context.write(source.plain(linum=linum))
        context.write(f"{slot:4d}: {one(insn, slot)}")
        if opcodes:
            context.write("       " + " ".join(f"{b:02x}" for b in encode([insn])))
        slot += insn.slots


def _rows(info: ProgInfo, lines: SourceLines, one: Disasm, *, opcodes: bool, linum: bool) -> list[Json]:
    rows: list[Json] = []
    slot = 0
    for insn in decode(info.xlated):
        row: dict[str, Json] = {}
        if slot in lines.protos:
            row["proto"] = lines.protos[slot]
        source = lines.sources.get(slot)
        if source is not None and source.text:
            row |= source.row(linum=linum)
        row["disasm"] = one(insn, slot)
        if opcodes:
            raw = encode([insn])
            imm = hex_bytes(raw[4:8] + raw[8:16]) if insn.slots == 2 else hex_bytes(raw[4:8])
            row["opcodes"] = {
                "code": f"0x{insn.opcode:02x}",
                "src_reg": f"0x{insn.src:x}",
                "dst_reg": f"0x{insn.dst:x}",
                "off": hex_bytes(raw[2:4]),
                "imm": imm,
            }
        rows.append(row)
        slot += insn.slots
    return rows
