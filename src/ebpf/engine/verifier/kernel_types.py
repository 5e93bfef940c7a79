"""Kernel objects known by BTF: arguments of tracing programs, and what is read through pointers to kernel structs."""

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import Reg


def argument(env: Env, off: int, size: int, *, write: bool) -> Reg:
    """What a load of the context of a tracing program gives."""
    del off, size, write
    raise Unjudged("arguments known by BTF", env.slot)


def load_object(env: Env, reg: Reg, at: int, off: int, size: int, *, write: bool, signed: bool) -> Reg:
    """What a load through a pointer to a kernel struct gives."""
    del reg, at, off, size, write, signed
    raise Unjudged("kernel structs known by BTF", env.slot)


def load_map(env: Env, reg: Reg, at: int, start: int, size: int, *, write: bool) -> Reg:
    """What a load through a pointer to a map gives: a field of struct bpf_map."""
    del reg, at, start, size, write
    raise Unjudged("fields of struct bpf_map", env.slot)


def named(env: Env, name: str) -> int:
    """The id of a kernel struct in the kernel's BTF."""
    del name
    raise Unjudged("kernel structs known by BTF", env.slot)
