"""The examples print what they are expected to print, on both kernels."""

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TWO = ("/bin/sh", "-c", "/bin/ls /dev/null; /bin/ls /dev/null; :")
Run = Callable[..., subprocess.CompletedProcess[str]]


def expected(name: str) -> str:
    return (EXAMPLES / "expected" / f"{name}.txt").read_text()


def trace_lines(text: str) -> str:
    """Trace lines as `comm: message`, whatever their pid, processor and time."""
    return "".join(
        f"{found[1]}: {found[2]}\n" for found in re.finditer(r"b'\s*(\S+)-\d+\s+\[\d+\] \S+\s+[\d.]+: bpf_trace_printk: (.*)'", text)
    )


def test_hello_prints_a_line_for_each_exec(ebpf: Run, kernel_name: str) -> None:
    answer = ebpf("run", str(EXAMPLES / "hello.py"), "--", *TWO)
    wanted = expected("hello").replace("python", os.path.basename(sys.executable)[:15])
    got = trace_lines(answer.stdout)
    assert answer.returncode == 0
    if kernel_name == "linux":
        # Linux's trace has the lines of everybody's programs. It looks a process's name up when it is read: by then it may
        # be what the exec made of it, or forgotten (<...>).
        got = "".join(line for line in got.splitlines(keepends=True) if line.endswith(": a program is started\n"))
        names = {line.split(":")[0] for line in wanted.splitlines()} | {"<...>", "ls"}
        assert {line.split(":")[0] for line in got.splitlines()} <= names
        got, wanted = (re.sub(r"(?m)^\S+:", "", text) for text in (got, wanted))
    assert got == wanted


@pytest.mark.parametrize("script", ["exec_counts", "exec_counts_exact"])
def test_counts_per_user_equal_the_number_of_execs(ebpf: Run, script: str) -> None:
    answer = ebpf("run", str(EXAMPLES / f"{script}.py"), "--", *TWO)
    user = pwd.getpwuid(os.getuid()).pw_name
    wanted = expected(script).replace("USER", user).replace("UID", str(os.getuid()))
    assert (answer.returncode, answer.stdout.splitlines()[-1] + "\n") == (0, wanted)


def test_the_exact_counter_is_exact_with_eight_processes_at_once(ebpf: Run) -> None:
    loop = "for i in 1 2 3 4 5 6 7 8; do (n=0; while [ $n -lt 25 ]; do /bin/true; n=$((n+1)); done) & done; wait"
    answer = ebpf("run", str(EXAMPLES / "exec_counts_exact.py"), "--", "/bin/sh", "-c", loop)
    assert answer.stdout.splitlines()[-1] == f"uid {os.getuid()} started 201 programs"


def test_opens_come_through_the_ring_buffer_with_their_paths(ebpf: Run) -> None:
    answer = ebpf("run", str(EXAMPLES / "opens.py"), "--", "/bin/cat", "/etc/hostname")
    lines = answer.stdout.splitlines()
    assert answer.returncode == 0
    assert [line for line in expected("opens").splitlines() if line not in lines] == [], answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("command", "status"), [(("/bin/true",), 0), (("/bin/sh", "-c", "exit 7"), 7), (("/bin/sh", "-c", "kill -TERM $$"), 143)]
)
def test_the_exit_status_is_the_commands(ebpf: Run, command: tuple[str, ...], status: int) -> None:
    assert ebpf("run", str(EXAMPLES / "hello.py"), "--", *command).returncode == status


def test_a_failed_exec_counts_as_well(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "x.sh"
    script.write_text("exec /nonexistent/program\n")
    answer = ebpf("run", str(EXAMPLES / "exec_counts_exact.py"), "--", "/bin/sh", str(script))
    assert answer.stdout.splitlines()[-1] == f"uid {os.getuid()} started 2 programs"
    assert answer.returncode == 127


def test_a_script_that_ends_first_leaves_the_command_to_finish(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "short.py"
    script.write_text("from bcc import BPF\nb = BPF(text='int f(void *ctx) { return 0; }')\nprint('script ends')\n")
    answer = ebpf("run", str(script), "--", "/bin/sh", "-c", "sleep 0.3; echo command ends; exit 3")
    assert (answer.stdout.split(), answer.returncode) == (["script", "ends", "command", "ends"], 3)


def test_a_script_that_sleeps_is_interrupted_at_the_commands_end(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "sleepy.py"
    script.write_text("import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('summary')\n")
    answer = ebpf("run", str(script), "--", "/bin/sh", "-c", "exit 4", timeout=20)
    assert (answer.stdout, answer.returncode) == ("summary\n", 4)


def test_a_script_that_computes_is_interrupted_too(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    text = "import time\nfrom bcc import BPF\nb = BPF(text='int f(void *ctx) { return 0; }')\nb.attach_kprobe(event=b.get_syscall_fnname('execve'), fn_name='f')\n"
    text += "time.sleep(0)\ntry:\n    while True:\n        pass\nexcept KeyboardInterrupt:\n    print('told')\n"
    script.write_text(text)
    answer = ebpf("run", str(script), "--", "/bin/true", timeout=20)
    assert (answer.stdout, answer.returncode) == ("told\n", 0)


def test_a_script_that_blocks_in_a_call_of_its_own_lets_the_command_go_and_is_told(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "blocked.py"
    script.write_text(
        "import os, select\nr, w = os.pipe()\ntry:\n    select.select([r], [], [], 60)\nexcept KeyboardInterrupt:\n    print('told')\n"
    )
    answer = ebpf("run", str(script), "--", "/bin/sh", "-c", "exit 5", timeout=20)
    assert (answer.stdout, answer.returncode) == ("told\n", 5)


def test_a_script_that_computes_long_before_it_attaches_is_waited_for(ebpf: Run, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end:\n    pass\n"
        + (EXAMPLES / "exec_counts_exact.py").read_text()
    )
    answer = ebpf("run", str(script), "--", *TWO)
    assert answer.stdout.splitlines()[-1] == f"uid {os.getuid()} started 3 programs"


SLEEPS_WHILE_IT_COMPILES = """
import signal, subprocess, sys, threading, time
threading.Thread(target=lambda: time.sleep(0.01)).start()
subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], timeout=30)
from bcc import BPF
b = BPF(text='int kprobe__sys_execve(void *ctx) { bpf_trace_printk("started"); return 0; }')
try:
    signal.pause()
except KeyboardInterrupt:
    # On Linux the lines of other tests' programs are there too.
    messages = iter(lambda: b.trace_fields(nonblocking=True)[5], None)
    print([m for m in messages if m == b"started"])
"""


def test_sleeps_of_others_do_not_let_the_command_go_and_its_lines_wait_for_their_reader(ebpf: Run, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(SLEEPS_WHILE_IT_COMPILES)
    answer = ebpf("run", str(tmp_path / "x.py"), "--", "/bin/true")
    assert (answer.stdout, answer.returncode) == ("[b'started']\n", 0), answer.stderr
