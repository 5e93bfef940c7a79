"""What one client of ebpfd may have: objects, memory, time; each limit has its errno, and nobody else suffers."""

import ctypes
import errno
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Env
from ebpf.errors import KernelError
from ebpf.kernels.daemon import Server
from ebpf.kernels.daemon.watch import Watch
from ebpf.kernels.remote import RemoteKernel, connect
from ebpf.kernels.remote.connection import Connection
from ebpf.kernels.user import UserKernel
from ebpf.kernels.user.grace import Grace
from ebpf.kernels.user.state import State
from ebpf.object import Collection
from ebpf.sys import wire
from ebpf.sys.calls import BtfLoad, MapCreate, MapLookup, MapLookupBatch, ObjGet, ObjPin, ProgLoad, ProgTestRun
from ebpf.uapi import MapType, ProgType
from support.daemon import ENDLESS, HASH, RETURN_2, wait_for

SMALL = MapCreate(MapType.ARRAY, 4, 8, 1)
LONGEST = 0xFFFFFFFF


def refused(kernel: RemoteKernel, call: object) -> KernelError:
    with pytest.raises(KernelError) as told:
        kernel.bpf(call)  # type: ignore[arg-type]
    return told.value


def test_one_object_too_many_is_eperm_until_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_OBJECTS", "8")
    with RemoteKernel() as kernel:
        fds = [kernel.bpf(SMALL) for _ in range(8)]
        for call in (SMALL, ProgLoad(ProgType.XDP, RETURN_2, "GPL")):
            assert refused(kernel, call).errno == errno.EPERM
        kernel.close(fds[0])
        kernel.bpf(SMALL)
        with RemoteKernel() as other:
            other.bpf(SMALL)


def test_a_pin_does_not_take_an_object_off_its_makers_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_OBJECTS", "2")
    with RemoteKernel() as kernel:
        for number in range(2):
            fd = kernel.bpf(SMALL)
            kernel.bpf(ObjPin(f"/sys/fs/bpf/p{number}", fd))
            kernel.close(fd)
        assert refused(kernel, SMALL).errno == errno.EPERM
        kernel.unpin("/sys/fs/bpf/p0")
        kernel.bpf(SMALL)


def test_one_descriptor_too_many_is_eperm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_OBJECTS", "4")
    with RemoteKernel() as kernel:
        kernel.bpf(ObjPin("/sys/fs/bpf/p", kernel.bpf(SMALL)))
        for _ in range(3):
            kernel.bpf(ObjGet("/sys/fs/bpf/p"))
        assert refused(kernel, ObjGet("/sys/fs/bpf/p")).errno == errno.EPERM


def test_who_comes_back_again_and_again_has_no_more_than_all_may_have_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_OBJECTS", "2")
    for number in range(8):
        with RemoteKernel() as kernel:
            for which in "ab":
                kernel.bpf(ObjPin(f"/sys/fs/bpf/{which}{number}", kernel.bpf(SMALL)))
    with RemoteKernel() as kernel:
        told = refused(kernel, SMALL)
        assert told.errno == errno.EPERM
        assert "all clients together have 16 objects" in str(told)


def test_more_memory_than_there_may_be_is_enomem_and_what_is_closed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_MEMORY", "1M")
    with RemoteKernel() as kernel:
        assert refused(kernel, MapCreate(MapType.ARRAY, 4, 8, 1 << 20)).errno == errno.ENOMEM
        fd = kernel.bpf(MapCreate(MapType.ARRAY, 4, 8, 3 << 15))
        half = MapCreate(MapType.ARRAY, 4, 8, 1 << 16)
        assert refused(kernel, half).errno == errno.ENOMEM
        kernel.close(fd)
        kernel.close(kernel.bpf(half))
        assert refused(kernel, BtfLoad(_types(1 << 21))).errno == errno.ENOMEM


def _types(size: int) -> bytes:
    """BTF of one type whose strings are long."""
    strings = b"\0int\0".ljust(size, b"x") + b"\0"
    integer = (1).to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + (4).to_bytes(4, "little") + (32).to_bytes(4, "little")
    header = b"".join(n.to_bytes(4, "little") for n in (24, 0, len(integer), len(integer), len(strings)))
    return b"\x9f\xeb\x01\x00" + header + integer + strings


