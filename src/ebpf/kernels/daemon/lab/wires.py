"""XDP programs and filters on the laboratory's interfaces."""

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import KNOW_ALL, Env, Wire
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.daemon.lab.network import Network, sender, tap
from ebpf.kernels.daemon.lab.queue import NUMBER, hold_back, pass_by
from ebpf.kernels.user.objects import ProgramObject
from ebpf.sys.kernel import XdpState
from ebpf.uapi import XdpFlag

_CALL = "net attach xdp"
# The size of an interface's ring, in blocks of 128 KiB (32 frames).
_BLOCKS = 64


class _Loop:
    """Packets of one direction, served by a native thread. With `queue` they are held back in the kernel until they are judged."""

    def __init__(self, wire: Wire, env: Env, *, queue: int = 0) -> None:
        self.wire = wire
        self.wire.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._env = env
        lib, at = library(), ctypes.byref(wire)
        failed = -(lib.rt_queue_open(at) if queue else lib.rt_wire_open(at, _BLOCKS))
        if failed:
            lib.rt_wire_close(at)
            os.close(wire.wake)
            raise OSError(failed, os.strerror(failed), "packet ring")

        def serve() -> None:
            if queue:
                lib.rt_queue_loop(at, ctypes.byref(env), queue)
            else:
                lib.rt_wire_loop(at, ctypes.byref(env))

        self._thread = threading.Thread(target=serve, name="ebpf-wire", daemon=True)
        self._thread.start()

    def set(self, entry: int) -> None:
        """Change the program (0: none)."""
        library().rt_wire_set(ctypes.byref(self.wire), entry or None)

    def filter(self, side: int, entries: Sequence[int]) -> None:
        """Change the filters of a side of the interface (Wire.INGRESS or EGRESS)."""
        library().rt_wire_chain(ctypes.byref(self.wire), side, (ctypes.c_void_p * len(entries))(*entries), len(entries))

    @property
    def idle(self) -> bool:
        """Whether no program wants to see its packets."""
        return not self.wire.prog and not any(chain.count for chain in self.wire.chains)

    def close(self) -> None:
        """End the thread."""
        self.wire.stop = 1
        os.eventfd_write(self.wire.wake, 1)
        self._thread.join(5)
        if self.wire.ended:
            library().rt_wire_close(ctypes.byref(self.wire))
        os.close(self.wire.wake)


class _Loopback:
    """The loopback's packets, while programs want to see them: held back until they are judged, or else seen as they pass."""

    def __init__(self, ifindex: int, env: Env) -> None:
        self._inline = True
        with ExitStack() as failed:
            try:
                back = failed.enter_context(sender("lo"))
                queue = failed.enter_context(hold_back())
            except OSError:
                self._inline = False
                back = failed.enter_context(tap("lo"))
                wire = Wire(input=back.fileno(), output=-1, ifindex=ifindex, both=True)
            else:
                failed.callback(pass_by)
                wire = Wire(input=queue.fileno(), output=back.fileno(), ifindex=ifindex, both=True)
            self.loop = _Loop(wire, env, queue=NUMBER if self._inline else 0)
            self._sockets = [back, queue] if self._inline else [back]
            failed.pop_all()

    def close(self) -> None:
        """Let the packets pass: those that are held back are judged first."""
        if self._inline:
            pass_by()
        self.loop.close()
        for each in self._sockets:
            each.close()


