"""Whoever speaks to ebpfd what it does not expect gets one error, and nothing else happens: to it, or to others."""

import dataclasses
import errno
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebpf.cli.main import main
from ebpf.errors import EbpfError, KernelError
from ebpf.kernels.daemon.client import _METHODS
from ebpf.kernels.remote import RemoteKernel, connect
from ebpf.kernels.remote.connection import Connection
from ebpf.sys import calls, wire
from ebpf.sys.calls import Call, GetProgInfo, MapCreate, MapLookup, ProgLoad, ProgTestRun
from ebpf.sys.kernel import PerfOutput
from ebpf.uapi import MapFlag, MapType, ProgType
from support.daemon import HASH, RETURN_2, wait_for


def test_another_version_is_told_so() -> None:
    connection = Connection(*connect())
    with pytest.raises(KernelError) as told:
        connection.call("hello", wire.PROTOCOL + 1)
    assert told.value.errno == errno.EPROTONOSUPPORT
    connection.close()


def test_the_first_call_is_hello() -> None:
    connection = Connection(*connect())
    with pytest.raises(KernelError, match="hello"):
        connection.call("status")
    connection.close()


@pytest.mark.parametrize(
    ("method", "arguments", "number"),
    [
        ("close", (77,), errno.EBADF),
        ("close", ("x",), errno.EINVAL),
        ("close", (), errno.EINVAL),
        ("mmap", (3, -1, 0), errno.EBADF),
        ("ready", (["x"],), errno.EINVAL),
        ("bpf", (MapLookup(99, b"", 0),), errno.EBADF),
        ("bpf", (MapCreate(1, 4, 8, 1 << 30, name="x"),), None),
        ("bpf", (5,), errno.EINVAL),
        ("perf_enable", (0,), errno.EBADF),
        ("trace_read", (0,), errno.EBADF),
        ("unpin", ("/nosuch",), errno.ENOENT),
    ],
)
def test_wrong_calls_get_an_error_and_nothing_else(method: str, arguments: tuple[object, ...], number: int | None) -> None:
    connection = Connection(*connect())
    connection.call("hello", wire.PROTOCOL)
    with pytest.raises(KernelError) as refused:
        connection.call(method, *arguments)
    assert number is None or refused.value.errno == number
    assert connection.call("status")[0]["clients"] == 1
    connection.close()


def test_garbled_messages_end_the_connection_and_nothing_else() -> None:
    drawn = random.Random(1)
    good = wire.frame(1, wire.Kind.CALL, wire.encode(["hello", [wire.PROTOCOL]]))
    with RemoteKernel() as watcher:
        for round_ in range(300):
            peer, _ = connect()
            data = bytearray(good + wire.frame(2, wire.Kind.CALL, wire.encode(["bpf", [HASH]])))
            if round_ % 3 == 0:
                data = bytearray(drawn.randbytes(drawn.randrange(1, 200)))
            else:
                for _ in range(drawn.randrange(1, 6)):
                    data[drawn.randrange(len(data))] = drawn.randrange(256)
            peer.settimeout(5)
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while True:
                try:
                    if not peer.recv(65536):
                        break
                except ConnectionResetError:
                    break
            peer.close()
        wait_for(lambda: watcher.status()["clients"] == 1)
        assert watcher.status()["maps"] == 0


def test_a_message_that_is_too_long_is_refused_before_it_is_read() -> None:
    peer, _ = connect()
    peer.settimeout(5)
    peer.sendall(wire.HEADER.pack(wire.MAGIC, 1, 1, 0, wire.LARGEST + 1))
    _, kind, _ = wire.parse_header(peer.recv(65536))
    assert kind == wire.Kind.ERROR
    assert peer.recv(65536) == b""
    peer.close()


