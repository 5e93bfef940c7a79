"""A map that is open: a mapping by its types, and the commands on its bytes."""

import errno
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from ebpf.btf import Classes, Codec, number_codec, raw_codec
from ebpf.errors import FormatError, KernelError, NotSupportedError
from ebpf.object.columns import Columns, columns
from ebpf.object.elements import Elements
from ebpf.spec import MapSpec
from ebpf.sys.calls import (
    Batch,
    GetMapInfo,
    MapDelete,
    MapDeleteBatch,
    MapFreeze,
    MapInfo,
    MapLookup,
    MapLookupAndDelete,
    MapLookupBatch,
    MapNextKey,
    MapUpdate,
    MapUpdateBatch,
    ObjPin,
)
from ebpf.sys.kernel import Buffer, Kernel
from ebpf.uapi import MAP_TYPES, MapType, UpdateFlag

_BATCH = 4096
_LARGEST = 64 << 20
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})


class Map(Elements):
    """An open map: a mapping of keys and values as its types say (numbers, texts, enums, dataclasses), of bytes where it has none.

    A per-CPU value is a list, one for each possible CPU. `raw` is the same mapping in bytes, as lookup(), update() and delete()
    have them: there a per-CPU value is `possible_cpus * round_up(value_size, 8)` bytes. `types` are those of the map's object.
    Close it, or use it in a with statement; closing twice does nothing.
    """

    def __init__(self, kernel: Kernel, fd: int, spec: MapSpec, types: Classes | None = None) -> None:
        self.kernel = kernel
        self.fd = fd
        self.spec = spec
        self.types = types
        #: Rows that attachments have for themselves (the places of USDT probes).
        self.taken: set[int] = set()
        #: Of an arena: the memory that programs and this process share.
        self.memory: Buffer | None = None
        self._closed = False
        self._held = self

    #: Maps are told apart, whatever is in them.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __bool__(self) -> bool:
        return True

    @cached_property
    def key(self) -> Codec:  # type: ignore[override]  # made when it is first asked for
        """How keys are read and written."""
        size = self.spec.key_size
        known = self._codec(self.spec.key_type_id, size)
        if known is None and size in (1, 2, 4, 8) and self.typed:
            return number_codec(size)
        return known or raw_codec(size)

    @cached_property
    def value(self) -> Codec:  # type: ignore[override]
        """How values are read and written."""
        known = self._codec(self.spec.value_type_id, self.spec.value_size)
        if known is None:
            return raw_codec(self.value_bytes)
        return _each_cpu(known, self.kernel.possible_cpus) if self.per_cpu else known

    @property
    def typed(self) -> bool:
        """Whether values have a type."""
        return self._codec(self.spec.value_type_id, self.spec.value_size) is not None

    @property
    def key_typed(self) -> bool:
        """Whether keys have a type."""
        return self._codec(self.spec.key_type_id, self.spec.key_size) is not None

    def _codec(self, type_id: int, size: int) -> Codec | None:
        if self.types is None or not type_id:
            return None
        codec = self.types.codec(type_id)
        return codec if codec.size == size else None

    @cached_property
    def finder(self) -> Callable[[Any], Any]:  # type: ignore[override]
        """Looks a key up with nothing in between, where the kernel can."""
        return _finder(self, self.key, self.value)

    @cached_property
    def raw(self) -> Elements:
        """The same mapping in bytes."""
        return _Raw(self)

    @property
    def name(self) -> str:
        """The map's name in the kernel."""
        return self.spec.name

    @cached_property
    def per_cpu(self) -> bool:
        """Whether an element has a value for each CPU."""
        return MAP_TYPES[MapType(self.spec.type)].per_cpu

    @cached_property
    def value_bytes(self) -> int:
        """The size of what lookup() returns."""
        size = self.spec.value_size
        return (size + 7) // 8 * 8 * self.kernel.possible_cpus if self.per_cpu else size

    def data(self) -> bytes:
        """The bytes of global variables: the one value of a data map, or an arena's beginning."""
        if self.memory is not None:
            return bytes(self.memory.view[: len(self.spec.initial or b"")])
        return self.lookup(bytes(4)) or b""

    def info(self) -> MapInfo:
        """What the kernel says of the map."""
        return self.kernel.bpf(GetMapInfo(self.fd))

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None if there is none. Raises KernelError for a key of the wrong size."""
        try:
            return self.kernel.bpf(MapLookup(self.fd, key, self.value_bytes))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def update(self, key: Any, value: bytes | None = None, flags: UpdateFlag = UpdateFlag.ANY) -> None:  # type: ignore[override]
        """Write the bytes `value` under the bytes `key`; or, given a mapping alone, all that is in it by type, as a dict's update does.

        Raises KernelError: E2BIG when full, EEXIST, ENOENT by the flags, EPERM when frozen.
        """
        if value is None:
            super().update(key)
        else:
            self.kernel.bpf(MapUpdate(self.fd, key, value, int(flags)))

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False if it was not there."""
        try:
            self.kernel.bpf(MapDelete(self.fd, key))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def take(self, key: bytes) -> bytes | None:
        """Return the value under `key` and remove it."""
        try:
            return self.kernel.bpf(MapLookupAndDelete(self.fd, key, self.value_bytes))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def walk(self) -> Iterator[bytes]:
        """The keys, asked for one after the other; one that is deleted meanwhile may begin the walk anew."""
        key: bytes | None = None
        while True:
            try:
                key = self.kernel.bpf(MapNextKey(self.fd, key, self.spec.key_size))
            except KernelError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """The elements in bytes, in batches where the kernel has them."""
        size, width = self.spec.key_size, self.value_bytes
        for batch in self.batches(_BATCH):
            keys, values = batch.keys, batch.values
            for i in range(batch.count):
                yield keys[i * size : (i + 1) * size], values[i * width : (i + 1) * width]

    def batches(self, count: int | None = None) -> Iterator[Batch]:
        """The elements in bytes, end to end: `count` at a time, or as many as 64 MB hold. A kernel without batches gives one at a time."""
        each = max(self.spec.key_size + self.value_bytes, 1)
        count = count or max(min(self.spec.max_entries, _LARGEST // each), 1)
        try:
            yield from self._batches(count)
        except (NotSupportedError, KernelError) as error:
            if isinstance(error, KernelError) and error.errno not in (errno.EINVAL, errno.ENOTSUP, 524):
                raise
            for key in list(self.walk()):
                value = self.lookup(key)
                if value is not None:
                    yield Batch(1, key, value, b"")

    def count(self) -> int:
        """How many elements there are: of an array always as many as there may be."""
        if self.spec.type in _ARRAYS:
            return self.spec.max_entries
        return sum(1 for _ in self.walk())

    def _batches(self, count: int) -> Iterator[Batch]:
        place = b""
        while True:
            try:
                batch = self.kernel.bpf(MapLookupBatch(self.fd, place, count, self.spec.key_size, self.value_bytes))
            except KernelError as error:
                if error.errno == errno.ENOSPC and count < 1 << 22:
                    count *= 2
                    continue
                raise
            if batch.count:
                yield batch
            place = batch.next
            if not place:
                return

    def put_batch(self, keys: bytes, values: bytes) -> int:
        """Write elements whose keys and values stand end to end; the answer is how many.

        Raises KernelError, whose `done` says how many went before the one that failed.
        """
        return self.kernel.bpf(MapUpdateBatch(self.fd, keys, values, len(keys) // max(self.spec.key_size, 1)))

    def delete_batch(self, keys: bytes) -> int:
        """Remove keys that stand end to end; the answer is how many. Raises KernelError (ENOENT for one that is not there)."""
        return self.kernel.bpf(MapDeleteBatch(self.fd, keys, len(keys) // max(self.spec.key_size, 1)))

    def columns(self) -> Columns:
        """All elements as two pieces of memory, which numpy and others read as they are."""
        return columns(self.key, self.value, list(self.batches()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """All elements for readers of Arrow (pyarrow, polars, pandas, duckdb): the columns `key` and `value`.

        Structs are nested columns; see `ebpf.object.arrow`. The memory is the reader's own, and outlives the map.
        """
        from ebpf.object.arrow import open_stream

        return open_stream(self, requested_schema)

    def freeze(self) -> None:
        """Forbid later writes from user space."""
        self.kernel.bpf(MapFreeze(self.fd))

    def pin(self, path: str) -> None:
        """Give the map a path."""
        self.kernel.bpf(ObjPin(path, self.fd))

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if not self._closed:
            self._closed = True
            self.kernel.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"map {self.spec.name!r} was not closed", ResourceWarning, source=self, stacklevel=2)


class _Raw(Elements):
    """A map's elements in bytes."""

    def __init__(self, held: Map) -> None:
        super().__init__(held)
        self.key = raw_codec(held.spec.key_size)
        self.value = raw_codec(held.value_bytes)
        self.finder = _finder(held, self.key, self.value)


def _unknown(key: Any) -> Any:
    """What a finder answers that knows nothing."""
    return NotImplemented


def _finder(held: Map, key: Codec, value: Codec) -> Callable[[Any], Any]:
    """The kernel's own way to look up a map without a call, around it what the types need."""
    direct = key.plain and value.plain
    find = held.kernel.finder(held.fd, key.letter if direct else "", value.letter if direct else "")
    if find is None:
        return _unknown
    if direct:
        return find
    write, read = key.write, value.read

    def by_bytes(wanted: Any) -> Any:
        found = find(wanted if isinstance(wanted, bytes) else write(wanted))
        return found if found is None or found is NotImplemented else read(found)

    return by_bytes


def _each_cpu(inner: Codec, cpus: int) -> Codec:
    """A list of values, one for each CPU, each at a multiple of 8 bytes."""
    stride = (inner.size + 7) // 8 * 8

    def read(data: bytes) -> list[Any]:
        return [inner.read(data[at : at + inner.size]) for at in range(0, cpus * stride, stride)]

    def write(value: Any) -> bytes:
        if not isinstance(value, (list, tuple)) or len(value) != cpus:
            raise FormatError(f"{value!r} is no list of {cpus} values, one for each CPU")
        return b"".join(inner.write(each).ljust(stride, b"\0") for each in value)

    return Codec(cpus * stride, read, write)
