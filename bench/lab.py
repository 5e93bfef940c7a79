"""The laboratory: how soon it is ready, what it costs while nothing is attached, and packets through its wire.

python bench/lab.py [--rounds 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    /* Datagrams to a closed port: 60-byte frames that nobody answers more often than the kernel's limit of ICMP. */
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
    inet_pton(AF_INET, "10.200.0.1", &to.sin_addr);
    char text[18] = {0};
    struct mmsghdr many[64];
    struct iovec piece = {text, sizeof text};
    memset(many, 0, sizeof many);
    for (int i = 0; i < 64; i++) many[i].msg_hdr = (struct msghdr){&to, sizeof to, &piece, 1, 0, 0, 0};
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    for (time_t end = t.tv_sec + 3; t.tv_sec < end; clock_gettime(CLOCK_MONOTONIC, &t)) sendmmsg(fd, many, 64, 0);
    return 0;
}
"""
DROP = '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nint seen;\nSEC("xdp") int drop(void *c) { seen++; return XDP_DROP; }\n'


def run(command: list[str], **more: object) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout  # type: ignore[call-overload,no-any-return]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from ebpf.toolchain import find_clang

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "work.c").write_text(WORK)
        (folder / "flood.c").write_text(FLOOD)
        zig = [sys.executable, "-m", "ziglang", "cc", "-O2", "-D_GNU_SOURCE", "-target", f"{os.uname().machine}-linux-gnu"]
        for text in ("work", "flood"):
            subprocess.run([*zig, str(folder / f"{text}.c"), "-o", str(folder / text)], check=True)
        del find_clang
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
        (folder / "drop.bpf.c").write_text(DROP)
        script = f"""
set -e
clang -target bpf -O2 -g -c {folder}/drop.bpf.c -o {folder}/drop.o
bpftool prog load {folder}/drop.o /sys/fs/bpf/drop
bpftool net attach xdp name drop dev eth0
ebpf lab-peer {folder}/flood > /dev/null
bpftool -j map dump name drop.bss
"""
        rates = []
        for _ in range(rounds):
            answer = run([*LAB, "sh", "-c", script])
            import json

            counted = json.loads(answer)[0]["formatted"]["value"][".bss"][0]["seen"]
            rates.append(counted / 3)
        print(f"XDP_DROP on the veth, inline: {statistics.median(rates) / 1e6:.2f} M packets/s (target 0.3)")


if __name__ == "__main__":
    main()
