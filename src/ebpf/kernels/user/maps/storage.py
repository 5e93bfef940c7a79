"""Storage that goes with tasks and cgroups: maps whose keys are descriptors of them."""

import errno
import os
from pathlib import Path
from typing import ClassVar

from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import FD_ACCESS, Map, bad, round8
from ebpf.kernels.user.maps.hash import build_hash
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag

#: What one owner's value may have at most: Linux keeps its own head of an element in front of it.
_LARGEST = 65535 - 80
#: How many owners there can be at one time, if their values take no more memory than that.
_OWNERS, _MEMORY, _FEWEST = 32768, 64 << 20, 64


class Storage(Map):
    """A value for each task or cgroup that has one; programs find it by the object. `max_entries` is 0: there is no limit to say."""

    FLAGS = FD_ACCESS | MapFlag.NO_PREALLOC | MapFlag.CLONE
    INNER: ClassVar[bool] = False
    BY_DESCRIPTOR: ClassVar[bool] = True

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Keys are descriptors, types are known, and nothing is allocated beforehand."""
        if not call.flags & MapFlag.NO_PREALLOC or call.max_entries or call.key_size != 4 or not call.value_size:
            raise bad("storage needs flag no_prealloc, keys of 4 bytes, a value and max_entries 0")
        if not call.btf_key_type_id or not call.btf_value_type_id:
            raise bad("storage needs the types of its keys and values")
        if call.value_size > _LARGEST:
            raise bad(f"a value of {call.value_size} bytes", errno.E2BIG)

    def build(self) -> None:
        """A hash by the number that the runtime knows an owner by."""
        stored = round8(self.spec.value_size)
        self.header.key_size = 8
        build_hash(self, max(min(_OWNERS, _MEMORY // stored), _FEWEST), stored)

    @property
    def max_entries(self) -> int:
        """As it was said: 0."""
        return 0

    def owner(self, key: bytes, call: str) -> bytes:
        """The number of the owner that a descriptor stands for. KernelError EBADF if it stands for none, ENOENT if that is gone."""
        raise NotImplementedError

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The owner's value."""
        self.key(key, "map_lookup_elem")
        return self.read_raw(self.owner(key, "map_lookup_elem"), flags)

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Write the owner's value."""
        call = "map_update_elem"
        self.key(key, call)
        self.put_raw(self.owner(key, call), self.value(value, call), flags)

    def delete(self, key: bytes) -> None:
        """Remove the owner's value."""
        self.key(key, "map_delete_elem")
        self.remove_raw(self.owner(key, "map_delete_elem"))


class TaskStorage(Storage):
    """BPF_MAP_TYPE_TASK_STORAGE: keys are pidfds."""

    def owner(self, key: bytes, call: str) -> bytes:
        """The thread's id, and when it began: the id may be another's later."""
        fd = int.from_bytes(key, "little", signed=True)
        try:
            info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        except OSError:
            raise KernelError(errno.EBADF, call, f"descriptor {fd}") from None
        pid = next((line.split()[1] for line in info.splitlines() if line.startswith("Pid:")), "")
        if not pid:
            raise KernelError(errno.EBADF, call, f"descriptor {fd} is of no process")
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            raise KernelError(errno.ENOENT, call, "the process has ended") from None
        began = int(stat.rpartition(")")[2].split()[19]) & 0xFFFFFFFF
        return (int(pid) | began << 32).to_bytes(8, "little")


class CgroupStorage(Storage):
    """BPF_MAP_TYPE_CGRP_STORAGE: keys are descriptors of folders of cgroup2."""

    def owner(self, key: bytes, call: str) -> bytes:
        """The cgroup's id."""
        fd = int.from_bytes(key, "little", signed=True)
        if file_system(fd) != "cgroup2":
            raise KernelError(errno.EBADF, call, f"descriptor {fd} is no folder of cgroup2")
        return os.fstat(fd).st_ino.to_bytes(8, "little")


def file_system(fd: int) -> str:
    """The type of file system that an open file is on; "" if that cannot be told."""
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""
    number = next((line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")), "")
    for line in mounts.splitlines():
        if line.split(" ", 1)[0] == number:
            return line.partition(" - ")[2].split(" ", 1)[0]
    return ""
