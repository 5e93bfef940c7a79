"""A map as a mapping: keys and values as Python has them, by codecs over the map's bytes."""

from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, Protocol

from ebpf.btf import Codec


class Bytes(Protocol):
    """What elements are kept in: a map's commands on bytes."""

    def lookup(self, key: bytes) -> bytes | None: ...
    def update(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> bool: ...
    def pairs(self) -> Iterator[tuple[bytes, bytes]]: ...
    def count(self) -> int: ...


class Elements(MutableMapping[Any, Any]):
    """The elements of a map. A key that is not there raises KeyError; bytes of the right size are taken for keys and values as well.

    Going through takes elements in batches: what is written meanwhile may be seen or not.
    """

    key: Codec
    value: Codec
    #: Looks a key up at once: the value, None if there is none, NotImplemented if lookup() is to be asked.
    finder: Callable[[Any], Any]

    def __init__(self, held: Bytes) -> None:
        self._held = held

    def __getitem__(self, key: Any) -> Any:
        found = self.finder(key)
        if found is NotImplemented:
            raw = self._held.lookup(self._key_bytes(key))
            found = self.value.read(raw) if raw is not None else None
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._held.update(self._key_bytes(key), self._value_bytes(value))

    def __delitem__(self, key: Any) -> None:
        if not self._held.delete(self._key_bytes(key)):
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        read = self.key.read
        return (read(key) for key, _ in self._held.pairs())

    def __len__(self) -> int:
        return self._held.count()

    def __contains__(self, key: object) -> bool:
        return self._held.lookup(self._key_bytes(key)) is not None

    def items(self) -> ItemsView[Any, Any]:
        """The elements, read in batches."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """The values, read in batches."""
        return _Values(self)

    def decoded(self) -> Iterator[tuple[Any, Any]]:
        """The elements one by one."""
        key_of, value_of = self.key.read, self.value.read
        return ((key_of(key), value_of(value)) for key, value in self._held.pairs())

    def _key_bytes(self, key: Any) -> bytes:
        return key if isinstance(key, bytes) and len(key) == self.key.size else self.key.write(key)

    def _value_bytes(self, value: Any) -> bytes:
        return value if isinstance(value, bytes) and len(value) == self.value.size else self.value.write(value)


class _Items(ItemsView[Any, Any]):
    _mapping: Elements

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping.decoded()


class _Values(ValuesView[Any]):
    _mapping: Elements

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.decoded())
