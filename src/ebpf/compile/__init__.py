"""C to eBPF objects: clang called with our headers, its diagnostics, and the command lines of tutorials."""

from ebpf.compile.c import INCLUDE, Compiled, base_flags, compile_c, parse_diagnostics
from ebpf.compile.command import Written, cc
from ebpf.compile.pch import Pch
from ebpf.compile.syntax import ast_json, tree_and_diagnostics

__all__ = [
    "INCLUDE",
    "Compiled",
    "Pch",
    "Written",
    "ast_json",
    "base_flags",
    "cc",
    "compile_c",
    "parse_diagnostics",
    "tree_and_diagnostics",
]
