"""A folder that shows pins as files, as bpffs does: who removes a file there unpins, who renames it renames the pin."""

import ctypes
import errno
import os
import struct
from contextlib import suppress
from pathlib import Path

from ebpf.errors import KernelError
from ebpf.kernels.user.state import State

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _IS_FOLDER = 0x40, 0x80, 0x100, 0x200, 0x4000_0000
_WATCHED = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_EVENT = struct.Struct("iIII")


class ShownPins:
    """An empty file for each pin below a folder, kept as the pins are; what is done to the files is done to the pins.

    `fileno()` can be read when `changed()` has something to do. Close it.
    """

    def __init__(self, folder: str, state: State) -> None:
        self._folder = Path(folder)
        self._state = state
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
        self._watched: dict[int, Path] = {}
        # Files that are ours, as they stand.
        self._files: set[Path] = set()
        self._watch(self._folder)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._fd

    def show(self) -> None:
        """Have a file for each pin, and none for what is no pin any more."""
        wanted = {Path(pin) for pin in self._state.pins if Path(pin).is_relative_to(self._folder)}
        for path in self._files - wanted:
            with suppress(OSError):
                path.unlink()
        for path in sorted(wanted - self._files):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._watch(path.parent)
                path.touch(mode=0o600)
        self._files = wanted

    def changed(self) -> None:
        """Do to the pins what was done to the files."""
        moved: dict[int, Path] = {}
        for descriptor, mask, cookie, name in self._events():
            folder = self._watched.get(descriptor)
            if folder is None:
                continue
            path = folder / name
            if mask & _IS_FOLDER:
                if mask & (_CREATE | _MOVED_TO):
                    self._watch(path)
            elif mask & _MOVED_FROM:
                moved[cookie] = path
            elif mask & _MOVED_TO and cookie in moved:
                self._rename(moved.pop(cookie), path)
            elif mask & _DELETE:
                self._gone(path)
        for path in moved.values():
            self._gone(path)

    def close(self) -> None:
        """End watching. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _watch(self, folder: Path) -> None:
        descriptor = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _WATCHED)
        if descriptor >= 0:
            self._watched[descriptor] = folder

    def _events(self) -> list[tuple[int, int, int, str]]:
        out = []
        with suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(data):
                    descriptor, mask, cookie, size = _EVENT.unpack_from(data, at)
                    at += _EVENT.size
                    name = os.fsdecode(data[at : at + size].split(b"\0", 1)[0])
                    at += size
                    out.append((descriptor, mask, cookie, name))
        return out

    def _gone(self, path: Path) -> None:
        """A file is gone: by another's hand, unless its pin went before it."""
        if path in self._files and not os.path.lexists(path):
            self._files.discard(path)
            with suppress(KernelError):
                self._state.unpin(str(path))

    def _rename(self, old: Path, new: Path) -> None:
        if old not in self._files:
            return
        self._files.discard(old)
        self._files.add(new)
        try:
            self._state.rename(str(old), str(new))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            self._files.discard(new)
