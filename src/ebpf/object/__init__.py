"""Handles on what a kernel holds: maps, programs, links, and the collection of an object."""

from ebpf.object.collection import Collection
from ebpf.object.map import Map
from ebpf.object.program import Program, Target, function_of, load_program
from ebpf.object.relocate import matched

__all__ = ["Collection", "Map", "Program", "Target", "function_of", "load_program", "matched"]
