"""BCC's tables over maps: mappings with ctypes keys and leaves, histograms, and the buffers of events."""

import ctypes
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from ebpf.bcc.ctypes_of import ctypes_of
from ebpf.bcc.hist import linear_hist, log2_hist
from ebpf.errors import NotSupportedError, UsageError
from ebpf.events import PerfBuffer, RingBuffer
from ebpf.object import Map
from ebpf.uapi import MapType, UpdateFlag

_ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)


class Table(MutableMapping[Any, Any]):
    """A map as BCC shows it. Keys and leaves are ctypes objects (`.value`); plain numbers are taken as keys and leaves too."""

    def __init__(self, held: Map, *, keytype: Any = None, leaftype: Any = None, event_type: int = 0) -> None:
        self.map = held
        self.map_fd = held.fd
        self.name = held.name
        self._btf = held.types.btf if held.types is not None else None
        self._event_type = event_type
        self._events: PerfBuffer | RingBuffer | None = None
        self._callback: Callable[..., Any] | None = None
        self._lost: Callable[[int], Any] | None = None
        self.Key = keytype or self._type(held.spec.key_type_id, held.spec.key_size)
        self.Leaf = leaftype or self._type(held.spec.value_type_id, held.spec.value_size)

    def _type(self, type_id: int, size: int) -> Any:
        if type_id and self._btf is not None:
            return ctypes_of(self._btf, type_id)
        return {4: ctypes.c_uint, 8: ctypes.c_ulonglong}.get(size, ctypes.c_ubyte * size)

    # -- bytes and ctypes

    def _key_bytes(self, key: Any) -> bytes:
        if not isinstance(key, (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData)):
            key = self.Key(*key) if isinstance(key, tuple) else self.Key(key)
        return bytes(key)

    def _leaf_bytes(self, leaf: Any) -> bytes:
        if self.map.per_cpu:
            return self._all_cpus(leaf)
        if not isinstance(leaf, (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData)):
            leaf = self.Leaf(*leaf) if isinstance(leaf, tuple) else self.Leaf(leaf)
        return bytes(leaf)

    def _all_cpus(self, leaf: Any) -> bytes:
        cpus, stride = self.map.kernel.possible_cpus, (self.map.spec.value_size + 7) // 8 * 8
        values = list(leaf) if isinstance(leaf, (list, ctypes.Array)) else [leaf] * cpus
        if len(values) != cpus:
            raise UsageError(f"table {self.name}: {len(values)} values for {cpus} processors")
        raw = [bytes(v if isinstance(v, (ctypes.Structure, ctypes._SimpleCData)) else self.Leaf(v)) for v in values]
        return b"".join(r.ljust(stride, b"\0") for r in raw)

    def _leaf(self, raw: bytes) -> Any:
        if not self.map.per_cpu:
            return self.Leaf.from_buffer_copy(raw)
        size = self.map.spec.value_size
        stride = (size + 7) // 8 * 8
        leaves = [self.Leaf.from_buffer_copy(raw[i : i + size]) for i in range(0, len(raw), stride)]
        return (self.Leaf * len(leaves))(*leaves) if issubclass(self.Leaf, (ctypes.Structure, ctypes._SimpleCData)) else leaves

    # -- a mapping

    def __getitem__(self, key: Any) -> Any:
        raw = self.map.lookup(self._key_bytes(key))
        if raw is None:
            raise KeyError(key)
        return self._leaf(raw)

    def __setitem__(self, key: Any, leaf: Any) -> None:
        self.map.update(self._key_bytes(key), self._leaf_bytes(leaf))

    def __delitem__(self, key: Any) -> None:
        if self.map.spec.type in _ARRAYS:
            # Elements of an array are always there: to delete one is to clear it.
            self.map.update(self._key_bytes(key), bytes(self.map.value_bytes))
        elif not self.map.delete(self._key_bytes(key)):
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        for key in self.map.walk():
            yield self.Key.from_buffer_copy(key)

    def __len__(self) -> int:
        return self.map.spec.max_entries if self.map.spec.type in _ARRAYS else len(list(self.map.walk()))

    def __contains__(self, key: object) -> bool:
        return self.map.lookup(self._key_bytes(key)) is not None

    def itervalues(self) -> Iterator[Any]:
        """The leaves, one by one."""
        return (leaf for _, leaf in self.iteritems())

    def iteritems(self) -> Iterator[tuple[Any, Any]]:
        """The elements, one by one."""
        for key, value in self.map.pairs():
            yield self.Key.from_buffer_copy(key), self._leaf(value)

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]  # BCC gives a list
        """The elements as a list of (key, leaf)."""
        return list(self.iteritems())

    def values(self) -> list[Any]:  # type: ignore[override]
        """The leaves as a list."""
        return list(self.itervalues())

    def keys(self) -> list[Any]:  # type: ignore[override]
        """The keys as a list."""
        return list(self)

    def items_lookup_batch(self) -> Iterator[tuple[Any, Any]]:
        """The elements, read in batches."""
        return self.iteritems()

    def items_lookup_and_delete_batch(self) -> Iterator[tuple[Any, Any]]:
        """The elements, taken out of the map."""
        for key in list(self.map.walk()):
            value = self.map.take(key)
            if value is not None:
                yield self.Key.from_buffer_copy(key), self._leaf(value)

    def clear(self) -> None:
        """Remove all elements (of an array: set them to zero)."""
        if self.map.spec.type in _ARRAYS:
            self.zero()
            return
        for key in list(self.map.walk()):
            self.map.delete(key)

    def zero(self) -> None:
        """Set all leaves to zero, keeping the keys."""
        empty = bytes(self.map.value_bytes)
        for key in list(self.map.walk()):
            self.map.update(key, empty, UpdateFlag.ANY)

    # -- per-CPU values

    def getvalue(self, key: Any) -> Any:
        """A per-CPU leaf, one for each processor."""
        return self[key]

    def sum(self, key: Any) -> Any:
        """The sum of a per-CPU leaf over all processors."""
        return self.Leaf(sum(v.value if hasattr(v, "value") else v for v in self[key]))

    def max(self, key: Any) -> Any:
        """The largest of a per-CPU leaf."""
        return self.Leaf(max(v.value if hasattr(v, "value") else v for v in self[key]))

    def average(self, key: Any) -> float:
        """The mean of a per-CPU leaf over all processors."""
        values = [v.value if hasattr(v, "value") else v for v in self[key]]
        return float(sum(values)) / len(values)

    # -- histograms

    def print_log2_hist(
        self,
        val_type: str = "value",
        section_header: str = "Bucket ptr",
        section_print_fn: Callable[[Any], Any] | None = None,
        bucket_fn: Callable[[Any], Any] | None = None,
        strip_leading_zero: bool = False,
        bucket_sort_fn: Callable[[list[Any]], list[Any]] | None = None,
    ) -> None:
        """Print the table as a histogram of powers of two."""
        for header, slots in self._sections(section_header, section_print_fn, bucket_fn, bucket_sort_fn):
            print(header + log2_hist(slots, val_type, strip_leading_zero=strip_leading_zero))

    def print_linear_hist(
        self,
        val_type: str = "value",
        section_header: str = "Bucket ptr",
        section_print_fn: Callable[[Any], Any] | None = None,
        bucket_fn: Callable[[Any], Any] | None = None,
        strip_leading_zero: bool = False,
        bucket_sort_fn: Callable[[list[Any]], list[Any]] | None = None,
    ) -> None:
        """Print the table as a histogram of single values."""
        for header, slots in self._sections(section_header, section_print_fn, bucket_fn, bucket_sort_fn):
            print(header + linear_hist(slots, val_type, strip_leading_zero=strip_leading_zero))

    def _sections(
        self,
        section_header: str,
        section_print_fn: Callable[[Any], Any] | None,
        bucket_fn: Callable[[Any], Any] | None,
        bucket_sort_fn: Callable[[list[Any]], list[Any]] | None,
    ) -> Iterator[tuple[str, dict[int, int]]]:
        """The slots of one histogram, or with a struct as key of one for each bucket."""
        if not issubclass(self.Key, ctypes.Structure):
            yield "", {int(k.value): int(_number(v)) for k, v in self.iteritems()}
            return
        names = [f[0] for f in self.Key._fields_ if not f[0].startswith("__pad")]
        sections: dict[Any, dict[int, int]] = {}
        for key, leaf in self.iteritems():
            bucket = getattr(key, names[0])
            bucket = bucket_fn(bucket) if bucket_fn is not None else bucket
            bucket = bytes(bucket) if isinstance(bucket, ctypes.Array) else bucket
            sections.setdefault(bucket, {})[int(getattr(key, names[1]))] = int(_number(leaf))
        order = bucket_sort_fn(list(sections)) if bucket_sort_fn is not None else list(sections)
        for bucket in order:
            shown = section_print_fn(bucket) if section_print_fn is not None else bucket
            yield f"\n{section_header} = {_text(shown)}\n", sections[bucket]

    # -- events

    def event(self, data: Any) -> Any:
        """An event's bytes as the struct that the program gave to perf_submit or ringbuf_output."""
        if not self._event_type or self._btf is None:
            raise NotSupportedError(f"table {self.name}", "the type of its events is not known: give perf_submit a pointer to a struct")
        type_ = ctypes_of(self._btf, self._event_type)
        raw = bytes(data) if isinstance(data, (bytes, bytearray, memoryview)) else ctypes.string_at(data, ctypes.sizeof(type_))
        return type_.from_buffer_copy(raw.ljust(ctypes.sizeof(type_), b"\0"))

    def open_perf_buffer(
        self,
        callback: Callable[[int, Any, int], Any],
        page_cnt: int = 8,
        lost_cb: Callable[[int], Any] | None = None,
        wakeup_events: int = 1,
    ) -> None:
        """Open the buffers; `callback(cpu, data, size)` is called by perf_buffer_poll for each event."""
        del wakeup_events
        if self.map.spec.type != MapType.PERF_EVENT_ARRAY:
            raise UsageError(f"table {self.name} is no BPF_PERF_OUTPUT")
        self._events = PerfBuffer(self.map, pages=page_cnt)
        self._callback, self._lost = callback, lost_cb

    def open_ring_buffer(self, callback: Callable[[Any, Any, int], Any], ctx: Any = None) -> None:
        """Open the ring; `callback(ctx, data, size)` is called by ring_buffer_poll for each event."""
        if self.map.spec.type != MapType.RINGBUF:
            raise UsageError(f"table {self.name} is no BPF_RINGBUF_OUTPUT")
        self._events = RingBuffer(self.map)
        self._callback = lambda data: callback(ctx, data, len(data))

    @property
    def perf(self) -> PerfBuffer | None:
        """The open perf buffers."""
        return self._events if isinstance(self._events, PerfBuffer) else None

    @property
    def ring(self) -> RingBuffer | None:
        """The open ring."""
        return self._events if isinstance(self._events, RingBuffer) else None

    def deliver(self) -> int:
        """Give the events that there are to the callback; an exception of its reaches the caller. Returns how many."""
        assert self._callback is not None
        count = 0
        if isinstance(self._events, PerfBuffer):
            for cpu, record in self._events.records():
                if isinstance(record, int):
                    if self._lost is not None:
                        self._lost(record)
                    else:
                        print(f"Possibly lost {record} samples")
                    continue
                count += 1
                self._callback(cpu, record, len(record))
        elif isinstance(self._events, RingBuffer):
            for record in self._events.records():
                count += 1
                self._callback(record)
        return count

    def close(self) -> None:
        """Close open buffers. The map belongs to the BPF object."""
        if self._events is not None:
            self._events.close()
            self._events = None


def _number(leaf: Any) -> Any:
    if hasattr(leaf, "value"):
        return leaf.value
    return sum(v.value if hasattr(v, "value") else v for v in leaf)


def _text(value: Any) -> Any:
    return value.rstrip(b"\0").decode(errors="replace") if isinstance(value, bytes) else value
