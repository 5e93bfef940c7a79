"""What libbpf says of an object that cannot be read, and of a program that the kernel does not take."""

from collections.abc import Iterator, Sequence

from ebpf.btf import Btf
from ebpf.cli import steps
from ebpf.errors import FormatError, KernelError, NotFoundError, VerifierError, errno_name


def reading(error: FormatError, data: bytes, path: str) -> Sequence[str]:
    """What libbpf says of an object that it cannot read."""
    if not data.startswith(b"\x7fELF"):
        return [f"elf: '{path}' is not a proper ELF object"]
    if error.where == "ELF header" or "machine" in error.why:
        return [f"elf: {path} is not a valid eBPF object file"]
    if error.why.endswith(" is declared but defined nowhere"):
        return [_extern(error.why.split("'")[1], data, path)]
    if error.where == "section 'maps'":
        return ["elf: legacy map definitions in 'maps' section are not supported by libbpf v1.0+"]
    return [str(error)]


def _extern(name: str, data: bytes, path: str) -> str:
    """What libbpf says of a name that is defined nowhere."""
    from ebpf.elf import read_elf

    types = read_elf(data, path).section(".BTF")
    id_ = next((t.id for t in Btf.parse(types.data, path) if t.name == name), 0) if types is not None else 0
    return f"failed to find BTF for extern '{name}' [{id_}] section: -2" if id_ else f"failed to find BTF for extern '{name}': -2"


def refused(error: VerifierError | NotFoundError | KernelError) -> Iterator[str]:
    """What libbpf says of a program that cannot be loaded."""
    code = errno_name(error.errno)
    prog = f"prog '{error.program}'"
    if isinstance(error, NotFoundError):
        if not error.where.endswith(repr(error.program)):
            yield f"extern (func ksym) '{error.name}': not found in kernel or module BTFs"
            return
        yield f"{prog}: failed to find kernel BTF type ID of '{error.name}': -{code}"
        yield f"{prog}: failed to prepare load attributes: -{code}"
    else:
        yield f"{prog}: BPF program load failed: -{code}"
        if error.log:
            yield steps.log(error.program, error.log)
    yield f"{prog}: failed to load: -{code}"
