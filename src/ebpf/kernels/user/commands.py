"""The command table of the user kernel: programs, types, pins, ids and links here; maps and infos in files of their own."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from ebpf.errors import KernelError
from ebpf.kernels.user.events import PerfEvent
from ebpf.kernels.user.info import INFO_COMMANDS
from ebpf.kernels.user.interfaces import INTERFACE_COMMANDS, link_on_interface
from ebpf.kernels.user.jobs import btf_job, load_job, run_job
from ebpf.kernels.user.map_commands import MAP_COMMANDS
from ebpf.kernels.user.objects import BtfObject, LinkObject, MapObject, Object, ProgramObject, access
from ebpf.sys import calls
from ebpf.sys.calls import Call
from ebpf.uapi import AttachType, LinkType, ProgType

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel

_KINDS: Final[dict[str, type[Object]]] = {"PROG": ProgramObject, "MAP": MapObject, "BTF": BtfObject, "LINK": LinkObject}


def _btf_load(kernel: "UserKernel", call: calls.BtfLoad) -> int:
    return cast(int, btf_job(kernel, call).here())


def _prog_load(kernel: "UserKernel", call: calls.ProgLoad) -> calls.Loaded:
    return cast(calls.Loaded, load_job(kernel, call).here())


def _test_run(kernel: "UserKernel", call: calls.ProgTestRun) -> calls.TestRunResult:
    return cast(calls.TestRunResult, run_job(kernel, call).here())


def _pin(kernel: "UserKernel", call: calls.ObjPin) -> None:
    held = kernel.table.get(call.fd, Object, "bpf(OBJ_PIN)")
    if not isinstance(held, (MapObject, ProgramObject, LinkObject)):
        raise KernelError(errno.EINVAL, "bpf(OBJ_PIN)", f"descriptor {call.fd} is no map, program or link")
    kernel.state.pin(call.path, held)


def _obj_get(kernel: "UserKernel", call: calls.ObjGet) -> int:
    return kernel.table.open(kernel.state.at_path(call.path), access(call.file_flags))


def _next_id(kernel: "UserKernel", call: calls.NextId) -> int:
    return kernel.state.registry.next_id(_KINDS[call.cmd.name.split("_")[0]], call.start)


def _fd_by_id(kernel: "UserKernel", call: calls.FdById) -> int:
    return kernel.table.open(kernel.state.registry.by_id(_KINDS[call.cmd.name.split("_")[0]], call.id))


def _raw_tracepoint(kernel: "UserKernel", call: calls.RawTracepointOpen) -> int:
    program = kernel.program_at(call.prog_fd, "bpf(RAW_TRACEPOINT_OPEN)")
    if program.program.call.prog_type not in (ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE):
        raise KernelError(errno.EINVAL, "bpf(RAW_TRACEPOINT_OPEN)", "the program is no raw tracepoint program")
    return kernel.table.add(kernel.state.events.raw_tracepoint(call.name, program))


def _link_create(kernel: "UserKernel", call: calls.LinkCreate) -> int:
    where = "bpf(LINK_CREATE)"
    if call.attach_type != AttachType.PERF_EVENT:
        return kernel.table.add(link_on_interface(kernel, call))
    program = kernel.program_at(call.prog_fd, where)
    event = kernel.table.get(call.target, PerfEvent, where)
    if call.flags or call.options is not None:
        raise KernelError(errno.EINVAL, where, "links on events have no flags and no options")
    kernel.require_processes()
    return kernel.table.add(kernel.state.events.link(event, program, kernel.lab.process, call.cookie))


def _link_detach(kernel: "UserKernel", call: calls.LinkDetach) -> None:
    where = "bpf(LINK_DETACH)"
    held = kernel.table.get(call.link_fd, LinkObject, where)
    if held.kind == LinkType.PERF_EVENT:
        raise KernelError(errno.EOPNOTSUPP, where, "a link on an event is closed, not detached")
    held.detach()


COMMANDS: Final[dict[type[Call[Any]], Callable[["UserKernel", Any], Any]]] = {
    **MAP_COMMANDS,
    **INFO_COMMANDS,
    **INTERFACE_COMMANDS,
    calls.BtfLoad: _btf_load,
    calls.ProgLoad: _prog_load,
    calls.ProgTestRun: _test_run,
    calls.ObjPin: _pin,
    calls.ObjGet: _obj_get,
    calls.NextId: _next_id,
    calls.FdById: _fd_by_id,
    calls.RawTracepointOpen: _raw_tracepoint,
    calls.LinkCreate: _link_create,
    calls.LinkDetach: _link_detach,
}
