"""Stack traces: programs write them, user space reads and clears them."""

import errno

from ebpf.kernels.user.maps.base import FD_ACCESS, Map, bad
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag

#: The deepest stack, as the kernel's sysctl perf_event_max_stack has it.
_DEEPEST = 127
# An address, or a build id with an offset (struct bpf_stack_build_id).
_ADDRESS, _BUILD_ID = 8, 32
_MOST = 1 << 31


class StackTrace(Map):
    """BPF_MAP_TYPE_STACK_TRACE."""

    FLAGS = FD_ACCESS | MapFlag.NUMA_NODE | MapFlag.STACK_BUILD_ID

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Values are whole frames, and not too many."""
        frame = _BUILD_ID if call.flags & MapFlag.STACK_BUILD_ID else _ADDRESS
        frames, rest = divmod(call.value_size, frame)
        if call.key_size != 4 or not call.max_entries or rest or not 1 <= frames <= _DEEPEST:
            raise bad(f"keys have 4 bytes, values 1 to {_DEEPEST} times {frame}")
        if call.max_entries > _MOST:
            raise bad(f"{call.max_entries} stacks", errno.E2BIG)

    def build(self) -> None:
        """For each place how many frames there are, and they."""
        header = self.header
        header.buckets = 1 << (self.spec.max_entries - 1).bit_length()
        header.elem_size = 8 + self.spec.value_size
        data = self.region(header.elem_size * header.buckets)
        header.data, header.data_size = data.address, data.size

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The frames under an id."""
        return self.read_raw(self.key(key, "map_lookup_elem"), flags)

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Only programs write."""
        raise self.no("map_update_elem", errno.EINVAL)

    def delete(self, key: bytes) -> None:
        """Forget a stack."""
        self.remove_raw(self.key(key, "map_delete_elem"))

    def take(self, key: bytes, flags: int) -> bytes:
        """Read a stack and forget it."""
        return self.take_raw(key, flags)

    def next_key(self, key: bytes | None) -> bytes:
        """The next id that has a stack."""
        return self.next_raw(key)
