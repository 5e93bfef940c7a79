"""The text of `prog dump xlated`: instructions as the kernel runs them, with prototypes and source lines between."""

import struct
from collections.abc import Sequence
from functools import partial

from ebpf.btf import Btf, prototype
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.types import open_btf
from ebpf.isa import Insn, decode, disasm_one, encode, xlated_imm
from ebpf.sys.calls import ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import HELPERS, CallSrc


class _Lines:
    """The prototypes and source lines of a program, by slot."""

    def __init__(self, info: ProgInfo, btf: Btf | None) -> None:
        self.protos: dict[int, str] = {}
        self.sources: dict[int, tuple[str, str, int, int]] = {}
        if btf is None:
            return
        for at in range(0, len(info.func_info), info.func_info_rec_size or 8):
            slot, type_id = struct.unpack_from("<II", info.func_info, at)
            self.protos[slot] = prototype(btf, type_id)
        for at in range(0, len(info.line_info), info.line_info_rec_size or 16):
            slot, path, text, place = struct.unpack_from("<IIII", info.line_info, at)
            self.sources[slot] = (btf.string(text).lstrip(" \t"), btf.string(path), place >> 10, place & 0x3FF)


class _Names:
    """Helpers by the offset that the kernel put into a call, out of kallsyms."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._symbols: dict[int, str] | None = None
        self._base = 0

    def _read(self) -> dict[int, str]:
        if self._symbols is None:
            self._symbols = {}
            try:
                text = self._kernel.read_file("/proc/kallsyms")
            except OSError:
                return self._symbols
            for line in text.splitlines():
                parts = line.split()
                if parts[2].startswith((b"bpf_", b"__bpf_", b"htab_", b"array_", b"percpu_")):
                    address, name = int(parts[0], 16), parts[2].decode()
                    if name == "__bpf_call_base":
                        self._base = address
                    self._symbols.setdefault(address, name)
        return self._symbols

    def call(self, insn: Insn, slot: int) -> str | None:
        """`bpf_trace_printk#-61360` on Linux, `bpf_trace_printk#6` where calls keep the helper's number."""
        del slot
        if insn.src == CallSrc.PSEUDO_CALL:
            return f"pc{insn.off:+d}" if insn.off and not insn.imm else None
        row = HELPERS.get(insn.imm)
        if row is not None:
            return f"bpf_{row.name}#{insn.imm}"
        name = self._read().get((self._base + insn.imm) & (1 << 64) - 1) if self._read() and self._base else None
        return f"{name}#{insn.imm}" if name is not None else f"unknown#{insn.imm}"


def write(context: Context, kernel: Kernel, infos: Sequence[ProgInfo], *, opcodes: bool, linum: bool) -> None:
    """Print the instructions of programs."""
    names = _Names(kernel)
    documents: list[Json] = []
    for number, info in enumerate(infos):
        lines = _Lines(info, open_btf(kernel, info.btf_id))
        one = partial(disasm_one, name_call=names.call, name_imm=xlated_imm)
        if context.json:
            rows = _rows(info, lines, one, opcodes=opcodes, linum=linum)
            documents.append(rows if len(infos) == 1 else {"id": info.id, "insns": rows})
            continue
        if len(infos) > 1:
            context.write(("\n" if number else "") + f"{info.id}: {info.name}  tag {info.tag.hex()}")
        _plain(context, info, lines, one, opcodes=opcodes, linum=linum)
    if context.json:
        context.write(dumps(documents[0] if len(documents) == 1 else documents, pretty=context.pretty))


def _plain(context: Context, info: ProgInfo, lines: _Lines, one, *, opcodes: bool, linum: bool) -> None:  # type: ignore[no-untyped-def]
    slot = 0
    for insn in decode(info.xlated):
        if slot in lines.protos:
            context.write(("\n" if slot else "") + f"{lines.protos[slot]}:")
        if slot in lines.sources:
            text, path, line, column = lines.sources[slot]
            where = f" [file:{path} line_num:{line} line_col:{column}]" if linum else ""
            if text:
                context.write(f"; {text}{where}")
        context.write(f"{slot:4d}: {one(insn, slot)}")
        if opcodes:
            context.write("       " + " ".join(f"{b:02x}" for b in encode([insn])))
        slot += insn.slots


def _rows(info: ProgInfo, lines: _Lines, one, *, opcodes: bool, linum: bool) -> list[Json]:  # type: ignore[no-untyped-def]
    rows: list[Json] = []
    slot = 0
    for insn in decode(info.xlated):
        row: dict[str, Json] = {}
        if slot in lines.protos:
            row["proto"] = lines.protos[slot]
        if slot in lines.sources and lines.sources[slot][0]:
            text, path, line, column = lines.sources[slot]
            row["src"] = text
            if linum:
                row |= {"file": path, "line_num": line, "line_col": column}
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
