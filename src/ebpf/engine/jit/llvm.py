"""LLVM IR to an object file, by llvmlite."""

from functools import lru_cache
from typing import Any

from ebpf.errors import NotSupportedError


@lru_cache(maxsize=2)
def _machine(effort: int = 2) -> Any:
    """The code generator for this processor. Importing llvmlite takes 60 to 160 ms: once, and only to compile."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise NotSupportedError("the JIT", "llvmlite is not installed", hint="pip install llvmlite") from error
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=effort, reloc="pic", codemodel="small"
    )


@lru_cache(maxsize=1)
def _builder() -> Any:
    """What makes the pipelines of O2: one for all, because each one leaves 1.5 KB behind."""
    import llvmlite.binding as llvm

    return llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options(speed_level=2))


def _few_passes() -> Any:
    """What makes most of the difference for the least time: registers for variables."""
    import llvmlite.binding as llvm

    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    return passes


def warm_up() -> None:
    """Do beforehand what the first compilation would: for a thread beside something that waits."""
    _builder()


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


def compile_ir(text: str, *, quick: bool = False) -> bytes:
    """Optimise (O2) and compile a module to a relocatable object; `quick`: in a fifth of the time, code that is slower."""
    import llvmlite.binding as llvm

    machine = _machine(0 if quick else 2)
    # A context of its own, because it keeps every constant that it ever saw.
    module = llvm.parse_assembly(text, llvm.create_context())
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    builder = _builder()
    passes = _few_passes() if quick else builder.getModulePassManager()
    try:
        passes.run(module, builder)
    finally:
        # Its own close() frees nothing: the right _dispose is hidden by an empty one, and a pipeline has 50 KB.
        llvm.newpassmanagers.NewPassManager._dispose(passes)
        passes.detach()
    return bytes(machine.emit_object(module))
