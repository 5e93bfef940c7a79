"""Blueprints: what a compiled object holds, as frozen plain data, the same on every machine."""

from ebpf.spec.model import CoreReloc, DataVar, FuncInfo, LineInfo, MapSpec, ObjectSpec, ProgramSpec, Reloc, RelocKind

__all__ = ["CoreReloc", "DataVar", "FuncInfo", "LineInfo", "MapSpec", "ObjectSpec", "ProgramSpec", "Reloc", "RelocKind"]
