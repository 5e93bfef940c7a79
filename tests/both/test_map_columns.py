"""A map at once: in batches, as memory, and as a table of Arrow's."""

import gc
import struct
import weakref

import pyarrow
import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum state { IDLE, BUSY = 5, LOST = -1 };
struct point { __s16 x, y; };
struct wide {
    __u64 n;
    char comm[6];
    _Bool ok;
    __s8 small;
    enum state state;
    struct point at[2];
    int low : 3, high : 5;
    union { __u32 word; __u8 bytes[4]; };
    double weight;
    void *where;
    unsigned __int128 huge;
};
struct packed { __u8 a; __u64 b; __u16 c; } __attribute__((packed));
#define MAP(kind, name, entries, key_, value_) \\
    struct { __uint(type, kind); __uint(max_entries, entries); __type(key, key_); __type(value, value_); } name SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, counter, 20000, __u32, __u64)
MAP(BPF_MAP_TYPE_ARRAY, array, 300, __u32, __s32)
MAP(BPF_MAP_TYPE_HASH, wides, 300, struct point, struct wide)
MAP(BPF_MAP_TYPE_HASH, packs, 300, struct packed, _Bool)
MAP(BPF_MAP_TYPE_PERCPU_HASH, cpus, 8, __u16, __u32)
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __uint(key_size, 3); __uint(value_size, 5); } plain SEC(".maps");
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("columns.bpf.c", text=SOURCE).object, "columns.o")


def table_of(held: object) -> pyarrow.Table:
    table = pyarrow.table(held)
    table.validate(full=True)
    return table


def fill(held: Collection, count: int) -> dict[int, int]:
    model = {key * 7919 % 2**32: key << 40 | key for key in range(count)}
    keys, values = struct.pack(f"<{count}I", *model), struct.pack(f"<{count}Q", *model.values())
    assert held.maps["counter"].put_batch(keys, values) == count
    return model


@pytest.mark.parametrize("count", [0, 1, 9000, 20000])
def test_columns_hold_every_element_once(kernel: Kernel, spec: ObjectSpec, count: int) -> None:
    with Collection.load(spec, kernel) as held:
        model = fill(held, count)
        columns = held.maps["counter"].columns()
        assert columns.count == len(columns.keys) == len(columns.values) == count
        assert dict(zip(columns.keys.tolist(), columns.values.tolist())) == model
        table = table_of(held.maps["counter"])
        assert table.schema.names == ["key", "value"]
        assert [str(column.type) for column in table.schema] == ["uint32", "uint64"]
        assert dict(zip(table["key"].to_pylist(), table["value"].to_pylist())) == model
        assert dict(held.maps["counter"]) == model


@pytest.mark.parametrize("size", [1, 7, 4096, 20000])
def test_batches_of_any_size_hold_every_element_once(kernel: Kernel, spec: ObjectSpec, size: int) -> None:
    with Collection.load(spec, kernel) as held:
        model = fill(held, 700)
        batches = list(held.maps["counter"].batches(size))
        keys, values = b"".join(batch.keys for batch in batches), b"".join(batch.values for batch in batches)
        assert dict(zip(struct.unpack("<700I", keys), struct.unpack("<700Q", values))) == model
        gone = list(model)[:300]
        assert held.maps["counter"].delete_batch(struct.pack("<300I", *gone)) == 300
        assert sorted(held.maps["counter"]) == sorted(set(model) - set(gone))
        with pytest.raises(KernelError, match="ENOENT") as caught:
            held.maps["counter"].delete_batch(struct.pack("<2I", list(model)[300], gone[0]))
        assert caught.value.done == 1


def test_a_struct_becomes_columns(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        assert held.types is not None
        wide, point = held.types.find("wide"), held.types.find("point")
        wides = held.maps["wides"]
        for i in range(250):
            wides[point(i, -i)] = wide(
                n=i, comm=f"c{i}", ok=i % 3 == 0, small=-i % 100, state=[0, 5, -1][i % 3], at=[point(i, 1), point(-2, i)],
                low=i % 8 - 4, high=i % 32 - 16, word=i * 257, weight=i / 4, where=i << 33, huge=i << 80,
            )  # fmt: skip
        rows = {row["value"]["n"]: row for row in table_of(wides).to_pylist()}
        assert len(rows) == 250
        for i, row in rows.items():
            assert row["key"] == {"x": i, "y": -i}
            assert row["value"] == {
                "n": i, "comm": f"c{i}", "ok": i % 3 == 0, "small": -i % 100, "state": [0, 5, -1][i % 3],
                "at": [{"x": i, "y": 1}, {"x": -2, "y": i}], "low": i % 8 - 4, "high": i % 32 - 16, "word": i * 257,
                "bytes": list((i * 257).to_bytes(4, "little")), "weight": i / 4, "where": i << 33, "huge": (i << 80).to_bytes(16, "little"),
            }  # fmt: skip


def test_members_that_are_not_aligned_are_read(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        packs = held.maps["packs"]
        for i in range(100):
            packs[{"a": i, "b": i << 50, "c": i * 3}] = bool(i % 2)
        rows = sorted(table_of(packs).to_pylist(), key=lambda row: row["key"]["a"])
        assert rows == [{"key": {"a": i, "b": i << 50, "c": i * 3}, "value": bool(i % 2)} for i in range(100)]


def test_values_of_each_cpu_are_a_list(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        count = kernel.possible_cpus
        held.maps["cpus"][7] = list(range(count))
        held.maps["cpus"][9] = [5] * count
        assert sorted(table_of(held.maps["cpus"]).to_pylist(), key=lambda row: row["key"]) == [
            {"key": 7, "value": list(range(count))},
            {"key": 9, "value": [5] * count},
        ]


def test_arrays_and_bytes_are_tables_too(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.maps["array"][299] = -5
        held.maps["plain"][b"abc"] = b"12\x00\xff5"
        array = table_of(held.maps["array"])
        assert array["key"].to_pylist() == list(range(300))
        assert array["value"].to_pylist() == [0] * 299 + [-5]
        assert table_of(held.maps["plain"]).to_pylist() == [{"key": b"abc", "value": b"12\x00\xff5"}]
        columns = held.maps["plain"].columns()
        assert (bytes(columns.keys), bytes(columns.values)) == (b"abc", b"12\x00\xff5")


def test_a_table_outlives_its_map(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        model = fill(held, 500)
        table = pyarrow.table(held.maps["counter"])
        part = table["value"].chunk(0)
        held.maps["counter"].__arrow_c_stream__()  # nobody takes this one
    del table
    assert sorted(part.to_pylist()) == sorted(model.values())


def test_nothing_is_kept_of_a_table_that_is_gone(kernel: Kernel, spec: ObjectSpec) -> None:
    held = Collection.load(spec, kernel)
    fill(held, 500)
    counter = held.maps["counter"]
    last = weakref.ref(counter)
    table = pyarrow.table(counter)
    counter.__arrow_c_stream__()
    held.close()
    del held, counter, table
    gc.collect()
    assert last() is None


def test_a_reader_is_told_what_the_kernel_says(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        fill(held, 5)
        counter = held.maps["counter"]
    with pytest.raises((OSError, ValueError, pyarrow.ArrowException), match="EBADF"):
        pyarrow.table(counter)
