"""The tutorial, typed line by line through a terminal, where no clang, bcc or bpftool is installed."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROMPT = "typed> "
# What the tutorial has the reader type in files.
HELLO_PY = '''#!/usr/bin/python3 \x20
from bcc import BPF

program = r"""
int hello(void *ctx) {
    bpf_trace_printk("Hello World!");
    return 0;
}
"""

b = BPF(text=program)
syscall = b.get_syscall_fnname("execve")
b.attach_kprobe(event=syscall, fn_name="hello")

b.trace_print()
'''
COUNTER_PY = '''#!/usr/bin/python3
from bcc import BPF
from time import sleep

program = r"""
BPF_HASH(counter_table);

int hello(void *ctx) {
   u64 uid;
   u64 counter = 0;
   u64 *p;

   uid = bpf_get_current_uid_gid() & 0xFFFFFFFF;
   p = counter_table.lookup(&uid);
   if (p != 0) {
      counter = *p;
   }
   counter++;
   counter_table.update(&uid, &counter);
   return 0;
}
"""

b = BPF(text=program)
b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="hello")
for _ in range(20):
    sleep(0.1)
    s = ""
    for k, v in b["counter_table"].items():
        s += f"ID {k.value}: {v.value}\\t"
    print(s, flush=True)
'''
HELLO_C = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int counter = 0;

SEC("xdp")
int hello(struct xdp_md *ctx) {
    bpf_printk("Hello World %d", counter);
    counter++;\x20
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
DATAGRAM = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))'
NEEDED = ("sh", "ls", "cat", "date", "sleep", "python3", "env", "true", "kill", "timeout")


class Terminal:
    """A shell at the other end of a pseudo-terminal."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env, start_new_session=True, preexec_fn=_own_terminal
        )
        os.close(slave)
        self.rest = ""
        self.banner = self.until(PROMPT)

    def until(self, text: str, seconds: float = 30) -> str:
        """What is printed before `text` appears."""
        seen = self.rest
        deadline = time.monotonic() + seconds
        while text not in seen:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{text!r} did not appear after: {seen}"
            seen += os.read(self.master, 65536).decode(errors="replace").replace("\r\n", "\n")
        before, _, self.rest = seen.partition(text)
        return before

    def send(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def type(self, line: str) -> str:
        """Type a line and return what it prints until the next prompt."""
        self.send(line + "\n")
        return self.until(PROMPT).partition(line + "\n")[2]

    def end(self) -> int:
        """Leave the shell."""
        self.send("exit 3\n")
        status = self.process.wait(20)
        os.close(self.master)
        return status


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def refused() -> str:
    """Why a lab can have no namespaces here ("" if it can)."""
    done = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture
def terminal(tmp_path: Path, kernel_name: str) -> Iterator[Terminal]:
    """A lab on this kernel, with the tutorial's files, and a PATH without clang and bpftool."""
    if kernel_name == "user" and refused():
        pytest.skip(f"user namespaces: {refused()}")
    for name, text in (("hello.py", HELLO_PY), ("counter.py", COUNTER_PY), ("hello.bpf.c", HELLO_C)):
        (tmp_path / name).write_text(text)
    (tmp_path / "hello.py").chmod(0o755)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in NEEDED:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found is not None
        (tools / name).symlink_to(found)
    (tmp_path / "run").mkdir(mode=0o700)
    env = {
        "PATH": str(tools),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(tmp_path / "cache")),
        "SHELL": "/bin/sh",
        "PS1": PROMPT,
        "TERM": "dumb",
        **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
    }
    opened = Terminal([sys.executable, "-m", "ebpf", "--kernel", kernel_name, "lab"], tmp_path, env)
    yield opened
    if opened.process.poll() is None:
        opened.process.terminate()
        opened.process.wait(20)


