"""A map that is open: bytes in and out, and values by type where its types are known."""

import errno
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ebpf.btf import Btf, Value, read_value, write_value
from ebpf.errors import KernelError, NotSupportedError
from ebpf.spec import MapSpec
from ebpf.sys.calls import (
    GetMapInfo,
    MapDelete,
    MapFreeze,
    MapInfo,
    MapLookup,
    MapLookupAndDelete,
    MapLookupBatch,
    MapNextKey,
    MapUpdate,
    ObjPin,
)
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MAP_TYPES, MapType, UpdateFlag

_BATCH = 4096


class Map:
    """An open map. Keys and values are bytes; a per-CPU value is `possible_cpus * round_up(value_size, 8)` bytes.

    Close it, or use it in a with statement; closing twice does nothing.
    """

    def __init__(self, kernel: Kernel, fd: int, spec: MapSpec, btf: Btf | None = None) -> None:
        self.kernel = kernel
        self.fd = fd
        self.spec = spec
        self.btf = btf
        self._closed = False

    @property
    def name(self) -> str:
        """The map's name in the kernel."""
        return self.spec.name

    @property
    def per_cpu(self) -> bool:
        """Whether an element has a value for each CPU."""
        return MAP_TYPES[MapType(self.spec.type)].per_cpu

    @property
    def value_bytes(self) -> int:
        """The size of what lookup() returns."""
        size = self.spec.value_size
        return (size + 7) // 8 * 8 * self.kernel.possible_cpus if self.per_cpu else size

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

    def update(self, key: bytes, value: bytes, flags: UpdateFlag = UpdateFlag.ANY) -> None:
        """Write `value` under `key`. Raises KernelError: E2BIG when full, EEXIST, ENOENT by the flags, EPERM when frozen."""
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

    def keys(self) -> Iterator[bytes]:
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

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The elements, in batches where the kernel has them."""
        try:
            yield from self._batches()
        except (NotSupportedError, KernelError) as error:
            if isinstance(error, KernelError) and error.errno not in (errno.EINVAL, errno.ENOTSUP, 524):
                raise
            for key in list(self.keys()):
                value = self.lookup(key)
                if value is not None:
                    yield key, value

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        place, size, count = b"", self.spec.key_size, _BATCH
        while True:
            try:
                batch = self.kernel.bpf(MapLookupBatch(self.fd, place, count, size, self.value_bytes))
            except KernelError as error:
                if error.errno == errno.ENOSPC and count < 1 << 22:
                    count *= 2
                    continue
                raise
            for i in range(batch.count):
                yield batch.keys[i * size : (i + 1) * size], batch.values[i * self.value_bytes : (i + 1) * self.value_bytes]
            place = batch.next
            if not place:
                return

    def freeze(self) -> None:
        """Forbid later writes from user space."""
        self.kernel.bpf(MapFreeze(self.fd))

    def pin(self, path: str) -> None:
        """Give the map a path."""
        self.kernel.bpf(ObjPin(path, self.fd))

    # -- by type

    def read(self, value: bytes) -> Value:
        """A value by the map's BTF type. Raises NotSupportedError if it has none."""
        return read_value(self._types(), self.spec.value_type_id, value)

    def write(self, value: Value) -> bytes:
        """Bytes of a value by the map's BTF type."""
        return write_value(self._types(), self.spec.value_type_id, value)

    def _types(self) -> Btf:
        if self.btf is None or not self.spec.value_type_id:
            raise NotSupportedError(f"map {self.name!r}", "its types are not known: compile with -g")
        return self.btf

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
