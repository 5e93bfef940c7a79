"""Calls that take long, in two steps, so that a server can do the first beside others' calls."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ebpf.btf import Btf
from ebpf.errors import EbpfError, FormatError, KernelError
from ebpf.kernels.user import load as loader
from ebpf.kernels.user.objects import BtfObject, Object, ProgramObject
from ebpf.kernels.user.run import test_run
from ebpf.sys import calls
from ebpf.sys.calls import Call

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


class Job:
    """A call in two steps: work() needs nobody else's leave, finish() belongs to the thread that serves the kernel."""

    def __init__(self, kernel: "UserKernel", needs: list[Object], work: Callable[[], Any], finish: Callable[[Any], Any]) -> None:
        self._registry = kernel.state.registry
        self._grace = kernel.state.grace
        self._needs = needs
        self.work = work
        self._finish = finish
        for held in needs:
            self._registry.hold(held)

    def finish(self, result: Any, failure: EbpfError | None) -> Any:
        """The call's answer, from what work() gave or raised."""
        try:
            if failure is not None:
                raise failure
            return self._finish(result)
        finally:
            for held in self._needs:
                self._registry.release(held)
            self._grace.poll()

    def here(self) -> Any:
        """Both steps at once."""
        try:
            result, failure = self.work(), None
        except EbpfError as error:
            result, failure = None, error
        except BaseException:
            for held in self._needs:
                self._registry.release(held)
            raise
        return self.finish(result, failure)


def job(kernel: "UserKernel", call: Call[Any]) -> Job | None:
    """The work of a call that takes long, to be done beside others'; None for a call that does not."""
    if isinstance(call, calls.ProgLoad):
        return load_job(kernel, call)
    if isinstance(call, calls.ProgTestRun):
        return run_job(kernel, call)
    if isinstance(call, calls.BtfLoad):
        return btf_job(kernel, call)
    return None


def btf_job(kernel: "UserKernel", call: calls.BtfLoad) -> Job:
    """Reading BTF."""

    def parse() -> Btf:
        try:
            return Btf.parse(call.data)
        except FormatError as error:
            raise KernelError(errno.EINVAL, "bpf(BTF_LOAD)", str(error)) from error

    return Job(kernel, [], parse, lambda btf: kernel.table.add(BtfObject(btf)))


def load_job(kernel: "UserKernel", call: calls.ProgLoad) -> Job:
    """Loading a program."""
    kernel.alive("bpf(PROG_LOAD)")
    where = "bpf(PROG_LOAD)"
    insns = loader.bytecode(call)
    held = {fd: kernel.map_at(fd, where) for fd in loader.maps_named(insns)}
    btf = kernel.table.get(call.btf_fd, BtfObject, where) if call.btf_fd else None

    def finish(program: loader.LoadedProgram) -> calls.Loaded:
        return calls.Loaded(kernel.table.add(ProgramObject(program, dict(held), btf)), program.verdict.log)

    maps = {fd: m.map for fd, m in held.items()}
    types = {fd: m.btf.btf for fd, m in held.items() if m.btf is not None}
    return Job(
        kernel,
        [*held.values(), *([btf] if btf is not None else [])],
        lambda: loader.load(call, insns, maps, btf.btf if btf else None, types),
        finish,
    )


def run_job(kernel: "UserKernel", call: calls.ProgTestRun) -> Job:
    """A test run."""
    program = kernel.program_at(call.prog_fd, "bpf(PROG_TEST_RUN)")
    return Job(kernel, [program], lambda: test_run(kernel, program, call), lambda result: result)
