"""The instructions of a program as one kernel takes them: CO-RE applied, descriptors of maps and ids of kernel functions put in."""

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ebpf.btf import Btf
from ebpf.errors import FormatError
from ebpf.isa.opcodes import CALL, LD_IMM64
from ebpf.object.resolve import Found, Resolver
from ebpf.spec import CoreReloc, Extern, ObjectSpec, ProgramSpec, Reloc, RelocKind
from ebpf.uapi import CallSrc, PseudoSrc

if TYPE_CHECKING:
    from ebpf.btf import Answer, Matcher

_INSN = struct.Struct("<BBhi")
_CLASS, _LD, _LDX, _ST, _STX, _ALU, _ALU64 = 0x07, 0x00, 0x01, 0x02, 0x03, 0x04, 0x07
_BY_REGISTER, _SIZE = 0x08, 0x18
_BYTES = {0x10: 1, 0x08: 2, 0x00: 4, 0x18: 8}
_SIZES = {size: code for code, size in _BYTES.items()}
#: Calls of these helpers, which no kernel has, stand for what must never run: the verifier names them in its log if it gets there.
POISON_CORE, POISON_KFUNC = 195896080, 2002000000


class Code:
    """A program's code while it is made ready for a kernel; `modules` are the descriptors that its calls refer to by number.

    `missing` says by slot what this kernel has not: those instructions must never run.
    """

    def __init__(self, spec: ProgramSpec) -> None:
        self.spec = spec
        self.code = bytearray(spec.insns)
        self.modules: list[int] = []
        self.missing: dict[int, str] = {}

    def relocate(self, maps: Mapping[str, int], resolver: Resolver) -> bytes:
        """Do all that is left to do. Raises FormatError and NotFoundError for what means nothing in this kernel."""
        for record in self.spec.core_relocs:
            self.match(record, resolver.matcher, resolver.spec.path)
        for reloc in self.spec.relocs:
            if reloc.kind in (RelocKind.MAP_FD, RelocKind.MAP_VALUE):
                self._map(reloc, maps[reloc.symbol])
            elif reloc.kind == RelocKind.KFUNC:
                self._call(reloc, resolver)
            else:
                self._symbol(reloc, resolver)
        return bytes(self.code)

    def _wide(self, slot: int, kind: PseudoSrc, low: int, high: int) -> None:
        """Make an ld_imm64 of the register that is there already."""
        _, registers, off, _ = _INSN.unpack_from(self.code, slot * 8)
        _INSN.pack_into(self.code, slot * 8, LD_IMM64, registers & 0xF | int(kind) << 4, off, _signed(low))
        struct.pack_into("<i", self.code, slot * 8 + 12, _signed(high))

    def _map(self, reloc: Reloc, fd: int) -> None:
        kind = PseudoSrc.MAP_FD if reloc.kind == RelocKind.MAP_FD else PseudoSrc.MAP_VALUE
        self._wide(reloc.slot, kind, fd, reloc.addend)

    def _symbol(self, reloc: Reloc, resolver: Resolver) -> None:
        extern = resolver.spec.externs[reloc.symbol]
        if not extern.type_id:
            address = resolver.address(extern)
            self._wide(reloc.slot, PseudoSrc.NONE, address, address >> 32)
            return
        found = resolver.extern(extern)
        if found is None:
            self._wide(reloc.slot, PseudoSrc.NONE, 0, 0)
        else:
            self._wide(reloc.slot, PseudoSrc.BTF_ID, found.id, found.module.fd if found.module is not None else 0)

    def _call(self, reloc: Reloc, resolver: Resolver) -> None:
        extern = resolver.spec.externs[reloc.symbol]
        found = resolver.extern(extern)
        if found is None:
            number = _number(extern, resolver.spec.externs)
            _INSN.pack_into(self.code, reloc.slot * 8, CALL, 0, 0, POISON_KFUNC + number)
            self.missing[reloc.slot] = f"kernel function {extern.name}"
        else:
            _INSN.pack_into(self.code, reloc.slot * 8, CALL, int(CallSrc.KFUNC_CALL) << 4, self._module(found), found.id)

    def _module(self, found: Found) -> int:
        """The number by which a call refers to a module; 0 is the kernel itself."""
        if found.module is None:
            return 0
        if found.module.fd not in self.modules:
            self.modules.append(found.module.fd)
        return self.modules.index(found.module.fd) + 1

    # -- CO-RE

    def match(self, record: CoreReloc, matcher: "Matcher", path: str) -> None:
        """Apply a CO-RE record. Raises FormatError."""
        try:
            answer = matcher.answer(record.type_id, record.access, record.kind)
            if not self._patch(record.slot, answer):
                self._poison(record.slot)
                self.missing[record.slot] = matcher.describe(record.type_id, record.access, record.kind)
        except FormatError as error:
            where = f"program {self.spec.name!r}, insn {record.slot}, {error.where}"
            raise FormatError(error.why, path=path, where=where) from error

    def _poison(self, slot: int) -> None:
        wide = self.code[slot * 8] == LD_IMM64
        for at in (slot, slot + 1) if wide else (slot,):
            _INSN.pack_into(self.code, at * 8, CALL, 0, 0, POISON_CORE)

    def _patch(self, slot: int, answer: "Answer") -> bool:
        """Put an answer into its instruction; False if the instruction must never run."""
        if answer.poisoned:
            return False
        at = slot * 8
        opcode, registers, off, imm = _INSN.unpack_from(self.code, at)
        kind = opcode & _CLASS
        if kind in (_ALU, _ALU64):
            if opcode & _BY_REGISTER:
                raise FormatError("the instruction has no number to relocate", where="CO-RE")
            _require(answer, imm & 0xFFFFFFFF, answer.old & 0xFFFFFFFF)
            _INSN.pack_into(self.code, at, opcode, registers, off, _signed(answer.new))
        elif kind in (_LDX, _ST, _STX):
            _require(answer, off, answer.old)
            if answer.new > 0x7FFF:
                raise FormatError(f"offset {answer.new} is too large for a load", where="CO-RE")
            if answer.old_size != answer.new_size:
                if not answer.resizable:
                    return False
                if _BYTES[opcode & _SIZE] != answer.old_size or answer.new_size not in _SIZES:
                    raise FormatError(f"a load of {answer.old_size} bytes cannot become one of {answer.new_size}", where="CO-RE")
                opcode = opcode & ~_SIZE | _SIZES[answer.new_size]
            _INSN.pack_into(self.code, at, opcode, registers, answer.new, imm)
        elif opcode == LD_IMM64 and not registers >> 4 and not off:
            (high,) = struct.unpack_from("<I", self.code, at + 12)
            _require(answer, imm & 0xFFFFFFFF | high << 32, answer.old)
            self._wide(slot, PseudoSrc.NONE, answer.new, answer.new >> 32)
        else:
            raise FormatError(f"opcode {opcode:#x} cannot be relocated", where="CO-RE")
        return True


def matched(spec: ObjectSpec, program: ProgramSpec, types: Btf) -> bytes:
    """The code of a program with its CO-RE records applied for a kernel that has these types, nothing else. Raises FormatError."""
    code = Code(program)
    if program.core_relocs and spec.btf is not None:
        from ebpf.btf import Matcher

        matcher = Matcher(spec.btf, lambda: iter((types,)))
        for record in program.core_relocs:
            code.match(record, matcher, spec.path)
    return bytes(code.code)


def _require(answer: "Answer", there: int, expected: int) -> None:
    if answer.checked and there != expected:
        raise FormatError(f"the instruction holds {there}, not {expected} as its record says", where="CO-RE")


def _signed(value: int) -> int:
    """The low 32 bits, as an instruction holds them."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _number(extern: Extern, externs: Mapping[str, Extern]) -> int:
    return list(externs).index(extern.name)
