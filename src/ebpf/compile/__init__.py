"""C to eBPF objects: clang called with our headers, its diagnostics, and the command lines of tutorials."""

from ebpf.compile.c import INCLUDE, Compiled, base_flags, compile_c, parse_diagnostics
from ebpf.compile.command import Written, cc

__all__ = ["INCLUDE", "Compiled", "Written", "base_flags", "cc", "compile_c", "parse_diagnostics"]