class LabWires:
    """`eth0` and `lo`; where the host cannot hold the loopback's packets back, programs look on there, and their verdict is nothing."""

    def __init__(self, network: Network, env: "EnvMaker") -> None:
        self._network = network
        self._env = env
        self._attached: dict[int, tuple[ProgramObject, str]] = {}
        self._lo: _Loopback | None = None
        near, far = network.near.fileno(), network.far.fileno()
        self._in = _Loop(Wire(input=far, output=near, ifindex=network.eth0, mac=(ctypes.c_uint8 * 6)(*network.mac)), env())
        self._out = _Loop(Wire(input=near, output=far, ifindex=network.eth0, outward=True), env())
        self._closed = False

    def interfaces(self) -> Mapping[str, int]:
        """The lab's interfaces."""
        return {name: index for index, name in socket.if_nameindex()}

    def attach(self, ifindex: int, program: ProgramObject, flags: int) -> ProgramObject | None:
        """Run a program on each packet that an interface receives."""
        name = self._name(ifindex, _CALL)
        if flags & XdpFlag.HW_MODE:
            # Linux says no more of a driver without hardware for programs.
            raise KernelError(errno.EINVAL, _CALL)
        old = self._attached.get(ifindex)
        if old is not None and flags & (XdpFlag.SKB_MODE if old[1] == "xdpdrv" else XdpFlag.DRV_MODE):
            raise KernelError(errno.EEXIST, _CALL, "Native and generic XDP can't be active at the same time")
        if name == "lo" and flags & XdpFlag.DRV_MODE:
            raise KernelError(errno.EOPNOTSUPP, _CALL, "lo takes programs in generic mode only, as on Linux")
        if old is not None and flags & XdpFlag.UPDATE_IF_NOEXIST:
            raise KernelError(errno.EBUSY, _CALL, "XDP program already attached")
        entry = _entry(program, _CALL)
        if name == "eth0":
            self._in.set(entry)
        else:
            self._on_lo(ifindex).set(entry)
        mode = "xdpgeneric" if name == "lo" or flags & XdpFlag.SKB_MODE else "xdpdrv"
        self._attached[ifindex] = (program, mode)
        return old[0] if old is not None else None

    def _name(self, ifindex: int, call: str) -> str:
        """The name of an interface that programs can be on."""
        name = next((name for name, index in self.interfaces().items() if index == ifindex), None)
        if name is None:
            raise KernelError(errno.ENODEV, call, f"there is no interface {ifindex}")
        if name not in ("lo", "eth0"):
            raise NotSupportedError(f"{call} dev {name}", "the lab sees the packets of lo and eth0")
        return name

    def filter(self, ifindex: int, side: int, programs: Sequence[ProgramObject]) -> None:
        """Run programs one after the other on what comes in at an interface (side 0), or goes out of it (1)."""
        call = "net attach tcx"
        entries = [_entry(program, call) for program in programs]
        if self._name(ifindex, call) == "eth0":
            # What is sent back where it came from goes out too.
            for loop in (self._in, self._out) if side == Wire.EGRESS else (self._in,):
                loop.filter(side, entries)
        else:
            self._on_lo(ifindex).filter(side, entries)
            self._rest_lo()

    def _on_lo(self, ifindex: int) -> _Loop:
        if self._lo is None:
            self._lo = _Loopback(ifindex, self._env())
        return self._lo.loop

    def detach(self, ifindex: int, flags: int) -> ProgramObject | None:
        """Take the program off an interface."""
        del flags
        old = self._attached.pop(ifindex, None)
        if old is None:
            return None
        if ifindex == self._network.eth0:
            self._in.set(0)
        elif self._lo is not None:
            self._lo.loop.set(0)
            self._rest_lo()
        return old[0]

    def _rest_lo(self) -> None:
        """Look no more at the loopback's packets if no program wants to."""
        if self._lo is not None and self._lo.loop.idle:
            self._end_lo()

    def _end_lo(self) -> None:
        if self._lo is not None:
            ended, self._lo = self._lo, None
            ended.close()

    def query(self) -> list[XdpState]:
        """What is attached where."""
        names = {index: name for name, index in self.interfaces().items()}
        return [XdpState(index, names.get(index, "?"), mode, program.id) for index, (program, mode) in sorted(self._attached.items())]

    def close(self) -> None:
        """Detach everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._attached.clear()
        self._end_lo()
        self._in.close()
        self._out.close()


def _entry(program: ProgramObject, call: str) -> int:
    """Where a program's machine code begins."""
    if not program.program.entry:
        raise NotSupportedError(call, "the interpreter serves no live packets", hint="unset EBPF_ENGINE: it needs machine code")
    return program.program.entry


class EnvMaker:
    """Makes the environment of a loop's programs: interrupts of an interface, which are nobody's task."""

    def __init__(self, trace_address: int, cpus: int, watch: Callable[[Env], None]) -> None:
        self._trace = trace_address
        self._cpus = cpus
        self._watch = watch

    def __call__(self) -> Env:
        env = Env()
        env.task.comm = b"<idle>"
        env.task.known = KNOW_ALL
        env.trace = self._trace
        env.random = int.from_bytes(os.urandom(8), "little") | 1
        env.ncpu = self._cpus
        self._watch(env)
        return env
