"""Instructions to machine code by LLVM, and the cache of it."""

from ebpf.engine.jit.cache import compile_image, image_key
from ebpf.engine.jit.checked import Checked, Fault, compile_checked
from ebpf.engine.jit.image import LoadedCode, load_image
from ebpf.engine.jit.llvm import warm_up
from ebpf.engine.jit.stages import Compiled
from ebpf.engine.jit.translate import RUNTIME, translate
from ebpf.engine.jit.writer import Slot

__all__ = [
    "RUNTIME",
    "Checked",
    "Compiled",
    "Fault",
    "LoadedCode",
    "Slot",
    "compile_checked",
    "compile_image",
    "image_key",
    "load_image",
    "translate",
    "warm_up",
]
