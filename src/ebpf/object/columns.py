"""A map's elements as memory: the buffer protocol's side of a map."""

from collections.abc import Sequence

from ebpf.btf import Codec
from ebpf.records import record
from ebpf.sys.calls import Batch


@record
class Columns:
    """All elements: `count` keys end to end, and as many values.

    Numbers are numbers of that size, so that `numpy.asarray(keys)` is an array of them; all else is bytes.
    """

    count: int
    keys: memoryview
    values: memoryview


def columns(key: Codec, value: Codec, batches: Sequence[Batch]) -> Columns:
    """Put batches together; one alone is not copied."""
    one = len(batches) == 1
    keys = batches[0].keys if one else b"".join(batch.keys for batch in batches)
    values = batches[0].values if one else b"".join(batch.values for batch in batches)
    return Columns(sum(batch.count for batch in batches), _typed(keys, key), _typed(values, value))


def _typed(data: bytes, codec: Codec) -> memoryview:
    """Bytes as numbers, if that is what they are. What we run on has the kernel's byte order."""
    view = memoryview(data)
    return view.cast(codec.letter) if codec.letter else view  # type: ignore[call-overload]  # the letters are those of cast()
