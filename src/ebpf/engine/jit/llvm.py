"""LLVM IR to an object file, by llvmlite."""

from functools import lru_cache
from typing import Any

from ebpf.errors import NotSupportedError


@lru_cache(maxsize=1)
def _machine() -> Any:
    """The code generator for this processor. Importing llvmlite takes 60 to 160 ms: once, and only to compile."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise NotSupportedError("the JIT", "llvmlite is not installed", hint="pip install llvmlite") from error
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2, reloc="pic", codemodel="small"
    )


def warm_up() -> None:
    """Do beforehand what the first compilation would: for a thread beside something that waits."""
    _machine()


@lru_cache(maxsize=1)
def processor() -> str:
    """What machine code depends on besides its source: the processor and LLVM's version, without importing LLVM."""
    import platform
    from importlib.metadata import version

    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            wanted = {"model name", "flags", "CPU part", "Features"}
            model += "".join(sorted({line for line in file.read(16384).splitlines() if line.partition("\t")[0] in wanted}))
    except OSError:
        model += platform.processor()
    return f"{model} llvmlite {version('llvmlite')}"


def compile_ir(text: str) -> bytes:
    """Optimise (O2) and compile a module to a relocatable object."""
    import llvmlite.binding as llvm

    machine = _machine()
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))
