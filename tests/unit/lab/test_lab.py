"""The laboratory: the tutorial's commands as they stand, without root, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
DROP = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

SEC("xdp") int judge(struct xdp_md *ctx) {
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != 17 || udp->source != bpf_htons(7))
        return XDP_PASS;
    VERDICT
}
char LICENSE[] SEC("license") = "GPL";
"""
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1.5)
s.sendto(b"hello", ("10.200.0.2", 7))
try:
    print(s.recvfrom(100)[0])
except TimeoutError:
    print("nothing")
"""


def refused() -> str:
    """Why a lab can have no namespaces here ("" if it can)."""
    done = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


needs_namespaces = pytest.mark.skipif(bool(refused()), reason=f"user namespaces: {refused()}")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run shell text in a lab, in a folder of its own."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    for name in ("EBPF_DAEMON", "EBPF_LAB", "EBPF_KERNEL"):
        monkeypatch.delenv(name, raising=False)

    def run(text: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ebpf", "lab", *words, "--", "sh", "-c", text],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run


def living(namespace: str) -> list[str]:
    """The processes of a user namespace that are more than a zombie."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdigit() and os.readlink(place / "ns/user") == namespace and "Z (zombie)" not in (place / "status").read_text():
                found.append((place / "cmdline").read_text())
    return found


def test_the_exit_status_is_passed_on(lab: Run) -> None:
    assert lab("exit 7").returncode == 7
    assert lab("kill -TERM $$").returncode == 143
    assert lab("true").stderr == ""


