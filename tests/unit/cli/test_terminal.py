"""On a terminal: the shell that is yours, Ctrl-C, and the foreground; beside it what needs neither Linux nor a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
EBPF = [sys.executable, "-m", "ebpf", "--kernel", "user"]


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *words: str, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execve(words[0], list(words), {**os.environ, **env})
        self.text = ""

    def until(self, wanted: str, timeout: float = 20) -> str:
        """Read until a text appears."""
        deadline = time.monotonic() + timeout
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            ready, _, _ = select.select([self.fd], [], [], 0.2)
            if ready:
                try:
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    break
        assert wanted in self.text, self.text
        return self.text

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.fd, text.encode())

    def end(self, timeout: float = 20) -> int:
        """Wait for the end; the exit status as a shell gives it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            if ready:
                try:
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"did not end: {self.text}")


def wait_for(name: str, ancestor: int, timeout: float = 20) -> None:
    """Wait until a process of this name has started below another."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        parents, names = {}, {}
        for place in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                head, _, rest = place.read_text().rpartition(")")
                pid = int(place.parent.name)
                names[pid], parents[pid] = head.partition("(")[2], int(rest.split()[1])
        for pid in (pid for pid, its in names.items() if its == name):
            while pid in parents:
                pid = parents[pid]
                if pid == ancestor:
                    return
        time.sleep(0.05)
    raise AssertionError(f"no {name} started")


def test_without_a_command_it_is_your_shell() -> None:
    terminal = Terminal(*EBPF, "run", str(EXAMPLES / "hello.py"), SHELL="/bin/sh", PS1="ready> ")
    terminal.until("a program is started")
    terminal.type("/bin/echo from-the-shell; exit 5\n")
    terminal.until("from-the-shell\r\n")
    assert terminal.end() == 5
    assert terminal.text.count("a program is started") == 2


def test_ctrl_c_ends_the_command_and_the_script() -> None:
    terminal = Terminal(*EBPF, "run", str(EXAMPLES / "exec_counts_exact.py"), "--", "/bin/sleep", "60")
    wait_for("sleep", terminal.pid)
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "started 1 programs" in terminal.text


def test_no_terminal_and_no_command_is_a_usage_error() -> None:
    answer = subprocess.run(
        [*EBPF, "run", str(EXAMPLES / "hello.py")], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "ebpf run SCRIPT -- COMMAND" in answer.stderr


def test_an_interrupt_without_a_terminal_is_130_and_leaves_nothing_behind() -> None:
    child = subprocess.Popen(
        [*EBPF, "run", str(EXAMPLES / "hello.py"), "--", "/bin/sleep", "60"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    assert "a program is started" in child.stdout.readline()
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=20) == 130
    child.stdout.close()


def test_a_pipe_that_closes_is_no_error() -> None:
    script = f"{sys.executable} -m ebpf --kernel user tour | head -1"
    answer = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    assert answer.stdout.startswith("eBPF")
    assert "Traceback" not in answer.stderr


BLOCKED = """
import os, sys
# Linux alone has these.
del os.memfd_create
BLOCK = {"fcntl", "termios", "resource", "pty", "grp", "pwd", "tty", "syslog", "readline"}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in BLOCK:
            raise ImportError(f"{name} is blocked")
for name in BLOCK:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Finder())
import ebpf, ebpf.elf, ebpf.isa, ebpf.engine.verifier, ebpf.compile
from ebpf.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "xdp_count.bpf.c"),
        ("cc", "hello.bpf.c", "-o", "OUT"),
        ("prog", "run", "hello.bpf.c", "--pcap", "PCAP", "--json"),
        ("version",),
    ],
    ids=lambda w: w[0],
)
def test_compile_verify_and_replay_need_no_unix_modules(words: tuple[str, ...], tmp_path: Path) -> None:
    from ebpf.sys.capture import CaptureWriter

    with CaptureWriter(tmp_path / "x.pcap") as writer:
        writer.write(bytes(64))
    places = {"OUT": str(tmp_path / "x.o"), "PCAP": str(tmp_path / "x.pcap")}
    command = [places.get(w, str(EXAMPLES / w) if w.endswith(".bpf.c") else w) for w in words]
    env = {**os.environ, "EBPF_KERNEL": "user", "EBPF_ENGINE": "interp"}
    answer = subprocess.run([sys.executable, "-c", BLOCKED, *command], capture_output=True, text=True, env=env, check=False)
    assert answer.returncode == 0, answer.stderr
