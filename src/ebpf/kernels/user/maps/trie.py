"""Tries of prefixes: a key is a length in bits and as many bytes as an address has."""

from ebpf.kernels.user.maps.base import FD_ACCESS, PROG_ACCESS, Keyed, bad, round8
from ebpf.sys.calls import Batch, MapCreate
from ebpf.uapi import MapFlag

_SHORTEST, _LONGEST = 4 + 1, 4 + 256
_LARGEST_VALUE = (1 << 22) - _LONGEST - 64
_HEAD = 16
# Nodes are numbered by 32 bits; and no trie is given more room than this for nodes that may never be.
_MOST_NODES = (1 << 32) - 2
_MOST_BYTES = 1 << 35


class Trie(Keyed):
    """BPF_MAP_TYPE_LPM_TRIE."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NUMA_NODE | MapFlag.NO_PREALLOC

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Nodes are allocated as they come; a key is 4 bytes of length, then 1 to 256 bytes."""
        if not call.flags & MapFlag.NO_PREALLOC:
            raise bad("lpm_trie needs flag no_prealloc")
        if not call.max_entries or not _SHORTEST <= call.key_size <= _LONGEST or not 0 < call.value_size <= _LARGEST_VALUE:
            raise bad(f"keys have {_SHORTEST} to {_LONGEST} bytes, and there are values and elements")

    def build(self) -> None:
        """Nodes: for each element one, and one for the place where it parts from the others; one more for values written anew."""
        header = self.header
        header.elem_size = _HEAD + round8(self.spec.key_size - 4) + round8(self.spec.value_size)
        header.capacity = min(2 * self.spec.max_entries + 1, _MOST_NODES, max(_MOST_BYTES // header.elem_size, 1))
        data = self.region(header.elem_size * header.capacity)
        root = self.region(8)
        header.data, header.data_size = data.address, data.size
        header.meta, header.meta_size = root.address, root.size

    def batch(self, start: bytes, count: int, flags: int, *, take: bool) -> Batch:
        """Up to `count` elements behind the key `start`."""
        if take:
            raise self.no("map_lookup_and_delete_batch")
        return self.walk_batch(start, count, flags)
