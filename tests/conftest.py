"""What every test stands on: the summary says how many tests ran on each kernel, and a skip has to give its reason."""

import os
from collections import Counter

import pytest
from hypothesis import settings

# Cases are drawn anew each time from the same seed, and kept nowhere: the tests run as whoever, in a folder they cannot write to.
settings.register_profile("ebpf", database=None, deadline=None, derandomize=True)
settings.load_profile("ebpf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Linux's kernel skip where bpf(2) is refused, with the kernel's own answer as the reason."""
    reason = None
    for item in items:
        if item.get_closest_marker("linux") is not None:
            reason = refusal() if reason is None else reason
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"bpf(2): {reason}"))


def refusal() -> str:
    """Why bpf(2) is refused here ("" if it is permitted): a program of two instructions is loaded and closed again."""
    import ctypes
    import struct
    import sys

    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "not Linux on x86-64"
    libc = ctypes.CDLL(None, use_errno=True)
    insns = ctypes.create_string_buffer(bytes.fromhex("b7000000000000009500000000000000"))
    text = ctypes.create_string_buffer(b"GPL")
    attr = ctypes.create_string_buffer(struct.pack("=IIQQ", 1, 2, ctypes.addressof(insns), ctypes.addressof(text)).ljust(152, b"\0"))
    fd = libc.syscall(321, 5, attr, 152)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran on each kernel."""
    ran = Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if "linux" in report.keywords:
                ran["Linux's kernel"] += 1
            elif "/both/" in report.nodeid or "/user/" in report.nodeid:
                ran["the user kernel"] += 1
            else:
                ran["no kernel"] += 1
    if ran:
        terminalreporter.write_line("tests by kernel: " + ", ".join(f"{n} on {kernel}" for kernel, n in sorted(ran.items())))