def test_a_client_that_does_not_read_stalls_nobody_else() -> None:
    peer, _ = connect()
    peer.setblocking(False)
    peer.send(wire.frame(0, wire.Kind.CALL, wire.encode(["hello", [wire.PROTOCOL]])))
    ask = wire.frame(1, wire.Kind.CALL, wire.encode(["status", []])) * 1000
    sent = 0
    while sent < 64 << 20:
        try:
            sent += peer.send(ask)
        except BlockingIOError:
            break
    with RemoteKernel() as kernel:
        began = time.monotonic()
        for _ in range(100):
            kernel.status()
        assert time.monotonic() - began < 5
        assert kernel.status()["resident_bytes"] < 400 << 20
    peer.close()


# -- descriptors

KINDS: dict[str, Callable[[RemoteKernel], int]] = {
    "map": lambda kernel: kernel.bpf(HASH),
    "program": lambda kernel: kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2, "GPL")).fd,
    "trace": lambda kernel: kernel.trace_open(),
    "perf": lambda kernel: kernel.perf_event_open(PerfOutput()),
    "closed": lambda kernel: 99,
    "negative": lambda kernel: -1,
    "huge": lambda kernel: 1 << 40,
}
ASKS: dict[str, tuple[str, Callable[[RemoteKernel, int], object]]] = {
    "lookup": ("map", lambda kernel, fd: kernel.bpf(MapLookup(fd, bytes(4), 8))),
    "update": ("map", lambda kernel, fd: kernel.bpf(calls.MapUpdate(fd, bytes(4), bytes(8)))),
    "map info": ("map", lambda kernel, fd: kernel.bpf(calls.GetMapInfo(fd))),
    "batch": ("map", lambda kernel, fd: kernel.bpf(calls.MapLookupBatch(fd, b"", 1, 4, 8))),
    "freeze": ("map", lambda kernel, fd: kernel.bpf(calls.MapFreeze(fd))),
    "map's memory": ("map", lambda kernel, fd: kernel.mmap(fd, 4096, writable=True)),
    "run": ("program", lambda kernel, fd: kernel.bpf(ProgTestRun(fd, bytes(64)))),
    "program info": ("program", lambda kernel, fd: kernel.bpf(GetProgInfo(fd))),
    "types": ("btf", lambda kernel, fd: kernel.bpf(calls.GetBtfInfo(fd))),
    "link info": ("link", lambda kernel, fd: kernel.bpf(calls.GetLinkInfo(fd))),
    "detach": ("link", lambda kernel, fd: kernel.bpf(calls.LinkDetach(fd))),
    "types of a map": ("btf", lambda kernel, fd: kernel.bpf(dataclasses.replace(HASH, btf_fd=fd))),
    "inner map": ("map", lambda kernel, fd: kernel.bpf(MapCreate(MapType.ARRAY_OF_MAPS, 4, 4, 1, inner_map_fd=fd))),
    "trace": ("trace", lambda kernel, fd: kernel.trace_read(fd)),
    "perf": ("perf", lambda kernel, fd: kernel.perf_enable(fd)),
    "pin": ("map program link", lambda kernel, fd: kernel.bpf(calls.ObjPin("/sys/fs/bpf/x", fd))),
    "close": ("map program trace perf", lambda kernel, fd: kernel.close(fd)),
    "named by a program": (
        "map",
        lambda kernel, fd: kernel.bpf(ProgLoad(ProgType.XDP, struct.pack("<BBhiBBhi", 0x18, 0x11, 0, fd, 0, 0, 0, 0) + RETURN_2, "GPL")),
    ),
}


@pytest.mark.parametrize("ask", ASKS)
def test_a_descriptor_of_the_wrong_kind_is_refused(ask: str) -> None:
    right, act = ASKS[ask]
    with RemoteKernel() as kernel:
        for kind, make in KINDS.items():
            if kind in right.split() or (ask == "named by a program" and kind == "huge"):
                continue
            fd = make(kernel)
            before = kernel.status()
            with pytest.raises(EbpfError) as refused:
                act(kernel, fd)
            assert isinstance(refused.value, KernelError), (kind, refused.value)
            assert refused.value.errno in (errno.EINVAL, errno.EBADF, errno.ENODEV), (kind, refused.value)
            after = kernel.status()
            assert [after[what] for what in ("programs", "maps", "links", "pins")] == [
                before[what] for what in ("programs", "maps", "links", "pins")
            ]


