"""The laboratory: how soon it is ready, what it costs while nothing is attached, and packets through its wire.

python bench/lab.py [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 2
LAB = [sys.executable, "-m", "ebpf", "lab", "--"]
WORK = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(void) {
    double begin = now();
    for (int i = 0; i < 300; i++) {
        if (!fork()) { execl("/bin/true", "true", (char *)0); _exit(1); }
        wait(0);
    }
    double between = now();
    for (int i = 0; i < 2000000; i++) syscall(SYS_getppid);
    printf("%f %f\n", (between - begin) / 300 * 1e6, (now() - between) / 2000000 * 1e9);
}
"""
FLOOD = r"""
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
/* In the second host: 60-byte frames out of its eth0 for some seconds. Prints how many were sent and how many came back. */
static unsigned long received(void) {
    char line[512]; unsigned long n = 0;
    FILE *f = fopen("/proc/self/net/dev", "r");
    while (fgets(line, sizeof line, f)) {
        char *at = strstr(line, "eth0:");
        if (at) sscanf(at + 5, "%*u %lu", &n);
    }
    fclose(f);
    return n;
}
int main(int argc, char **argv) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("eth0")};
    if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof to)) { perror("flood"); return 1; }
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);
    unsigned char frame[60] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0,
                               10, 200, 0, 2, 10, 200, 0, 1};
    struct mmsghdr many[64];
    struct iovec piece = {frame, sizeof frame};
    memset(many, 0, sizeof many);
    for (int i = 0; i < 64; i++) many[i].msg_hdr = (struct msghdr){.msg_iov = &piece, .msg_iovlen = 1};
    unsigned long before = received(), sent = 0;
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    double now = t.tv_sec + t.tv_nsec / 1e9, begin = now;
    for (double end = now + atof(argv[1]); now < end; now = t.tv_sec + t.tv_nsec / 1e9) {
        int n = sendmmsg(fd, many, 64, 0);
        if (n > 0) sent += n;
        clock_gettime(CLOCK_MONOTONIC, &t);
    }
    printf("%f %lu %lu\n", now - begin, sent, received() - before);
    return argc != 2;
}
"""
TRIP = """
import socket, statistics, time
one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
for each in (one, other):
    each.bind(("127.0.0.1", 0))
took = []
for _ in range(2000):
    began = time.perf_counter()
    one.sendto(b"x", other.getsockname())
    other.recv(10)
    other.sendto(b"y", one.getsockname())
    one.recv(10)
    took.append(time.perf_counter() - began)
print(statistics.median(took) * 1e6)
"""
JUDGE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
long seen;
SEC("xdp") int judge(void *ctx) { seen++; return VERDICT; }
char LICENSE[] SEC("license") = "GPL";
"""


def run(command: list[str], **more: object) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout  # type: ignore[call-overload,no-any-return]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "work.c").write_text(WORK)
        (folder / "flood.c").write_text(FLOOD)
        zig = [sys.executable, "-m", "ziglang", "cc", "-O2", "-D_GNU_SOURCE", "-target", f"{os.uname().machine}-linux-gnu"]
        for text in ("work", "flood"):
            subprocess.run([*zig, str(folder / f"{text}.c"), "-o", str(folder / text)], check=True)
        ready = []
        for _ in range(rounds):
            began = time.perf_counter()
            run([*LAB, "/bin/true"])
            ready.append(time.perf_counter() - began)
        print(f"opened, /bin/true run and closed: {statistics.median(ready):.2f} s (target: ready in 0.6 s)")
        pairs = []
        for _ in range(rounds):
            outside = [float(word) for word in run([str(folder / "work")]).split()]
            inside = [float(word) for word in run([*LAB, str(folder / "work")]).split()]
            pairs.append((inside[0] / outside[0], inside[1] - outside[1], outside))
        ratio = statistics.median(pair[0] for pair in pairs)
        more = statistics.median(pair[1] for pair in pairs)
        print(f"fork and exec in an idle lab: {ratio:.2f} x outside (target 1.25); a system call: {more:+.0f} ns")
        for verdict in ("XDP_DROP", "XDP_TX", "XDP_PASS"):
            (folder / "judge.bpf.c").write_text(JUDGE.replace("VERDICT", verdict))
            floods = sorted(flood(folder) for _ in range(rounds))
            rate, offered, back, spent = floods[len(floods) // 2]
            sent_back = f", {back / 1e6:.2f} M/s came back" if verdict == "XDP_TX" else ""
            print(
                f"{verdict} on the veth, inline: {rate / 1e6:.2f} M packets/s of {offered / 1e6:.2f} M/s sent{sent_back} (target 0.3); "
                f"{spent:.2f} us of processor time for each"
            )
        (folder / "trip.py").write_text(TRIP)
        without, inline = loopback(folder)
        print(f"a datagram by lo and back: {without:.0f} us; held back for XDP_PASS {inline:.0f} us")


def loopback(folder: Path) -> tuple[float, float]:
    """A datagram to this host and back, in microseconds: with nothing attached to the loopback, and with a program that lets all pass."""
    script = f"""
set -e
cd {folder}
clang -target bpf -O2 -g -c judge.bpf.c -o judge.o
bpftool prog load judge.o /sys/fs/bpf/judge
{sys.executable} trip.py
bpftool net attach xdp pinned /sys/fs/bpf/judge dev lo
{sys.executable} trip.py
"""
    without, inline = (float(word) for word in run([*LAB, "sh", "-c", script]).split())
    return without, inline


def flood(folder: Path) -> tuple[float, float, float, float]:
    """Flood the lab's eth0 from the second host: packets a second that the program judged, that were sent, and that came back.

    Last, microseconds of the lab's processor time for each, looking for the next one included: an upper bound on a busy machine.
    """
    script = f"""
set -e
cd {folder}
clang -target bpf -O2 -g -c judge.bpf.c -o judge.o
bpftool prog load judge.o /sys/fs/bpf/judge
bpftool net attach xdp pinned /sys/fs/bpf/judge dev eth0
echo $EBPF_LAB
read line
bpftool -j map dump name judge.bss
"""
    with subprocess.Popen([*LAB, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdin is not None
        assert lab.stdout is not None
        pid = int(lab.stdout.readline())
        inside = ["nsenter", "--preserve-credentials", "--user", "--net", "--target", str(second_host(pid))]
        before = processor_s(pid)
        seconds, sent, back = (float(word) for word in run([*inside, str(folder / "flood"), str(SECONDS)]).split())
        spent = processor_s(pid) - before
        answer, _ = lab.communicate("\n", timeout=60)
    seen = json.loads(answer)[0]["formatted"]["value"][".bss"][0]["seen"]
    return seen / seconds, sent / seconds, back / seconds, spent / seen * 1e6


def processor_s(pid: int) -> float:
    """The processor time that a process has used, in seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def second_host(lab: int) -> int:
    """The process that is the lab's second host: the child whose network is neither the lab's nor ours."""
    networks = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in (os.getpid(), lab)}
    children = [int(pid) for pid in Path(f"/proc/{lab}/task/{lab}/children").read_text().split()]
    return next(pid for pid in children if os.stat(f"/proc/{pid}/ns/net").st_ino not in networks)


if __name__ == "__main__":
    main()
