"""Find and run clang, and the folder that its products are kept in."""

from ebpf.toolchain.cache import cache_folder, write_atomically
from ebpf.toolchain.clang import Clang, find_clang, run

__all__ = ["Clang", "cache_folder", "find_clang", "run", "write_atomically"]
