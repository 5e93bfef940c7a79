"""`kill -9`, of ebpfd and of its clients, at any moment: nobody hangs, nothing is torn, nothing stays locked or held."""

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ebpf.errors import EbpfError, KernelError
from ebpf.kernels.daemon import Server
from ebpf.kernels.remote import RemoteKernel, connect
from ebpf.kernels.user.maps import create
from ebpf.kernels.user.objects import MapObject
from ebpf.kernels.user.state import State
from ebpf.sys import wire
from ebpf.sys.calls import MapCreate, MapDelete, MapLookup, MapLookupBatch, MapUpdate, ObjGet, ObjPin, ProgLoad, ProgTestRun
from ebpf.uapi import MapFlag, MapType, ProgType
from support.daemon import HASH, RETURN_2, running, updating, wait_for
from support.processes import may_be_missing

# How long somebody is waited for who does not hang.
PATIENCE_S = 60
KEYS = 32
WIDE = 64
SHARED = MapCreate(MapType.HASH, 4, WIDE, 2 * KEYS, name="shared")
PIN = "/sys/fs/bpf/shared"
# What a client may be told when ebpfd is killed: it is gone, or was not to be reached.
GONE = (errno.ECONNRESET, errno.ECONNREFUSED)


def mixture(kernel: RemoteKernel, shared: int, drawn: random.Random) -> None:
    """One operation of those that clients do."""
    key, value = drawn.randrange(KEYS).to_bytes(4, "little"), bytes([drawn.randrange(256)]) * WIDE
    match drawn.randrange(9):
        case 0:
            kernel.bpf(MapUpdate(shared, key, value))
        case 1:
            with may_be_missing():
                kernel.bpf(MapDelete(shared, key))
        case 2:
            with may_be_missing():
                assert len(set(kernel.bpf(MapLookup(shared, key, WIDE)))) == 1
        case 3:
            kernel.close(kernel.bpf(HASH))
        case 4:
            fd = kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2, "GPL")).fd
            kernel.bpf(ProgTestRun(fd, bytes(64), repeat=1000))
            kernel.close(fd)
        case 5:
            path = f"/sys/fs/bpf/own-{drawn.randrange(1 << 62)}"
            fd = kernel.bpf(HASH)
            kernel.bpf(ObjPin(path, fd))
            kernel.unpin(path)
            kernel.close(fd)
        case 6:
            fd = kernel.bpf(MapCreate(MapType.ARRAY, 4, 8, 512, flags=MapFlag.MMAPABLE))
            memory = kernel.mmap(fd, mmap.PAGESIZE, writable=True)
            memory.view[:8] = value[:8]
            assert kernel.bpf(MapLookup(fd, bytes(4), 8)) == value[:8]
            memory.close()
            kernel.close(fd)
        case 7:
            fd = kernel.bpf(MapCreate(MapType.RINGBUF, 0, 0, mmap.PAGESIZE))
            assert kernel.wait([fd], 0.002) == []
            kernel.close(fd)
        case 8:
            found = kernel.bpf(MapLookupBatch(shared, b"", 2 * KEYS, 4, WIDE))
            assert all(len(set(found.values[at : at + WIDE])) == 1 for at in range(0, len(found.values), WIDE))


def map_of_all(kernel: RemoteKernel) -> int:
    """The map that clients share; made anew where ebpfd has lost it."""
    with may_be_missing():
        return kernel.bpf(ObjGet(PIN))
    fd = kernel.bpf(SHARED)
    with suppress(KernelError):
        # Somebody else may have made it meanwhile.
        kernel.bpf(ObjPin(PIN, fd))
    return kernel.bpf(ObjGet(PIN))


def test_when_ebpfd_is_killed_at_any_moment_every_client_is_told_and_goes_on_with_the_next() -> None:
    ended = threading.Event()
    strange: list[BaseException] = []
    rounds = [0, 0, 0]

    def client(number: int) -> None:
        drawn = random.Random(number)
        while not ended.is_set():
            try:
                with RemoteKernel() as kernel:
                    shared = map_of_all(kernel)
                    while not ended.is_set():
                        mixture(kernel, shared, drawn)
                        rounds[number] += 1
            except EbpfError as error:
                if not (isinstance(error, KernelError) and error.errno in GONE):
                    strange.append(error)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the test is to show it
                strange.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(rounds))]
    for thread in threads:
        thread.start()
    drawn = random.Random(7)
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(killed) < 6 and time.monotonic() < deadline:
        pid = running()
        if pid:
            time.sleep(drawn.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.005)
    before = list(rounds)
    wait_for(lambda: all(now > then for now, then in zip(rounds, before, strict=True)), PATIENCE_S)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert strange == []
    assert len(killed) == 6


def in_child(act: Callable[[], None]) -> int:
    """A process that does something until it is killed."""
    pid = os.fork()
    if not pid:
        try:
            act()
        except BaseException:  # noqa: BLE001  # a child has nobody else to tell
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def work_until_killed(seed: int, ready: int) -> None:
    """A client that never ends by itself."""
    drawn = random.Random(seed)
    kernel = RemoteKernel()
    shared = kernel.bpf(ObjGet(PIN))
    load = kernel.bpf(updating(shared, WIDE)).fd
    os.write(ready, b"x")
    while True:
        if drawn.randrange(20) == 0:
            # Long enough that it is killed meanwhile: the program writes to the map, under its lock, most of the time.
            kernel.bpf(ProgTestRun(load, bytes(64), repeat=1_000_000))
        mixture(kernel, shared, drawn)


