"""Find and run clang, and the folder that its products are kept in."""

from typing import TYPE_CHECKING

from ebpf.lazy import names

if TYPE_CHECKING:
    from ebpf.toolchain.cache import cache_folder, write_atomically
    from ebpf.toolchain.clang import Clang, find_clang, run

__getattr__ = names(
    __name__,
    {
        "cache_folder": "cache",
        "write_atomically": "cache",
        "Clang": "clang",
        "find_clang": "clang",
        "run": "clang",
    },
)

__all__ = [
    "Clang",
    "cache_folder",
    "find_clang",
    "run",
    "write_atomically",
]
