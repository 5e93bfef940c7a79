"""Blueprints: what a compiled object holds, as frozen plain data, the same on every machine."""

from ebpf.spec.model import CoreReloc, DataVar, Extern, ExternKind, FuncInfo, LineInfo, MapSpec, ObjectSpec, ProgramSpec, Reloc, RelocKind

__all__ = [
    "CoreReloc",
    "DataVar",
    "Extern",
    "ExternKind",
    "FuncInfo",
    "LineInfo",
    "MapSpec",
    "ObjectSpec",
    "ProgramSpec",
    "Reloc",
    "RelocKind",
]