def test_when_clients_are_killed_at_any_moment_what_they_held_goes_and_what_they_shared_is_whole() -> None:
    drawn = random.Random(3)
    with RemoteKernel() as kernel:
        shared = map_of_all(kernel)
        for round_ in range(6):
            read_end, write_end = os.pipe()
            clients = [in_child(partial(work_until_killed, 10 * round_ + n, write_end)) for n in range(3)]
            os.close(write_end)
            for _ in clients:
                assert os.read(read_end, 1) == b"x"
            for pid in clients:
                time.sleep(drawn.uniform(0, 0.05))
                os.kill(pid, signal.SIGKILL)
            for pid in clients:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            os.close(read_end)
            found = kernel.bpf(MapLookupBatch(shared, b"", 2 * KEYS, 4, WIDE))
            assert all(len(set(found.values[at : at + WIDE])) == 1 for at in range(0, len(found.values), WIDE))

        def left() -> tuple[int, ...]:
            status = kernel.status()
            return tuple(status[what] for what in ("clients", "programs", "maps", "links"))

        # Pins that a client could not remove any more stay: they are no client's.
        for path in kernel.pinned():
            if path != PIN:
                kernel.unpin(path)
        wait_for(lambda: left() == (1, 0, 1, 0), PATIENCE_S)
        for number in range(KEYS):
            key = number.to_bytes(4, "little")
            kernel.bpf(MapUpdate(shared, key, bytes([number]) * WIDE))
            assert kernel.bpf(MapLookup(shared, key, WIDE)) == bytes([number]) * WIDE


def test_a_client_killed_while_its_program_holds_a_maps_lock_leaves_the_map_to_others() -> None:
    with RemoteKernel() as kernel:
        shared = map_of_all(kernel)
        read_end, write_end = os.pipe()

        def hold() -> None:
            client = RemoteKernel()
            program = client.bpf(updating(client.bpf(ObjGet(PIN)), WIDE)).fd
            os.write(write_end, b"x")
            client.bpf(ProgTestRun(program, bytes(64), repeat=0xFFFFFFFF))

        pid = in_child(hold)
        os.close(write_end)
        assert os.read(read_end, 1) == b"x"
        seven = (7).to_bytes(4, "little")

        def written() -> bool:
            with may_be_missing():
                return bool(kernel.bpf(MapLookup(shared, seven, WIDE)))
            return False

        wait_for(written)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for number in range(KEYS):
            kernel.bpf(MapUpdate(shared, number.to_bytes(4, "little"), bytes(WIDE)))
        os.close(read_end)


@pytest.mark.parametrize("part", ["header", "body", "answer"])
def test_a_client_that_goes_in_the_middle_of_a_message_is_forgotten(part: str) -> None:
    hello = wire.frame(1, wire.Kind.CALL, wire.encode(["hello", [wire.PROTOCOL]]))
    call = wire.frame(2, wire.Kind.CALL, wire.encode(["bpf", [MapUpdate(3, bytes(4), bytes(1 << 20))]]))
    cut = {"header": 7, "body": len(call) - 5, "answer": len(call)}[part]

    def send() -> None:
        peer, _ = connect()
        peer.sendall(hello + call[:cut])
        os.kill(os.getpid(), signal.SIGKILL)

    with RemoteKernel() as kernel:
        before = int(kernel.status()["served"])
        pid = in_child(send)
        os.waitpid(pid, 0)
        wait_for(lambda: kernel.status()["served"] == before + 1 and kernel.status()["clients"] == 1)


def test_an_ebpfd_that_is_killed_while_it_starts_is_started_again(place: Path) -> None:
    killed: list[int] = []

    def kill_the_first() -> None:
        while not killed:
            for entry in os.listdir("/proc"):
                with suppress(OSError):
                    if entry.isdigit() and str(place).encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                        os.kill(int(entry), signal.SIGKILL)
                        killed.append(int(entry))

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    with RemoteKernel() as kernel:
        thread.join()
        assert int(kernel.status()["pid"]) not in killed


def test_an_end_by_a_fault_of_its_own_is_told_too(tmp_path: Path) -> None:
    server = Server(tmp_path / "d.sock", State())
    server.state.pin("/sys/fs/bpf/counts", MapObject(create(HASH, 1, lambda fd: pytest.fail("no inner map")), None))
    server._done.append(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        server.run()
    next_one = Server(tmp_path / "d.sock", State())
    assert next_one.journal.news() == "ebpfd ended unexpectedly and lost what was pinned: /sys/fs/bpf/counts (map counts)"
    next_one.stop("test")
    next_one.run()


def test_a_second_ebpfd_leaves_the_first_alone(place: Path) -> None:
    with RemoteKernel() as kernel:
        pid = kernel.status()["pid"]
        second = [sys.executable, "-m", "ebpf.kernels.daemon", str(place / "ebpfd.sock")]
        answer = subprocess.run(second, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert answer.returncode == 0
        assert "another ebpfd serves" in answer.stdout
        with RemoteKernel(start=False) as again:
            assert again.status()["pid"] == pid


def test_the_next_command_says_in_one_line_what_was_lost() -> None:
    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ebpf", "--kernel", "user", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    with RemoteKernel() as kernel:
        for number in range(10):
            kernel.bpf(ObjPin(f"/sys/fs/bpf/p{number}", kernel.bpf(HASH)))
        os.kill(int(kernel.status()["pid"]), signal.SIGKILL)
    first = command("map", "list")
    shown = ", ".join(f"/sys/fs/bpf/p{number} (map counts)" for number in range(8))
    assert first.stderr == f"note: ebpfd ended unexpectedly and lost what was pinned: {shown} and 2 more (ebpf daemon log)\n"
    assert (first.returncode, first.stdout) == (0, "")
    assert command("map", "list").stderr == ""
    os.kill(running(), signal.SIGKILL)
    assert command("map", "list").stderr == "note: ebpfd ended unexpectedly; nothing was pinned\n"