@pytest.mark.parametrize(("program", "repeat"), [(ProgLoad(ProgType.XDP, RETURN_2, "GPL"), LONGEST), (ENDLESS, 1)], ids=["runs", "run"])
def test_a_test_run_that_takes_too_long_is_etimedout_and_others_are_served_meanwhile(
    program: ProgLoad, repeat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBPF_DAEMON_CPU_S", "0.3")
    told: list[KernelError] = []
    with RemoteKernel() as kernel, RemoteKernel() as other:
        fd = kernel.bpf(program).fd

        def run() -> None:
            told.append(refused(kernel, ProgTestRun(fd, bytes(64), repeat=repeat)))

        thread = threading.Thread(target=run)
        thread.start()
        served = 0
        while thread.is_alive():
            other.close(other.bpf(HASH))
            served += 1
        assert [error.errno for error in told] == [errno.ETIMEDOUT]
        assert served > 1
        assert kernel.bpf(ProgTestRun(kernel.bpf(ProgLoad(ProgType.XDP, RETURN_2, "GPL")).fd, bytes(64))).retval == 2


def test_functions_that_are_judged_apart_are_not_begun_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one's loop is short, but not those of all that call each other."""
    monkeypatch.setenv("EBPF_DAEMON_CPU_S", "0.3")
    level = "__attribute__((noinline)) int f{n}(int x) {{ for (int i = 0; i < 5000; i++) x = {call} * 31 + i; return x; }}\n"
    levels = [level.format(n=n, call=f"f{n - 1}(x + i)" if n else "(x ^ i)") for n in range(6)]
    text = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n" + "".join(levels)
    text += 'SEC("xdp") int once(struct xdp_md *ctx) { return f0(ctx->ingress_ifindex) & 1 ? 2 : 1; }\n'
    text += 'SEC("xdp") int nested(struct xdp_md *ctx) { return f5(ctx->ingress_ifindex) & 1 ? 2 : 1; }\n'
    spec = read_object(compile_c("nested.bpf.c", text=text, flags=["-O1"]).object, "nested.bpf.o")
    with RemoteKernel() as kernel, Collection.load(spec, kernel) as loaded:
        assert loaded.programs["once"].run(bytes(64)).retval in (1, 2)
        assert refused(kernel, ProgTestRun(loaded.programs["nested"].fd, bytes(64))).errno == errno.ETIMEDOUT
        assert loaded.programs["once"].run(bytes(64)).retval in (1, 2)


def test_a_client_that_leaves_takes_its_run_along() -> None:
    with RemoteKernel() as kernel:
        connection = Connection(*connect())
        connection.call("hello", wire.PROTOCOL)
        loaded, _ = connection.call("bpf", ENDLESS)
        peer = connection._socket
        peer.sendall(wire.frame(9, wire.Kind.CALL, wire.encode(["bpf", [ProgTestRun(loaded.fd, bytes(64))]])))
        wait_for(lambda: kernel.status()["clients"] == 2)
        connection.close()
        # Without an end it would go on for the ten seconds of processor time that a client may use, and then some.
        wait_for(lambda: kernel.status()["clients"] == 1, 8)
        wait_for(lambda: kernel.status()["programs"] == 0)


def test_a_run_that_has_not_begun_when_its_client_leaves_does_not_begin() -> None:
    with UserKernel() as kernel:
        fd = kernel.bpf(ENDLESS).fd
        job = kernel.job(ProgTestRun(fd, bytes(64)))
        assert job is not None
        kernel.stop_runs(leaving=True)
        with pytest.raises(KernelError, match="stopped after 0 of 1 runs") as told:
            job.here()
        assert told.value.errno == errno.ETIMEDOUT


def test_a_daemon_that_is_stopped_waits_for_no_run() -> None:
    with RemoteKernel() as kernel, ExitStack() as stack:
        other = stack.enter_context(RemoteKernel())
        fd = other.bpf(ENDLESS).fd
        gone: list[KernelError] = []
        thread = threading.Thread(target=lambda: gone.append(refused(other, ProgTestRun(fd, bytes(64)))))
        thread.start()
        wait_for(lambda: kernel.status()["clients"] == 2)
        pid = int(kernel.status()["pid"])
        kernel.stop()
        thread.join(30)
        assert [error.errno for error in gone] == [errno.ECONNRESET]
        wait_for(lambda: not Path(f"/proc/{pid}/exe").exists())


def test_a_program_on_an_event_that_does_not_end_is_made_to_and_the_next_event_is_given_its_time() -> None:
    grace, env = Grace(), Env(ncpu=1)
    grace.watch_lasting(env)
    watch = Watch(grace, 0.05)
    with UserKernel() as kernel:
        entry = kernel.program_at(kernel.bpf(ENDLESS).fd, "").program.entry
        elapsed = ctypes.c_uint64()
        for _ in range(2):
            assert library().rt_run(entry, None, ctypes.addressof(env), 1, ctypes.byref(elapsed)) == 2
            assert env.stop == 1
            wait_for(lambda: env.stop == 0)
    watch.close()


def test_what_no_message_could_answer_is_refused_before_it_is_done() -> None:
    with RemoteKernel() as kernel:
        fd = kernel.bpf(MapCreate(MapType.ARRAY, 4, 1 << 20, 128))
        assert refused(kernel, MapLookupBatch(fd, b"", 128, 4, 1 << 20)).errno == errno.EMSGSIZE
        assert kernel.bpf(MapLookupBatch(fd, b"", 2, 4, 1 << 20)).count == 2
        large = kernel.bpf(MapCreate(MapType.ARRAY, 4, 1 << 27, 1))
        assert refused(kernel, MapLookup(large, bytes(4), 1 << 27)).errno == errno.EMSGSIZE


def test_limits_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_DAEMON_OBJECTS", "9")
    monkeypatch.setenv("EBPF_DAEMON_MEMORY", "3k")
    monkeypatch.setenv("EBPF_DAEMON_CPU_S", ".5")
    with RemoteKernel() as kernel:
        assert kernel.status()["limits"] == {"objects": 9, "memory": 3072, "cpu_ms": 500}


@pytest.mark.parametrize(
    ("name", "text"),
    [("OBJECTS", "many"), ("OBJECTS", "0"), ("OBJECTS", "-3"), ("MEMORY", "2T"), ("MEMORY", "k"), ("CPU_S", "nan"), ("IDLE_S", "x")],
)
def test_a_limit_that_is_none_is_told_and_nothing_starts(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EBPF_DAEMON_{name}", text)
    with pytest.raises(KernelError, match=f"ebpfd did not start: .*EBPF_DAEMON_{name}='{text}': not "):
        RemoteKernel()


def test_one_pin_too_many_is_enospc_and_a_path_that_is_too_long_enametoolong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebpf.kernels.user.state._MOST_PINS", 2)
    with UserKernel() as kernel:
        fd = kernel.bpf(HASH)
        for path, number in (("/a", 0), ("/" + "x" * 4095, errno.ENAMETOOLONG), ("/b", 0), ("/c", errno.ENOSPC)):
            if not number:
                kernel.bpf(ObjPin(path, fd))
                continue
            with pytest.raises(KernelError) as told:
                kernel.bpf(ObjPin(path, fd))
            assert told.value.errno == number


def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ebpf.kernels.daemon.server._CLIENTS", 2)
    path = tmp_path / "d.sock"
    server = Server(path, State())
    thread = threading.Thread(target=server.run)
    thread.start()

    def client() -> Connection:
        peer = socket.socket(socket.AF_UNIX)
        with wire.socket_address(path) as address:
            peer.connect(address)
        return Connection(peer, str(path))

    with RemoteKernel(client()), RemoteKernel(client()) as second:
        with pytest.raises(KernelError, match="it has 2 clients, as many as it can") as told:
            RemoteKernel(client())
        assert told.value.errno == errno.EPERM
        second.stop()
    thread.join()
