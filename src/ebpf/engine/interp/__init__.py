"""The definition of the instruction set: an interpreter over checked memory."""

from ebpf.engine.interp.machine import OPS, InterpreterFault, Machine, Program
from ebpf.engine.interp.memory import Memory, Region

__all__ = ["OPS", "InterpreterFault", "Machine", "Memory", "Program", "Region"]