def test_a_command_that_is_not_there_is_one_line(lab: Run, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ebpf", "lab", "--", "nosuch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: no command 'nosuch' in PATH\n")
    for words in (["lab", "ls"], ["lab", "--"], ["lab", "-x"]):
        done = subprocess.run([sys.executable, "-m", "ebpf", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


@needs_namespaces
def test_it_looks_as_outside_but_for_the_network(lab: Run) -> None:
    answer = lab("id -u; id -g; hostname; pwd; ls /sys/class/net; ls /sys/fs/bpf | wc -l").stdout.splitlines()
    outside = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    assert answer[:3] == [str(os.getuid()), str(os.getgid()), outside]
    assert answer[-1] == "0"


@needs_namespaces
def test_a_lab_in_a_lab_is_refused(lab: Run) -> None:
    answer = lab("ebpf lab -- true")
    assert answer.returncode == 2
    assert "laboratory already" in answer.stderr


@needs_namespaces
def test_xdp_decides_which_packets_of_the_second_host_come(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    for verdict in ("DROP", "PASS", "ABORTED"):
        (tmp_path / f"{verdict}.bpf.c").write_text(DROP.replace("VERDICT", f"return XDP_{verdict};"))
    text = f"""
set -e
python={sys.executable}
for v in DROP PASS ABORTED; do
    clang -target bpf -O2 -g -c $v.bpf.c -o $v.o
    bpftool prog load $v.o /sys/fs/bpf/$v
    bpftool net attach xdp pinned /sys/fs/bpf/$v dev eth0
    echo $v $($python echo.py)
    bpftool net detach xdp dev eth0
done
echo none $($python echo.py)
"""
    answer = lab(text)
    assert answer.stdout.splitlines() == ["DROP nothing", "PASS b'hello'", "ABORTED nothing", "none b'hello'"], answer.stderr


@needs_namespaces
def test_a_packet_that_is_sent_back_carries_what_the_program_wrote(lab: Run, tmp_path: Path) -> None:
    # The second host's answer comes back to it as a datagram to its echo port, and so again to us, changed once.
    swap = """
    unsigned char *text = (void *)(udp + 1);
    if (text + 5 > (unsigned char *)end) return XDP_PASS;
    if (text[0] != 'h') return XDP_PASS;
    text[0] = 'H';
    unsigned char mac[6];
    __builtin_memcpy(mac, eth->h_dest, 6);
    __builtin_memcpy(eth->h_dest, eth->h_source, 6);
    __builtin_memcpy(eth->h_source, mac, 6);
    __u32 address = ip->saddr;
    ip->saddr = ip->daddr;
    ip->daddr = address;
    __u16 port = udp->source;
    udp->source = udp->dest;
    udp->dest = port;
    udp->check = 0;
    return XDP_TX;"""
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "tx.bpf.c").write_text(DROP.replace("VERDICT", swap))
    answer = lab(
        f"clang -target bpf -O2 -g -c tx.bpf.c -o tx.o && bpftool prog load tx.o /sys/fs/bpf/tx && "
        f"bpftool net attach xdp name judge dev eth0 && {sys.executable} echo.py"
    )
    assert answer.stdout == "b'Hello'\n", answer.stderr


LENGTHS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
int longest, last;
SEC("xdp") int judge(struct xdp_md *ctx) {
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    int length = end - data;
    if (length > longest) {
        longest = length;
        if (length > 42 && data + 42 < end && length < 70000 && data + 30042 <= end)
            last = data[30041];
    }
    return XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""


@needs_namespaces
def test_packets_of_lo_are_seen_whole_however_long(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "lengths.bpf.c").write_text(LENGTHS)
    (tmp_path / "send.py").write_text(
        """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in (10, 30000, 1000):
    s.sendto(bytes(n - 1) + b"\\x2a", ("127.0.0.1", 9))
time.sleep(0.2)
"""
    )
    answer = lab(
        f"clang -target bpf -O2 -g -c lengths.bpf.c -o l.o && bpftool prog load l.o /sys/fs/bpf/l && "
        f"bpftool net attach xdp name judge dev lo && {sys.executable} send.py && bpftool -j map dump name l.bss"
    )
    assert json.loads(answer.stdout)[0]["formatted"]["value"][".bss"] == [{"longest": 30042}, {"last": 42}], answer.stderr


@needs_namespaces
def test_tcp_passes_whole_in_both_directions(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "pass.bpf.c").write_text(DROP.replace("VERDICT", "return XDP_PASS;"))
    (tmp_path / "tcp.py").write_text(
        """
import os, socket, threading, urllib.request
peer = socket.create_connection(("peer", 7), 10)
data, got = os.urandom(1 << 20), bytearray()
def read():
    while len(got) < len(data):
        got.extend(peer.recv(65536))
thread = threading.Thread(target=read)
thread.start()
peer.sendall(data)
thread.join()
print(bytes(got) == data, "second host" in urllib.request.urlopen("http://peer/", timeout=10).read().decode())
"""
    )
    answer = lab(
        f"{sys.executable} tcp.py; clang -target bpf -O2 -g -c pass.bpf.c -o p.o && bpftool prog load p.o /sys/fs/bpf/p && "
        f"bpftool net attach xdp name judge dev eth0 && {sys.executable} tcp.py"
    )
    assert answer.stdout == "True True\nTrue True\n", answer.stderr


COUNTER = """
from bcc import BPF
import sys, time
b = BPF(text='BPF_HASH(t); int f(void *ctx) { u64 k = 0; t.increment(k); return 0; }')
b.attach_kprobe(event=b.get_syscall_fnname("CALL"), fn_name="f")
print("attached", flush=True)
sys.stdin.readline()
print(sum(v.value for v in b["t"].values()), flush=True)
"""


@needs_namespaces
@pytest.mark.parametrize("forks", [1, 8])
def test_calls_of_running_processes_are_counted_exactly(lab: Run, tmp_path: Path, forks: int) -> None:
    (tmp_path / "count.py").write_text(COUNTER.replace("CALL", "getppid"))
    (tmp_path / "work.py").write_text(
        """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
def work():
    for _ in range(500):
        libc.syscall(110)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
        for t in threads: t.join()
        os._exit(0)
for _ in range(int(sys.argv[1])):
    assert os.wait()[1] == 0
print("done", flush=True)
sys.stdin.readline()
"""
    )
    # The worker runs before the program is attached, and goes on after it is detached.
    text = f"""
python={sys.executable}
mkfifo w c wo co
$python work.py {forks} < w > wo & exec 3> w 4< wo
read line <&4
$python count.py < c > co & exec 5> c 6< co
read line <&6; echo $line
echo go >&3; read line <&4; echo $line
echo go >&5; read line <&6; echo $line
exec 5>&-; wait %2
echo go >&3; wait %1; echo $?
"""
    answer = lab(text)
    assert answer.stdout.splitlines() == ["attached", "done", str(forks * 1000), "0"], answer.stderr


@needs_namespaces
def test_attaching_and_detaching_hurts_nobody(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(
        """
import signal, sys, threading, os, time
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
end = time.monotonic() + 3
runs = 0
while time.monotonic() < end:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    runs += 1
print("fine", runs > 10, ticks > 50)
"""
    )
    (tmp_path / "attach.py").write_text(
        """
from bcc import BPF
for _ in range(25):
    b = BPF(text='BPF_HASH(t); int f(void *ctx) { u64 k = 0; t.increment(k); return 0; }')
    b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="f")
    b.cleanup()
print("attached 25 times")
"""
    )
    answer = lab(f"{sys.executable} loop.py & {sys.executable} attach.py; wait")
    assert sorted(answer.stdout.splitlines()) == ["attached 25 times", "fine True True"], answer.stderr


@needs_namespaces
def test_stopped_processes_stay_stopped_and_go_on(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNTER.replace("CALL", "execve"))
    text = f"""
mkfifo c co
sleep 30 & s=$!
kill -STOP $s
{sys.executable} count.py < c > co & exec 5> c 6< co
read line <&6
/bin/true
grep State /proc/$s/status
echo go >&5; read line <&6; echo $line
exec 5>&-; wait %2
grep State /proc/$s/status
kill -CONT $s; kill $s; wait $s; echo $?
"""
    lines = lab(text).stdout.splitlines()
    assert lines[0].endswith("t (tracing stop)") or lines[0].endswith("T (stopped)")
    # true and grep were started meanwhile.
    assert lines[1:] == ["2", "State:\tT (stopped)", "143"]


@needs_namespaces
def test_nothing_is_left_behind(lab: Run, tmp_path: Path) -> None:
    lab("sleep 0.1 & true")
    assert list((tmp_path / "run" / "ebpf").glob("lab-*")) == []


@needs_namespaces
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_lab_that_is_killed_takes_its_network_and_daemon_with_it(how: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "ebpf", "lab", "--", "sh", "-c", "echo $$; sleep 100 & wait"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    shell = int(process.stdout.readline())
    namespace = os.readlink(f"/proc/{shell}/ns/user")
    process.send_signal(how)
    assert process.wait(20) == (128 + how if how == signal.SIGTERM else -how)
    if how == signal.SIGKILL:
        # Nobody is left to tell the shell and what it started: they go on, without the lab's programs.
        deadline = time.monotonic() + 5
        while sorted(line.split("\0")[0].rpartition("/")[2] for line in living(namespace)) != ["sh", "sleep"]:
            # Its daemon and second host take a moment to end.
            assert time.monotonic() < deadline, living(namespace)
            time.sleep(0.02)
        for place in Path("/proc").iterdir():
            with suppress(OSError):
                if place.name.isdigit() and os.readlink(place / "ns/user") == namespace:
                    os.kill(int(place.name), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while living(namespace):
        assert time.monotonic() < deadline, living(namespace)
        time.sleep(0.02)
    process.stdout.close()


def test_without_namespaces_it_is_a_lab_of_the_process_tree(lab: Run, tmp_path: Path) -> None:
    if refused():
        command = [sys.executable, "-m", "ebpf"]
    else:
        # In a user namespace where no other may be made.
        (tmp_path / "ebpf.sh").write_text(f'echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -m ebpf "$@"\n')
        command = ["unshare", "-Ur", "sh", str(tmp_path / "ebpf.sh")]
    (tmp_path / "count.py").write_text(COUNTER.replace("CALL", "execve"))
    text = f"""
mkfifo c co
{sys.executable} count.py < c > co & exec 5> c 6< co
read line <&6
/bin/true; /bin/true
echo go >&5; read line <&6; echo $line
exec 5>&-; wait
exit 5
"""
    done = subprocess.run(
        [*command, "lab", "--", "sh", "-c", text],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines() == ["2"], done.stderr


@needs_namespaces
def test_what_is_done_to_a_pins_file_is_done_to_the_pin(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "judge.bpf.c").write_text(DROP.replace("VERDICT", "return XDP_DROP;"))
    load = "clang -target bpf -O2 -g -c judge.bpf.c -o judge.o && cd /sys/fs/bpf && bpftool prog load $OLDPWD/judge.o /sys/fs/bpf/one"
    # Removed, it is free again; renamed, it has the new name; a folder's pins go with it.
    steps = [
        load.replace("$OLDPWD/", f"{tmp_path}/"),
        "rm one",
        "bpftool -j prog list",
        f"bpftool prog load {tmp_path}/judge.o /sys/fs/bpf/one",
        "mv one two",
        "bpftool -j -f prog list",
        "mkdir d",
        "mv two d",
        f"bpftool prog load {tmp_path}/judge.o /sys/fs/bpf/d/three",
        "bpftool -j prog show pinned /sys/fs/bpf/d/two",
        "rm -r d",
        "bpftool -j prog list",
        "ls",
    ]
    done = lab(" && ".join(steps))
    assert (done.returncode, done.stderr) == (0, "")
    none, listed, shown, left = (json.loads(line) for line in done.stdout.splitlines())
    assert none == left == []
    assert [row["pinned"] for row in listed] == [["/sys/fs/bpf/two"]]
    assert shown["name"] == "judge"


@needs_namespaces
def test_a_command_is_the_labs_own_where_it_has_one(lab: Run, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ebpf", "lab", "--", "bpftool", "prog", "list"], capture_output=True, text=True, check=False, timeout=90
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_namespaces
def test_native_and_generic_mode_do_not_go_together(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "judge.bpf.c").write_text(DROP.replace("VERDICT", "return XDP_PASS;"))
    load = "clang -target bpf -O2 -g -c judge.bpf.c -o judge.o && bpftool prog load judge.o /sys/fs/bpf/judge"
    generic, native = (f"bpftool net attach {mode} name judge dev" for mode in ("xdpgeneric", "xdpdrv"))
    done = lab(f"{load} && {native} lo; {generic} lo && {native} lo overwrite; {native} eth0 && {generic} eth0 overwrite")
    why = [line for line in done.stderr.splitlines() if line.startswith("libbpf:")]
    both = "libbpf: Kernel error message: Native and generic XDP can't be active at the same time"
    assert why == ["libbpf: Kernel error message: lo takes programs in generic mode only, as on Linux", both, both]


FILTERS = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
int seen[3];
static int echo(struct __sk_buff *skb) {
    unsigned char *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    return data + 42 <= end && skb->protocol == bpf_htons(ETH_P_IP) && data[23] == 17;
}
SEC("tcx/ingress") int first(struct __sk_buff *skb) { if (echo(skb)) seen[0]++; return -1; }
SEC("tcx/ingress") int second(struct __sk_buff *skb) { if (echo(skb)) seen[1] = seen[0]; return 0; }
SEC("tcx/ingress") int never(struct __sk_buff *skb) { if (echo(skb)) seen[2]++; return 0; }
SEC("tcx/egress") int drop(struct __sk_buff *skb) { return echo(skb) ? 2 : -1; }
SEC("tcx/egress") int upper(struct __sk_buff *skb) {
    /* Without a checksum, which would be wrong now. */
    short none = 0;
    char letter = 'H';
    if (!echo(skb)) return -1;
    bpf_skb_store_bytes(skb, 40, &none, 2, 0);
    bpf_skb_store_bytes(skb, 42, &letter, 1, 0);
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@needs_namespaces
def test_filters_of_tcx_decide_in_their_order_on_both_sides(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "filters.bpf.c").write_text(FILTERS)
    text = f"""
set -e
clang -target bpf -O2 -g -c filters.bpf.c -o filters.o
bpftool prog loadall filters.o /sys/fs/bpf/f
bpftool net attach tcx_ingress name second dev eth0
bpftool net attach tcx_ingress name never dev eth0
bpftool net attach tcx_ingress name first dev eth0 prepend
{sys.executable} echo.py
bpftool net attach tcx_egress name drop dev eth0
{sys.executable} echo.py
bpftool net detach tcx_egress dev eth0
bpftool -j net list dev eth0
bpftool -j map dump name filters.bss
bpftool net attach tcx_ingress name first dev eth0 || echo again $?
"""
    answer = lab(text)
    passed, dropped, listed, dumped, again = answer.stdout.splitlines()
    assert (passed, dropped, again) == ("b'hello'", "nothing", "again 239"), answer.stderr
    assert [(row["kind"], row["name"]) for row in json.loads(listed)[0]["tc"]] == [
        ("tcx/ingress", name) for name in ("first", "second", "never")
    ]
    assert json.loads(dumped)[0]["formatted"]["value"][".bss"][0]["seen"] == [1, 1, 0]


@needs_namespaces
def test_links_hold_programs_on_interfaces_and_change_them(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "filters.bpf.c").write_text(FILTERS)
    (tmp_path / "judge.bpf.c").write_text(DROP.replace("VERDICT", "return XDP_DROP;"))
    (tmp_path / "links.py").write_text("""
import subprocess, sys
from ebpf.attach import tcx, xdp
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.calls import GetLinkInfo, LinkDetach, LinkUpdate

def echo():
    print(subprocess.run([sys.executable, "echo.py"], capture_output=True, text=True).stdout.strip(), flush=True)

def spec(name):
    return read_object(compile_c(name, text=open(name).read()).object, name)

with open_kernel("user") as kernel, Collection.load(spec("filters.bpf.c"), kernel) as filters, Collection.load(spec("judge.bpf.c"), kernel) as judge:
    with tcx(filters.programs["drop"], "eth0", "egress") as link:
        echo()
        kernel.bpf(LinkUpdate(link.fd, filters.programs["upper"].fd))
        echo()
    echo()
    with xdp(judge.programs["judge"], "eth0", link=True) as link:
        echo()
        print(kernel.bpf(GetLinkInfo(link.fd)).detail["ifindex"] == kernel.interfaces()["eth0"], flush=True)
        kernel.bpf(LinkDetach(link.fd))
        print(kernel.bpf(GetLinkInfo(link.fd)).detail, flush=True)
        echo()
""")
    answer = lab(f"{sys.executable} links.py")
    assert answer.stdout.splitlines() == ["nothing", "b'Hello'", "b'hello'", "nothing", "True", "{'ifindex': 0}", "b'hello'"], answer.stderr


# A server of this host's own, and who asks it: by the loopback.
ALONE = """
import os, socket, threading
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 7007))
def serve():
    while True:
        data, who = server.recvfrom(100)
        server.sendto(data, who)
threading.Thread(target=serve, daemon=True).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1.5)
s.sendto(b"hello", ("127.0.0.1", 7007))
try:
    print(s.recvfrom(100)[0], end=" ")
except TimeoutError:
    print("nothing", end=" ")
listening = socket.create_server(("127.0.0.1", 0))
peer = socket.create_connection(listening.getsockname())
other, _ = listening.accept()
data, got = os.urandom(1 << 20), bytearray()
threading.Thread(target=peer.sendall, args=(data,), daemon=True).start()
while len(got) < len(data):
    got.extend(other.recv(65536))
print(bytes(got) == data)
"""


def holds_back() -> bool:
    """Whether this host holds packets of the loopback back for us, in a namespace as the lab's is."""
    ask = "from ebpf.kernels.daemon.lab.queue import possible; print(possible())"
    done = subprocess.run(["unshare", "-Urn", sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


@needs_namespaces
def test_verdicts_on_lo_decide_where_the_host_holds_its_packets_back(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    # The answer comes to its sender again, as a question, and so to the asker once more, as it was changed the first time.
    judge = DROP.replace("bpf_htons(7)", "bpf_htons(7007)")
    upper = """
    unsigned char *text = (void *)(udp + 1);
    if (text + 5 > (unsigned char *)end || text[0] != 'h') return XDP_PASS;
    text[0] = 'H';
    udp->check = 0;
    __u32 address = ip->saddr;
    ip->saddr = ip->daddr;
    ip->daddr = address;
    __u16 port = udp->source;
    udp->source = udp->dest;
    udp->dest = port;
    return XDP_TX;"""
    for name, verdict in (("drop", "return XDP_DROP;"), ("pass", "return XDP_PASS;"), ("tx", upper)):
        (tmp_path / f"{name}.bpf.c").write_text(judge.replace("VERDICT", verdict))
    text = f"""
set -e
for v in drop pass tx; do
    clang -target bpf -O2 -g -c $v.bpf.c -o $v.o
    bpftool prog load $v.o /sys/fs/bpf/$v
    bpftool net attach xdp pinned /sys/fs/bpf/$v dev lo
    echo $v $({sys.executable} alone.py)
    bpftool net detach xdp dev lo
done
echo none $({sys.executable} alone.py)
"""
    answer = lab(text)
    drop, back = ("nothing", "b'Hello'") if holds_back() else ("b'hello'", "b'hello'")
    expected = [f"drop {drop} True", "pass b'hello' True", f"tx {back} True", "none b'hello' True"]
    assert answer.stdout.splitlines() == expected, answer.stderr


LOOKS_ON = """
import socket, time
from ebpf.engine.runtime.abi import Env
from ebpf.kernels.daemon.lab import network, queue
from ebpf.kernels.daemon.lab.wires import _Loopback
network.up("lo")
with queue.bound():
    # Somebody else has the queue: nothing can be held back.
    seen = _Loopback(1, Env())
receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
receiver.bind(("127.0.0.1", 0))
sender.sendto(b"x", receiver.getsockname())
received = receiver.recv(10)
end = time.monotonic() + 20
while not seen.loop.wire.packets and time.monotonic() < end:
    time.sleep(0.01)
print(seen.loop.wire.output, received, seen.loop.wire.packets)
seen.close()
"""


@needs_namespaces
def test_where_nothing_can_be_held_back_programs_look_on() -> None:
    done = subprocess.run(["unshare", "-Urn", sys.executable, "-c", LOOKS_ON], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("-1 b'x' 1\n", "")
