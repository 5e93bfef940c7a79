"""Pins that outlive a restart of ebpfd, where its user wants it: maps with what is in them, programs that run, what holds what."""

import errno
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ebpf.errors import KernelError
from ebpf.isa import asm, encode
from ebpf.kernels.remote import RemoteKernel
from ebpf.sys import wire
from ebpf.sys.calls import (
    FdById,
    GetMapInfo,
    GetProgInfo,
    MapCreate,
    MapFreeze,
    MapLookup,
    MapLookupAndDelete,
    MapUpdate,
    ObjGet,
    ObjPin,
    ProgLoad,
    ProgTestRun,
)
from ebpf.uapi import Cmd, MapFlag, MapType, ProgType
from support.daemon import HASH, RETURN_2, running, updating, wait_for

PINS = "/sys/fs/bpf"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pins are saved."""
    path = tmp_path / "saved"
    monkeypatch.setenv("EBPF_DAEMON_SAVE", str(path))
    return path


def restart() -> None:
    """A wanted end; the next client starts the next daemon."""
    with RemoteKernel(start=False) as kernel:
        kernel.stop()
    wait_for(lambda: not running())


def pinned(kernel: RemoteKernel, name: str, fd: int) -> int:
    kernel.bpf(ObjPin(f"{PINS}/{name}", fd))
    return fd


def at(kernel: RemoteKernel, name: str) -> int:
    return kernel.bpf(ObjGet(f"{PINS}/{name}"))


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


KEYED = {
    "hash": MapCreate(MapType.HASH, 4, 8, 600, name="m"),
    "lru": MapCreate(MapType.LRU_HASH, 4, 8, 600, name="m"),
    "percpu": MapCreate(MapType.PERCPU_HASH, 4, 8, 600, name="m"),
    "array": MapCreate(MapType.ARRAY, 4, 8, 600, name="m", flags=MapFlag.MMAPABLE),
    "percpu_array": MapCreate(MapType.PERCPU_ARRAY, 4, 8, 600, name="m"),
    "trie": MapCreate(MapType.LPM_TRIE, 8, 8, 600, name="m", flags=MapFlag.NO_PREALLOC),
}


@pytest.mark.usefixtures("file")
def test_maps_come_back_with_all_that_is_in_them() -> None:
    with RemoteKernel() as kernel:
        wide = {kind: 8 * (kernel.possible_cpus if kind.startswith("percpu") else 1) for kind in KEYED}
    elements = {
        kind: {
            (number(32) + number(i * 7919) if kind == "trie" else number(i)): os.urandom(size)
            for i in range(600 if kind == "array" else 400)
        }
        for kind, size in wide.items()
    }
    with RemoteKernel() as kernel:
        for kind, create in KEYED.items():
            fd = pinned(kernel, kind, kernel.bpf(create))
            for key, value in elements[kind].items():
                kernel.bpf(MapUpdate(fd, key, value))
    restart()
    with RemoteKernel() as kernel:
        assert kernel.news == ""
        for kind in KEYED:
            fd = at(kernel, kind)
            assert {key: kernel.bpf(MapLookup(fd, key, wide[kind])) for key in elements[kind]} == elements[kind]
            info = kernel.bpf(GetMapInfo(fd))
            assert (info.type, info.name, info.max_entries, info.map_flags) == (KEYED[kind].map_type, "m", 600, KEYED[kind].flags)


@pytest.mark.usefixtures("file")
def test_queues_stacks_and_filters_come_back() -> None:
    values = [number(i) for i in range(20)]
    kinds = {"queue": MapType.QUEUE, "stack": MapType.STACK, "bloom": MapType.BLOOM_FILTER}
    with RemoteKernel() as kernel:
        for name, kind in kinds.items():
            fd = pinned(kernel, name, kernel.bpf(MapCreate(kind, 0, 4, 100)))
            for value in values:
                kernel.bpf(MapUpdate(fd, b"", value))
    restart()
    with RemoteKernel() as kernel:
        queue, stack, bloom = (at(kernel, name) for name in kinds)
        assert [kernel.bpf(MapLookupAndDelete(queue, b"", 4)) for _ in values] == values
        assert [kernel.bpf(MapLookupAndDelete(stack, b"", 4)) for _ in values] == values[::-1]
        for value in values:
            kernel.bpf(MapLookup(bloom, b"", 4, value=value))


@pytest.mark.usefixtures("file")
def test_programs_come_back_with_their_maps_and_run() -> None:
    with RemoteKernel() as kernel:
        counts = kernel.bpf(HASH)
        before = kernel.bpf(updating(counts))
        pinned(kernel, "program", before.fd)
        tag = kernel.bpf(GetProgInfo(before.fd)).tag
        # The map is not pinned: the program alone keeps it.
        kernel.bpf(MapUpdate(counts, number(1), bytes(8)))
    restart()
    with RemoteKernel() as kernel:
        fd = at(kernel, "program")
        info = kernel.bpf(GetProgInfo(fd))
        assert (info.name, info.tag, len(info.map_ids)) == ("updating", tag, 1)
        assert kernel.bpf(ProgTestRun(fd, bytes(64))).retval == 2
        counts = kernel.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, info.map_ids[0]))
        assert kernel.bpf(MapLookup(counts, number(1), 8)) == bytes(8)
        assert kernel.bpf(MapLookup(counts, number(7), 8)) == b"\x2a" * 8


@pytest.mark.usefixtures("file")
def test_a_frozen_map_is_frozen_again_and_programs_know_what_is_in_it() -> None:
    with RemoteKernel() as kernel:
        fd = kernel.bpf(MapCreate(MapType.ARRAY, 4, 8, 1, flags=MapFlag.RDONLY_PROG))
        kernel.bpf(MapUpdate(fd, number(0), (-8).to_bytes(8, "little", signed=True)))
        kernel.bpf(MapFreeze(fd))
        # A constant of the frozen map bounds this access: without its content the program would be refused.
        text = f"""
            r1 = map[id:{fd}][0]+0
            r1 = *(u64 *)(r1 + 0)
            r2 = r10
            r2 += r1
            *(u64 *)(r2 + 0) = 5
            r0 = 2
            exit
        """
        pinned(kernel, "program", kernel.bpf(ProgLoad(ProgType.XDP, encode(asm(text)), "GPL")).fd)
        pinned(kernel, "map", fd)
    restart()
    with RemoteKernel() as kernel:
        assert kernel.bpf(ProgTestRun(at(kernel, "program"), bytes(64))).retval == 2
        with pytest.raises(KernelError) as refused:
            kernel.bpf(MapUpdate(at(kernel, "map"), number(0), bytes(8)))
        assert refused.value.errno == errno.EPERM


@pytest.mark.usefixtures("file")
def test_maps_of_maps_and_of_programs_come_back_with_what_they_hold() -> None:
    with RemoteKernel() as kernel:
        inner = MapCreate(MapType.ARRAY, 4, 8, 2)
        held = kernel.bpf(inner)
        kernel.bpf(MapUpdate(held, number(1), b"12345678"))
        outer = pinned(kernel, "outer", kernel.bpf(MapCreate(MapType.HASH_OF_MAPS, 4, 4, 8, inner_map_fd=held)))
        kernel.bpf(MapUpdate(outer, number(5), number(held)))
        table = pinned(kernel, "table", kernel.bpf(MapCreate(MapType.PROG_ARRAY, 4, 4, 8)))
        target = kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2, "GPL", name="target")).fd
        kernel.bpf(MapUpdate(table, number(3), number(target)))
        # The caller names the table that holds it too: a circle.
        call = f"r2 = map[id:{table}]\nr3 = 3\ncall 12\nr0 = 1\nexit"
        caller = pinned(kernel, "caller", kernel.bpf(ProgLoad(ProgType.XDP, encode(asm(call)), "GPL")).fd)
        kernel.bpf(MapUpdate(table, number(4), number(caller)))
        assert kernel.bpf(ProgTestRun(caller, bytes(64))).retval == 2
    restart()
    with RemoteKernel() as kernel:
        id_ = int.from_bytes(kernel.bpf(MapLookup(at(kernel, "outer"), number(5), 4)), "little")
        assert kernel.bpf(MapLookup(kernel.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, id_)), number(1), 8)) == b"12345678"
        assert kernel.bpf(ProgTestRun(at(kernel, "caller"), bytes(64))).retval == 2
        assert kernel.bpf(MapLookup(at(kernel, "table"), number(4), 4)) != bytes(4)


@pytest.mark.usefixtures("file")
def test_after_an_unexpected_end_pins_are_as_they_were_saved_and_the_others_are_told() -> None:
    with RemoteKernel() as kernel:
        kernel.bpf(MapUpdate(pinned(kernel, "old", kernel.bpf(HASH)), number(1), b"saved..."))
    restart()
    with RemoteKernel() as kernel:
        kernel.bpf(MapUpdate(at(kernel, "old"), number(1), b"written."))
        pinned(kernel, "new", kernel.bpf(HASH))
        os.kill(int(kernel.status()["pid"]), signal.SIGKILL)
    with RemoteKernel() as kernel:
        assert kernel.news.startswith(
            "ebpfd ended unexpectedly and lost what was pinned: /sys/fs/bpf/new (map counts); its pins are as they were saved at 2"
        )
        assert kernel.bpf(MapLookup(at(kernel, "old"), number(1), 8)) == b"saved..."


@pytest.mark.usefixtures("file")
def test_killed_while_it_saves_it_leaves_all_that_was_saved_before_or_all_that_is_new() -> None:
    drawn = random.Random(5)
    with RemoteKernel() as kernel:
        fd = pinned(kernel, "map", kernel.bpf(MapCreate(MapType.ARRAY, 4, 1 << 20, 16)))
        kernel.bpf(MapUpdate(fd, number(0), bytes(1 << 20)))
    restart()
    before = 0
    for round_ in range(1, 5):
        with RemoteKernel() as kernel:
            fd = at(kernel, "map")
            for key in range(16):
                kernel.bpf(MapUpdate(fd, number(key), bytes([round_]) * (1 << 20)))
            pid = int(kernel.status()["pid"])
            kernel.stop()
        time.sleep(drawn.uniform(0, 0.06))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not running())
        with RemoteKernel() as kernel:
            assert "lost" not in kernel.news
            assert "could not" not in kernel.news
            fd = at(kernel, "map")
            found = {kernel.bpf(MapLookup(fd, number(key), 1 << 20)) for key in range(1, 16)}
            assert len(found) == 1
            value = found.pop()
            assert value in (bytes([before]) * (1 << 20), bytes([round_]) * (1 << 20))
            before = value[0]


def test_the_file_is_its_users_alone_and_without_one_nothing_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    with RemoteKernel() as kernel:
        pinned(kernel, "map", kernel.bpf(HASH))
    restart()
    assert "not saved" not in (place / "ebpfd.log").read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("EBPF_DAEMON_SAVE")
    with RemoteKernel() as kernel:
        assert kernel.pinned() == []


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("garbled", "garbled"),
        ("version", "of another version"),
        ("shape", "garbled"),
        ("others", "not a file of yours that nobody else can write"),
        ("link", "symbolic link"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_nothing_else(how: str, told: str, file: Path, tmp_path: Path) -> None:
    match how:
        case "garbled":
            file.write_bytes(b"\x00" * 50)
        case "version":
            file.write_bytes(wire.encode({"format": 99}))
        case "shape":
            file.write_bytes(wire.encode({"format": 1, "objects": [["map", 5]], "elements": [], "pins": {}, "when": "x"}))
        case "others":
            file.write_bytes(b"")
            file.chmod(0o666)
        case "link":
            (tmp_path / "else").write_bytes(b"")
            file.symlink_to(tmp_path / "else")
    with RemoteKernel() as kernel:
        assert kernel.news.startswith(f"ebpfd could not make again what was saved: {file} (")
        assert told in kernel.news
        assert kernel.pinned() == []


def test_a_program_that_is_not_accepted_any_more_is_told_and_the_rest_comes_back(file: Path) -> None:
    good, bad = ProgLoad(ProgType.XDP, RETURN_2, "GPL"), ProgLoad(ProgType.XDP, RETURN_2[8:], "GPL")
    rows = [["program", good, {}, -1], ["program", bad, {}, -1]]
    pins = {f"{PINS}/good": 0, f"{PINS}/bad": 1}
    file.write_bytes(wire.encode({"format": 1, "when": "then", "objects": rows, "elements": [], "pins": pins}))
    file.chmod(0o600)
    with RemoteKernel() as kernel:
        assert kernel.pinned() == [f"{PINS}/good"]
        assert kernel.news.startswith(f"ebpfd could not make again what was saved: {PINS}/bad (bpf(PROG_LOAD): EACCES")


def test_a_place_that_is_no_whole_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_SAVE", "here")
    with pytest.raises(KernelError, match="EBPF_DAEMON_SAVE='here': not the whole path of a file"):
        RemoteKernel()
