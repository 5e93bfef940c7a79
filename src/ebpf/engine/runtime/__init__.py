"""The C that programs run with: maps, helpers, buffers and native loops, compiled once, and its Python face."""

from ebpf.engine.runtime.build import key
from ebpf.engine.runtime.call import Function, packet_function
from ebpf.engine.runtime.contexts import REWRITES, Place
from ebpf.engine.runtime.library import address, helper_address, helpers, library

__all__ = ["REWRITES", "Function", "Place", "address", "helper_address", "helpers", "key", "library", "packet_function"]
