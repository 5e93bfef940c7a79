"""Pins that outlive a restart: written down as the calls that make them, and made again by those calls, verifier included.

What belongs to processes is not kept: links, records in buffers, stack traces, and elements that are perf events, cgroups or
interfaces.
"""

import errno
import os
import stat
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebpf.errors import EbpfError, KernelError, UsageError
from ebpf.isa import decode
from ebpf.kernels.user import UserKernel
from ebpf.kernels.user.load import show_ids
from ebpf.kernels.user.maps import Holding
from ebpf.kernels.user.objects import BtfObject, MapObject, Object, ProgramObject
from ebpf.kernels.user.state import State
from ebpf.sys import wire
from ebpf.sys.calls import BtfLoad, MapCreate, MapUpdate, ObjPin, ProgLoad

_FORMAT = 1
# More than this of one map is not kept.
_LARGEST = 1 << 30


class Saved:
    """The file, at `path`, that pins are kept in. `when` is the time of the last save that was read, as text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.when = ""

    def save(self, state: State) -> list[str]:
        """Write down what is pinned. The answer is what could not be: 'path (why)'. Raises OSError where the file cannot be written."""
        writing = _Writing()
        left_out, pins = [], {}
        for path, held in state.pins.items():
            try:
                pins[path] = writing.place(held)
            except KernelError as error:
                left_out.append(f"{path} ({error.why})")
        writing.fill()
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        self._write(wire.encode({"format": _FORMAT, "when": when, "objects": writing.rows, "elements": writing.elements, "pins": pins}))
        return left_out

    def _write(self, data: bytes) -> None:
        new = self.path.with_name(f"{self.path.name}.new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        # Whoever is killed here leaves the old one or the new one.
        os.replace(new, self.path)

    def restore(self, state: State) -> list[str]:
        """Make again what was saved. The answer is what could not be: 'path (why)'."""
        try:
            data = self._read()
        except OSError as error:
            return [f"{self.path} ({(error.strerror or str(error)).lower()})"]
        if data is None:
            return []
        with UserKernel(state) as kernel:
            try:
                kept = wire.decode(data)
                if kept["format"] != _FORMAT:
                    raise ValueError("of another version")
                making = _Making(kernel)
                for row in kept["objects"]:
                    making.make(*row)
                for place, key, which in kept["elements"]:
                    making.put(place, key, which)
                self.when = str(kept["when"])
                return [line for path, place in kept["pins"].items() if (line := making.pin(path, place))]
            except (wire.WireError, KeyError, TypeError, ValueError, IndexError) as error:
                return [f"{self.path} (garbled: {error})"]

    def _read(self) -> bytes | None:
        """The file, which must be this user's own; None if there is none."""
        with suppress(FileNotFoundError):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                    raise PermissionError(errno.EPERM, "not a file of yours that nobody else can write")
                return file.read()
        return None


class _Writing:
    """Objects as rows, each after those that it needs."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self.elements: list[list[Any]] = []
        self._places: dict[int, int] = {}
        self._unfilled: list[tuple[int, Holding]] = []

    def place(self, held: Object | None) -> int:
        """The number of an object's row, which is written if it is not there yet; -1 for none."""
        if held is None:
            return -1
        found = self._places.get(id(held))
        if found is None:
            row = self._row(held)
            found = self._places[id(held)] = len(self.rows)
            self.rows.append(row)
            if isinstance(held, MapObject) and isinstance(held.map, Holding):
                self._unfilled.append((found, held.map))
        return found

    def _row(self, held: Object) -> list[Any]:
        if isinstance(held, BtfObject):
            return ["btf", held.btf.raw]
        if isinstance(held, MapObject):
            if held.memory > _LARGEST:
                raise KernelError(errno.EFBIG, "save", f"map {held.map.spec.name}: {held.memory} bytes are too many to be kept")
            inner = held.map.inner.spec if isinstance(held.map, Holding) and held.map.inner is not None else None
            return ["map", held.map.spec, inner, self.place(held.btf), held.map.contents(), held.map.frozen]
        if isinstance(held, ProgramObject):
            maps = {fd: self.place(map_) for fd, map_ in held.maps.items()}
            return ["program", replace(held.program.call, log_level=0), maps, self.place(held.btf)]
        raise KernelError(errno.ENOTSUP, "save", "a link belongs to what it is attached to")

    def fill(self) -> None:
        """Write what maps of maps and of programs hold, and what that holds."""
        while self._unfilled:
            place, held = self._unfilled.pop()
            for key, thing in held.things.items():
                if isinstance(thing, (MapObject, ProgramObject)):
                    self.elements.append([place, key, self.place(thing)])


class _Making:
    """Objects out of rows, by the calls of any client."""

    def __init__(self, kernel: UserKernel) -> None:
        self._kernel = kernel
        self._fds: list[int] = []
        self._why: dict[int, str] = {}

    def make(self, kind: str, *row: Any) -> None:
        """One row's object; what goes wrong is told at the pins that need it."""
        fd = -1
        try:
            match kind:
                case "btf":
                    fd = self._kernel.bpf(BtfLoad(*row))
                case "map":
                    fd = self._map(*row)
                case "program":
                    fd = self._program(*row)
        except EbpfError as error:
            self._why[len(self._fds)] = str(error)
        self._fds.append(fd)

    def _fd(self, place: int) -> int:
        if self._fds[place] < 0:
            raise UsageError(self._why.get(place, "unknown to this version"))
        return self._fds[place]

    def _map(self, create: MapCreate, inner: MapCreate | None, btf: int, contents: dict[str, Any], frozen: bool) -> int:
        template = self._kernel.bpf(replace(inner, btf_fd=0, inner_map_fd=0)) if inner is not None else 0
        try:
            fd = self._kernel.bpf(replace(create, btf_fd=self._fd(btf) if btf >= 0 else 0, inner_map_fd=template))
        finally:
            if template:
                self._kernel.close(template)
        held = self._kernel.map_at(fd, "restore").map
        if contents:
            held.fill(contents)
        if frozen:
            held.freeze()
        return fd

    def _program(self, load: ProgLoad, maps: dict[int, int], btf: int) -> int:
        insns = show_ids(decode(load.insns), {old: self._fd(place) for old, place in maps.items()})
        return self._kernel.bpf(replace(load, insns=insns, btf_fd=self._fd(btf) if btf >= 0 else 0)).fd

    def put(self, place: int, key: bytes, which: int) -> None:
        """One element of a map of maps or programs; it stays empty where what it held is lost."""
        with suppress(EbpfError):
            self._kernel.bpf(MapUpdate(self._fd(place), key, self._fd(which).to_bytes(4, "little")))

    def pin(self, path: str, place: int) -> str:
        """Pin an object again; why not, if that cannot be."""
        try:
            self._kernel.bpf(ObjPin(path, self._fd(place)))
        except EbpfError as error:
            return f"{path} ({error})"
        return ""