def test_descriptors_that_a_client_sends_are_not_kept() -> None:
    with RemoteKernel() as kernel:
        folder = Path(f"/proc/{kernel.status()['pid']}/fd")
        peer, _ = connect()
        peer.sendall(wire.frame(1, wire.Kind.CALL, wire.encode(["hello", [wire.PROTOCOL]])))
        peer.recv(65536)
        before = len(list(folder.iterdir()))
        with open("/dev/null") as null:
            for number in range(20):
                frame = wire.frame(number + 2, wire.Kind.CALL, wire.encode(["pinned", []]))
                socket.send_fds(peer, [frame], [null.fileno()] * 5)
                peer.recv(65536)
        assert len(list(folder.iterdir())) == before
        peer.close()


# -- memory

CREATES = {
    "read-only": (MapCreate(MapType.ARRAY, 4, 8, 512, flags=MapFlag.MMAPABLE | MapFlag.RDONLY_PROG), 4096, 0, errno.EPERM),
    "ring": (MapCreate(MapType.RINGBUF, 0, 0, 4096), 3 * 4096, 4096, errno.EPERM),
    "writable": (MapCreate(MapType.ARRAY, 4, 8, 512, flags=MapFlag.MMAPABLE), 4096, 0, 0),
}


@pytest.mark.parametrize("what", CREATES)
def test_memory_that_a_client_is_given_can_be_written_only_where_programs_do_not_rely_on_it_and_never_resized(what: str) -> None:
    create, length, offset, number = CREATES[what]
    connection = Connection(*connect())
    connection.call("hello", wire.PROTOCOL)
    fd, _ = connection.call("bpf", create)
    _, files = connection.call("mmap", fd, length, offset)
    for file in files:
        # By any way there is: as it came, and opened anew for writing.
        for name in (file, os.open(f"/proc/self/fd/{file}", os.O_RDWR)):
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(name, 1)
            if number:
                with pytest.raises(OSError) as refused:
                    os.pwrite(name, b"x", 0)
                assert refused.value.errno == number
            else:
                os.pwrite(name, b"x", 0)
    for file in files:
        os.close(file)
    connection.close()


# -- calls by chance


def by_chance(drawn: random.Random, kind: str) -> Any:
    if "int" in kind:
        return drawn.choice([0, 1, 3, 4, 5, 8, 4096, -1, 1 << 31, (1 << 63) - 1, drawn.randrange(1 << 16)])
    if "bytes" in kind:
        return drawn.randbytes(drawn.choice([0, 1, 4, 8, 64, 100]))
    if "str" in kind:
        return drawn.choice(["", "name", "/sys/fs/bpf/x", "\0", "../../x", "é" * 300, "/" + "x" * 5000])
    if "tuple" in kind:
        return tuple(drawn.randrange(8) for _ in range(drawn.randrange(3)))
    return {}


