"""ebpfd: what it keeps, what it lets go, and what it does not fall for."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ebpf.errors import KernelError, NotSupportedError, UsageError
from ebpf.kernels.remote import RemoteKernel, connect
from ebpf.sys import wire
from ebpf.sys.calls import (
    FdById,
    GetMapInfo,
    MapCreate,
    MapLookup,
    MapUpdate,
    NextId,
    ObjGet,
    ObjPin,
    ProgLoad,
    ProgTestRun,
)
from ebpf.uapi import Cmd, MapFlag, MapType, ProgType
from support.daemon import HASH, RETURN_2, running, wait_for


def programs(kernel: RemoteKernel) -> list[int]:
    ids: list[int] = []
    with suppress(KernelError):
        while True:
            ids.append(kernel.bpf(NextId(Cmd.PROG_GET_NEXT_ID, ids[-1] if ids else 0)))
    return ids


def test_an_object_lives_as_long_as_somebody_holds_it() -> None:
    with RemoteKernel() as first, RemoteKernel() as second:
        fd = first.bpf(HASH)
        id_ = first.bpf(GetMapInfo(fd)).id
        other = second.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, id_))
        second.bpf(MapUpdate(other, b"abcd", bytes(8)))
        assert first.bpf(MapLookup(fd, b"abcd", 8)) == bytes(8)
        first.close(fd)
        assert second.bpf(GetMapInfo(other)).id == id_
        second.close(other)
        with pytest.raises(KernelError) as refused:
            first.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, id_))
        assert refused.value.errno == errno.ENOENT


def test_a_folder_with_a_long_name_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with RemoteKernel() as kernel:
        pid = int(kernel.status()["pid"])
    os.kill(pid, signal.SIGKILL)


def test_pins_outlive_clients_and_clients_that_are_killed_release_what_they_held() -> None:
    with RemoteKernel() as kernel:
        kernel.bpf(ObjPin("/sys/fs/bpf/counts", kernel.bpf(HASH)))
    code = (
        "import os, signal\nfrom ebpf.kernels.remote import RemoteKernel\nfrom ebpf.sys.calls import ProgLoad\n"
        f"k = RemoteKernel()\nk.bpf(ProgLoad({int(ProgType.XDP)}, bytes.fromhex('{RETURN_2.hex()}'), 'GPL', name='gone'))\n"
        "print('loaded', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "loaded\n"
    with RemoteKernel() as kernel:
        wait_for(lambda: programs(kernel) == [])
        assert kernel.bpf(GetMapInfo(kernel.bpf(ObjGet("/sys/fs/bpf/counts")))).name == "counts"
        kernel.unpin("/sys/fs/bpf/counts")
        with pytest.raises(KernelError):
            kernel.bpf(ObjGet("/sys/fs/bpf/counts"))


def test_programs_are_verified_loaded_and_run() -> None:
    with RemoteKernel() as kernel:
        loaded = kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2, "GPL", name="two"))
        assert kernel.bpf(ProgTestRun(loaded.fd, bytes(64), repeat=3)).retval == 2
        with pytest.raises(KernelError) as refused:
            kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2[8:], "GPL", log_level=1))
        assert refused.value.errno == errno.EACCES
        assert "R0 !read_ok" in refused.value.log


def test_memory_of_a_map_is_shared() -> None:
    with RemoteKernel() as kernel:
        fd = kernel.bpf(MapCreate(MapType.ARRAY, 4, 8, 4, flags=MapFlag.MMAPABLE))
        buffer = kernel.mmap(fd, 4096, writable=True)
        buffer.view[8:16] = b"12345678"
        assert kernel.bpf(MapLookup(fd, b"\1\0\0\0", 8)) == b"12345678"
        buffer.close()
        with pytest.raises(KernelError):
            kernel.mmap(fd, 1 << 20, writable=True)


def test_an_end_by_force_is_told_and_the_next_command_starts_it_again() -> None:
    kernel = RemoteKernel()
    kernel.bpf(ObjPin("/sys/fs/bpf/counts", kernel.bpf(HASH)))
    os.kill(int(kernel.status()["pid"]), signal.SIGKILL)
    with pytest.raises(KernelError) as told:
        kernel.status()
    assert told.value.errno == errno.ECONNRESET
    assert "run the command again" in str(told.value)
    kernel.shutdown()
    with RemoteKernel() as again:
        assert again.news == "ebpfd ended unexpectedly and lost what was pinned: /sys/fs/bpf/counts (map counts)"
        # Until somebody takes the news they wait, for a further end too.
        again.bpf(ObjPin("/sys/fs/bpf/other", again.bpf(HASH)))
        os.kill(int(again.status()["pid"]), signal.SIGKILL)
    with RemoteKernel() as third:
        assert third.status()["lost"] == ["/sys/fs/bpf/counts (map counts)", "/sys/fs/bpf/other (map counts)"]
        assert third.take_news().endswith("pinned: /sys/fs/bpf/counts (map counts), /sys/fs/bpf/other (map counts)")
    with RemoteKernel() as fourth:
        assert fourth.news == ""
        fourth.stop()
    wait_for(lambda: not running())
    with RemoteKernel() as fifth:
        assert fifth.news == ""


def test_who_meets_a_daemon_that_is_just_ending_starts_the_next(place: Path) -> None:
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as ending, wire.socket_address(place / "ebpfd.sock") as address:
        ending.bind(address)
        ending.listen()
        # It takes the connection, as a listening socket does by itself, and is gone before it answers.
        threading.Timer(0.2, ending.close).start()
        with RemoteKernel() as kernel:
            assert int(kernel.status()["pid"]) != os.getpid()


def test_a_client_that_waits_is_told_when_the_daemon_is_killed() -> None:
    with RemoteKernel() as kernel:
        fd = kernel.bpf(MapCreate(MapType.RINGBUF, 0, 0, 4096))
        pid = int(kernel.status()["pid"])
        threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(KernelError) as told:
            kernel.wait([fd], 30)
        assert told.value.errno == errno.ECONNRESET


def test_it_leaves_when_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_IDLE_S", "0.1")
    with RemoteKernel() as kernel:
        pid = int(kernel.status()["pid"])
        time.sleep(0.4)
        assert int(kernel.status()["pid"]) == pid
    wait_for(lambda: not os.path.exists(f"/proc/{pid}/exe"))


def test_a_pin_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_IDLE_S", "0.1")
    with RemoteKernel() as kernel:
        kernel.bpf(ObjPin("/sys/fs/bpf/counts", kernel.bpf(HASH)))
    time.sleep(0.5)
    with RemoteKernel(start=False) as kernel:
        kernel.bpf(ObjGet("/sys/fs/bpf/counts"))


def test_of_many_starters_one_starts_it() -> None:
    pids: list[int] = []

    def start() -> None:
        with RemoteKernel() as kernel:
            pids.append(int(kernel.status()["pid"]))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 8
    assert len(set(pids)) == 1


@pytest.mark.parametrize("how", ["open", "link"])
def test_a_folder_that_others_can_reach_is_not_trusted(how: str, place: Path, tmp_path: Path) -> None:
    if how == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="nobody else can enter"):
        connect()


def test_hooks_need_a_laboratory() -> None:
    from ebpf.sys.kernel import Kprobe

    with RemoteKernel() as kernel:
        loaded = kernel.bpf(ProgLoad(ProgType.KPROBE, bytes.fromhex("b7000000000000009500000000000000"), "GPL"))
        event = kernel.perf_event_open(Kprobe("__x64_sys_execve"))
        with pytest.raises(NotSupportedError, match="ebpf lab"):
            kernel.perf_set_bpf(event, loaded.fd)


def test_a_fork_sees_a_closed_kernel() -> None:
    with RemoteKernel() as kernel:
        pid = os.fork()
        if not pid:
            try:
                kernel.status()
            except KernelError as error:
                os._exit(0 if error.errno == errno.EBADF else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert kernel.status()["clients"] == 1
