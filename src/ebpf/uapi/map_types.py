"""Every map type with the name that bpftool prints."""

from collections.abc import Mapping
from typing import Final

from ebpf.records import record
from ebpf.uapi.bpf import MapType


@record
class MapKind:
    """A row: the type, its name, and whether an element has a value for each CPU."""

    type: MapType
    name: str
    per_cpu: bool = False


_PER_CPU: Final = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH, MapType.PERCPU_CGROUP_STORAGE})
MAP_TYPES: Final[Mapping[MapType, MapKind]] = {t: MapKind(t, t.name.lower(), t in _PER_CPU) for t in MapType if t}