def test_calls_made_by_chance_are_answered_or_refused_and_never_a_fault() -> None:
    drawn = random.Random(11)
    rows = [cls for cls in vars(calls).values() if isinstance(cls, type) and issubclass(cls, Call) and cls is not Call]
    with RemoteKernel() as watcher:
        pid = watcher.status()["pid"]
        connection = Connection(*connect())
        connection.call("hello", wire.PROTOCOL)
        faults: list[tuple[str, object, EbpfError]] = []
        for _ in range(3000):
            if drawn.randrange(3):
                cls = drawn.choice(rows)
                values = {
                    f.name: by_chance(drawn, str(f.type)) if f.name != "cmd" else drawn.choice(list(calls.Cmd))
                    for f in dataclasses.fields(cls)
                }
                if "max_entries" in values:
                    values["map_type"], values["max_entries"] = drawn.randrange(32), drawn.randrange(4096)
                if "repeat" in values:
                    values["repeat"] = drawn.randrange(100)
                method, arguments = "bpf", [cls(**values)]
            else:
                method = drawn.choice([name for name in _METHODS if name not in ("stop", "hello")])
                arguments = [by_chance(drawn, drawn.choice(["int", "int", "bytes", "str", "tuple"])) for _ in range(drawn.randrange(4))]
            try:
                _, files = connection.call(method, *arguments)
                for file in files:
                    os.close(file)
            except wire.WireError:
                # It cannot even be said.
                continue
            except EbpfError as error:
                faults += [(method, arguments, error)] if "ebpfd failed" in str(error) else []
        assert faults == []
        connection.close()
        assert watcher.status()["pid"] == pid
        wait_for(lambda: watcher.status()["clients"] == 1)


def test_a_message_of_very_many_values_is_refused() -> None:
    peer, _ = connect()
    peer.settimeout(20)
    body = b"l" + (1 << 20).to_bytes(4, "little") + b"n" * (1 << 20)
    peer.sendall(
        wire.frame(1, wire.Kind.CALL, wire.encode(["hello", [wire.PROTOCOL]])) + wire.HEADER.pack(wire.MAGIC, 2, 1, 0, len(body)) + body
    )
    got = b""
    while piece := peer.recv(65536):
        got += piece
    assert b"more than" in got
    peer.close()


# -- versions and users


def impostor(place: Path, answer: bytes) -> "subprocess.Popen[str]":
    """A process that serves ebpfd's socket, and answers everything with the same bytes."""
    place.mkdir(mode=0o700, exist_ok=True)
    code = f"""
import pathlib, socket
from ebpf.sys import wire
s = socket.socket(socket.AF_UNIX)
with wire.socket_address(pathlib.Path({str(place / "ebpfd.sock")!r})) as address:
    s.bind(address)
s.listen()
print("ready", flush=True)
while True:
    peer, _ = s.accept()
    peer.recv(65536)
    peer.sendall({answer!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_an_ebpfd_of_another_version_is_named_and_can_be_stopped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = KernelError(errno.EPROTONOSUPPORT, "hello", "this ebpfd speaks version 1 of the protocol, its client version 2")
    with impostor(place, wire.frame(1, wire.Kind.ERROR, wire.encode_error(error))) as process:
        assert main(["daemon", "status"]) == 1
        assert "speaks version 1 of the protocol" in capsys.readouterr().err
        assert main(["daemon", "stop"]) == 0
        assert process.wait(20) == -signal.SIGTERM


@pytest.mark.linux
def test_another_users_connection_is_told_so_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid():
        pytest.skip("needs root, who can enter any folder")
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    for above in [tmp_path, *tmp_path.parents][:3]:
        above.chmod(above.stat().st_mode | 0o011)
    where = folder / "ebpfd.sock"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-B", "-m", "ebpf.kernels.daemon", str(where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as theirs:
        try:
            assert theirs.stdout is not None
            assert "serves" in theirs.stdout.readline()
            peer = socket.socket(socket.AF_UNIX)
            with wire.socket_address(where) as address:
                peer.connect(address)
            connection = Connection(peer, str(where))
            with pytest.raises(KernelError, match="it serves another user") as refused:
                connection.call("hello", wire.PROTOCOL)
            assert refused.value.errno == errno.EPERM
            connection.close()
            # A client asks first whose daemon it is.
            monkeypatch.setenv("EBPF_DAEMON", str(where))
            with pytest.raises(KernelError, match="belongs to another user") as asked:
                connect()
            assert asked.value.errno == errno.EPERM
        finally:
            theirs.kill()