def test_hello_prints_a_line_for_each_command(terminal: Terminal) -> None:
    terminal.type("(while sleep 0.2; do ls > /dev/null; done) & loop=$!")
    terminal.send("python3 hello.py\n")
    for _ in range(2):
        assert re.search(r"b'\s*\S+-\d+\s+\[\d{3}\] \S+\s+\d+\.\d+: bpf_trace_printk: $", terminal.until("Hello World!'"))
    terminal.send("\x03")
    assert "KeyboardInterrupt" in terminal.until(PROMPT)
    terminal.send("./hello.py\n")
    terminal.until("Hello World!'")
    terminal.send("\x03")
    terminal.until(PROMPT)
    terminal.type("kill $loop")
    assert terminal.end() == 3


def test_the_counter_counts_for_each_user(terminal: Terminal) -> None:
    # For as long as it takes: how soon the program is attached depends on what else the machine does.
    terminal.type("(while sleep 0.2; do ls; done) > /dev/null & loop=$!")
    lines = terminal.type("python3 counter.py")
    terminal.type("kill $loop")
    counts = [int(n) for n in re.findall(rf"ID {os.getuid()}: (\d+)", lines)]
    assert counts == sorted(counts)
    assert counts[-1] >= 3


def test_the_xdp_programs_commands_do_what_the_text_says(terminal: Terminal, kernel_name: str) -> None:
    assert terminal.type("clang -target bpf -O2 -g -c hello.bpf.c") == ""
    assert terminal.type("bpftool prog load hello.bpf.o /sys/fs/bpf/hello") == ""
    assert "hello" in terminal.type("ls /sys/fs/bpf").split()
    shown = terminal.type("bpftool prog show pinned /sys/fs/bpf/hello")
    found = re.fullmatch(
        r"(\d+): xdp  name hello  tag [0-9a-f]{16}  gpl\n"
        r"\tloaded_at \S+  uid \d+\n"
        r"\txlated \d+B  jited \d+B  memlock \d+B  map_ids ([\d,]+)\n"
        r"\tbtf_id \d+\n(?:\tpids .*\n)?",
        shown,
    )
    assert found, shown
    assert f"{found[1]}: xdp  name hello" in terminal.type("bpftool prog list")
    assert terminal.type(f"bpftool net attach xdp id {found[1]} dev lo") == ""
    assert f"lo(1) generic id {found[1]}\n" in terminal.type("bpftool net list")
    terminal.send("bpftool prog tracelog &\n")
    terminal.until(PROMPT)
    # The log begins when it is open; a packet is sent until its line is there.
    for _ in range(30):
        terminal.send(f"python3 -c '{DATAGRAM}'; sleep 0.1\n")
        if re.search(r"bpf_trace_printk: Hello World \d+", terminal.until(PROMPT)):
            break
    else:
        pytest.fail("no packet was seen")
    terminal.type("kill $!; wait")
    # On Linux others' maps may have the name too.
    maps = re.findall(r"(\d+): array  name hello.bss", terminal.type("bpftool map list"))
    map_ = next(n for n in maps if n in found[2].split(","))
    dumped = terminal.type(f"bpftool map dump id {map_}")
    assert re.search(r'"counter": (\d+)', dumped)[1] != "0"  # type: ignore[index]
    assert terminal.type("bpftool net detach xdp dev lo") == ""
    assert "lo(1)" not in terminal.type("bpftool net list")
    assert terminal.type(f"bpftool map update id {map_} key 0 0 0 0 value 42 0 0 0") == ""
    assert '"counter": 42' in terminal.type(f"bpftool map dump id {map_}")
    bytecode = terminal.type(f"bpftool prog dump xlated id {found[1]}")
    assert bytecode.startswith("int hello(struct xdp_md * ctx):\n")
    assert re.search(r"^ +\d+: \(95\) exit$", bytecode, re.MULTILINE)
    if kernel_name == "user":
        assert "needs" not in terminal.banner
        assert len([line for line in terminal.banner.splitlines() if line.startswith("lab: ")]) == 3
    assert terminal.end() == 3
