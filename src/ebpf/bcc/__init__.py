"""BCC without BCC: its dialect and its Python classes, over our compiler, loader and kernels.

`from ebpf.bcc import BPF` in your own code; scripts that say `from bcc import BPF` run unmodified under `ebpf run`.
"""

from ebpf.bcc.bpf import BPF, Function
from ebpf.bcc.constants import Constants as BPFProgType
from ebpf.bcc.session import install, session
from ebpf.bcc.table import Table
from ebpf.bcc.utils import get_online_cpus, printb

#: What a script finds in the module `bcc`.
BCC_NAMES = ("BPF", "BPFProgType", "Table", "get_online_cpus", "printb", "DEBUG_LLVM_IR", "DEBUG_BPF", "DEBUG_PREPROCESSOR", "DEBUG_SOURCE")
#: The version of BCC whose interface this is.
BCC_VERSION = "0.37.0"

DEBUG_LLVM_IR = 1
DEBUG_BPF = 2
DEBUG_PREPROCESSOR = 4
DEBUG_SOURCE = 8

__all__ = [
    "BCC_NAMES",
    "BCC_VERSION",
    "BPF",
    "DEBUG_BPF",
    "DEBUG_LLVM_IR",
    "DEBUG_PREPROCESSOR",
    "DEBUG_SOURCE",
    "BPFProgType",
    "Function",
    "Table",
    "get_online_cpus",
    "install",
    "printb",
    "session",
]
