"""Programs on a laboratory's interfaces: XDP, and the filters of tcx on either side, attached as they are or held by links."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ebpf.engine.runtime.abi import Wire
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user.objects import LinkObject, Object, ProgramObject
from ebpf.kernels.user.surroundings import Wires
from ebpf.sys import calls
from ebpf.sys.calls import Call
from ebpf.uapi import AttachType, LinkType, ProgType, XdpFlag

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel
    from ebpf.kernels.user.state import State

_SIDES: Final[dict[int, int]] = {AttachType.TCX_INGRESS: Wire.INGRESS, AttachType.TCX_EGRESS: Wire.EGRESS}
_MOST = 64
_BEFORE, _AFTER = 1 << 3, 1 << 4
_XDP = "net attach xdp"


@dataclass(slots=True)
class _Row:
    """A filter: its program, and the link that holds it (None: it was attached as it is)."""

    program: ProgramObject
    link: LinkObject | None = None


class Interfaces:
    """What is attached to the interfaces of one user kernel."""

    def __init__(self, state: "State") -> None:
        self._state = state
        self._rows: dict[tuple[int, int], list[_Row]] = {}
        self._xdp_links: dict[int, LinkObject] = {}

    # -- XDP

    def xdp(self, ifindex: int, program: ProgramObject | None, flags: int) -> None:
        """Put an XDP program on an interface, or (None) take it off."""
        wires = self._wires(_XDP)
        if ifindex in self._xdp_links:
            raise KernelError(errno.EBUSY, _XDP, "Can't replace active BPF XDP link")
        if program is None:
            old = wires.detach(ifindex, flags)
        else:
            _require(program, ProgType.XDP, _XDP)
            old = wires.attach(ifindex, program, flags)
            self._state.registry.hold(program)
        if old is not None:
            self._state.registry.release(old)

    def xdp_link(self, ifindex: int, program: ProgramObject, flags: int) -> LinkObject:
        """The same by a link. EBUSY where there is a program already."""
        _require(program, ProgType.XDP, "bpf(LINK_CREATE)")
        wires = self._wires("bpf(LINK_CREATE)")
        wires.attach(ifindex, program, flags | XdpFlag.UPDATE_IF_NOEXIST)

        def undo() -> None:
            self._xdp_links.pop(ifindex, None)
            wires.detach(ifindex, flags)
            link.detail = _nowhere(link)

        def change(new: ProgramObject) -> None:
            wires.attach(ifindex, new, flags)

        link = LinkObject(program, int(LinkType.XDP), {"ifindex": ifindex}, undo, change=change)
        self._xdp_links[ifindex] = link
        return link

    # -- tcx

    def attach(self, ifindex: int, kind: int, program: ProgramObject, flags: int) -> None:
        """Add a filter at the end of a side, with BPF_F_BEFORE at its beginning. EEXIST where the program is there already."""
        self._insert(ifindex, _side(kind, "PROG_ATTACH"), _Row(program), flags, None, "bpf(PROG_ATTACH)")
        self._state.registry.hold(program)

    def detach(self, ifindex: int, kind: int, program: ProgramObject | None) -> None:
        """Take a filter off a side; None: the last. ENOENT where there is none, EBUSY for one that a link holds."""
        call = "bpf(PROG_DETACH)"
        side = _side(kind, "PROG_DETACH")
        rows = self._rows.get((ifindex, side), [])
        row = next((row for row in reversed(rows) if program is None or row.program is program), None)
        if row is None:
            raise KernelError(errno.ENOENT, call)
        if row.link is not None:
            raise KernelError(errno.EBUSY, call)
        self._remove(ifindex, side, row)
        self._state.registry.release(row.program)

    def query(self, ifindex: int, kind: int) -> calls.Attached:
        """The filters of a side, in order."""
        rows = self._rows.get((ifindex, _side(kind, "PROG_QUERY")), [])
        nothing = (0,) * len(rows)
        links = tuple(row.link.id if row.link is not None else 0 for row in rows)
        return calls.Attached(tuple(row.program.id for row in rows), nothing, links, nothing)

    def tcx_link(self, ifindex: int, kind: int, program: ProgramObject, flags: int, anchor: Object | None) -> LinkObject:
        """A filter that a link holds, beside another program or link of the side, or at its end."""
        side = _side(kind, "LINK_CREATE")
        row = _Row(program)

        def change(new: ProgramObject) -> None:
            row.program = new
            self._tell(ifindex, side)

        def undo() -> None:
            self._remove(ifindex, side, row)
            link.detail = _nowhere(link)

        link = LinkObject(program, int(LinkType.TCX), {"ifindex": ifindex, "attach_type": int(kind)}, undo, change=change)
        row.link = link
        self._insert(ifindex, side, row, flags, anchor, "bpf(LINK_CREATE)")
        return link

    def _insert(self, ifindex: int, side: int, row: _Row, flags: int, anchor: Object | None, call: str) -> None:
        _require(row.program, ProgType.SCHED_CLS, call)
        self._wires(call)
        if flags & ~(_BEFORE | _AFTER):
            raise NotSupportedError(call, f"of the flags before and after are built, not {flags:#x}")
        rows = self._rows.setdefault((ifindex, side), [])
        if any(each.program is row.program for each in rows):
            raise KernelError(errno.EEXIST, call, "the program is there already")
        if len(rows) == _MOST:
            raise KernelError(errno.ERANGE, call, f"{_MOST} programs on a side are the most there can be")
        place = 0 if flags & _BEFORE else len(rows)
        if anchor is not None:
            found = [i for i, each in enumerate(rows) if anchor in (each.program, each.link)]
            if not found:
                raise KernelError(errno.ENOENT, call)
            place = found[0] + (not flags & _BEFORE)
        rows.insert(place, row)
        try:
            self._tell(ifindex, side)
        except (KernelError, NotSupportedError):
            rows.remove(row)
            raise

    def _remove(self, ifindex: int, side: int, row: _Row) -> None:
        self._rows[ifindex, side].remove(row)
        self._tell(ifindex, side)

    def _tell(self, ifindex: int, side: int) -> None:
        self._wires("net attach").filter(ifindex, side, [row.program for row in self._rows[ifindex, side]])

    def _wires(self, call: str) -> Wires:
        if self._state.wires is None:
            raise NotSupportedError(
                call,
                "the user kernel does not see live interfaces",
                hint="Replay a capture with `ebpf prog run OBJ --pcap FILE`, open a laboratory with `ebpf lab`, or use --kernel linux",
            )
        return self._state.wires


def _nowhere(link: LinkObject) -> dict[str, int | str]:
    """What a link tells of itself once it is detached: it is on no interface."""
    return {**link.detail, "ifindex": 0}


def _side(kind: int, command: str) -> int:
    if kind not in _SIDES:
        raise NotSupportedError(
            f"bpf({command})", "in the user kernel programs are attached so to tcx only", hint="Run with --kernel linux"
        )
    return _SIDES[kind]


def _require(program: ProgramObject, kind: ProgType, call: str) -> None:
    if program.program.call.prog_type != kind:
        # As terse as Linux: what goes with it is printed as the kernel's own words.
        raise KernelError(errno.EINVAL, call)


# -- the commands of bpf(2)


def _attach(kernel: "UserKernel", call: calls.ProgAttach) -> None:
    _side(call.attach_type, "PROG_ATTACH")
    program = kernel.program_at(call.prog_fd, "bpf(PROG_ATTACH)")
    kernel.state.interfaces.attach(call.target_fd, call.attach_type, program, call.flags)


def _detach(kernel: "UserKernel", call: calls.ProgDetach) -> None:
    _side(call.attach_type, "PROG_DETACH")
    program = kernel.program_at(call.prog_fd, "bpf(PROG_DETACH)") if call.prog_fd else None
    kernel.state.interfaces.detach(call.target_fd, call.attach_type, program)


def _query(kernel: "UserKernel", call: calls.ProgQuery) -> calls.Attached:
    return kernel.state.interfaces.query(call.target, call.attach_type)


def link_on_interface(kernel: "UserKernel", call: calls.LinkCreate) -> LinkObject:
    """Attach a program to an interface by a link: XDP or tcx."""
    what = "bpf(LINK_CREATE)"
    interfaces = kernel.state.interfaces
    if call.attach_type == AttachType.XDP:
        return interfaces.xdp_link(call.target, kernel.program_at(call.prog_fd, what), call.flags)
    _side(call.attach_type, "LINK_CREATE")
    options = call.options
    near = options.relative_fd if isinstance(options, calls.Anchor) else 0
    anchor = kernel.table.get(near, Object, what) if near else None
    return interfaces.tcx_link(call.target, call.attach_type, kernel.program_at(call.prog_fd, what), call.flags, anchor)


def _link_update(kernel: "UserKernel", call: calls.LinkUpdate) -> None:
    what = "bpf(LINK_UPDATE)"
    link = kernel.table.get(call.link_fd, LinkObject, what)
    new = kernel.program_at(call.new_fd, what)
    if call.old_fd and kernel.program_at(call.old_fd, what) is not link.program:
        raise KernelError(errno.EPERM, what, "the link has another program than the one to be replaced")
    _require(new, ProgType(link.program.program.call.prog_type), what)
    old = link.change(new)
    kernel.state.registry.hold(new)
    kernel.state.registry.release(old)


INTERFACE_COMMANDS: Final[dict[type[Call[Any]], Callable[["UserKernel", Any], Any]]] = {
    calls.ProgAttach: _attach,
    calls.ProgDetach: _detach,
    calls.ProgQuery: _query,
    calls.LinkUpdate: _link_update,
}
