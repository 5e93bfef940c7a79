"""`ebpf tour`: the whole path once, on real input, with every step shown."""

import io
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

from ebpf.cli.context import Context
from ebpf.errors import UsageError

_HELLO = """\
BPF_HASH(started);

int hello(void *ctx) {
    u64 uid = bpf_get_current_uid_gid() & 0xFFFFFFFF;
    started.increment(uid);
    bpf_trace_printk("Hello World!");
    return 0;
}
"""
_XDP = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int counter = 0;

SEC("xdp")
int hello(struct xdp_md *ctx) {
    counter++;
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
_COMMAND = ["sh", "-c", "ls / > /dev/null; date > /dev/null; echo the command says hello"]


class _Paint:
    """Colour where a person looks, none in a pipe."""

    def __init__(self, out: "io.TextIOBase | object") -> None:
        wanted = bool(os.environ.get("FORCE_COLOR")) or (getattr(out, "isatty", bool)() and not os.environ.get("NO_COLOR"))
        self._on = wanted and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._on else text


def run(context: Context, words: list[str]) -> int:
    """Show C, bytecode, the bpf() calls, the verifier, events of a real command, a map in Python, and packets."""
    if words:
        raise UsageError(f"tour: unexpected '{words[0]}'; it takes no arguments")
    begin = time.perf_counter()
    paint = _Paint(sys.stdout)

    def head(text: str) -> None:
        print(f"\n{paint(text, '1;36')}")

    def note(text: str) -> None:
        print(paint(text, "2"))

    context.kernel_name = context.kernel_name or "user"
    kernel = context.kernel(here=True)
    where = "in user space: no root, no kernel module" if kernel.name == "user" else "in the Linux kernel"
    print(paint(f"eBPF, the whole path once, {where}.", "1"))
    _trace(context, head, note, paint)
    _packets(context, head, note)
    print(f"\n{paint('That was all of it', '1')}, in {time.perf_counter() - begin:.1f} s. Next: docs/tutorial/ or")
    print("  ebpf run examples/hello.py -- make        (your own command instead of make)")
    return 0


def _trace(context: Context, head, note, paint) -> None:  # type: ignore[no-untyped-def]
    from ebpf import bcc
    from ebpf.bcc.cache import translated
    from ebpf.isa import decode, disasm
    from ebpf.sys import Command, Recorder

    kernel = context.kernel(here=True)
    # The command is forked first, before there are threads; it waits until we read the trace.
    shell = shutil.which(_COMMAND[0]) or "/bin/sh"
    process = kernel.lab.spawn(Command((shell, *_COMMAND[1:])))
    head("1. A program in C, to run whenever a process calls execve()")
    print(_HELLO.rstrip())
    made = translated(_HELLO, kernel)
    spec = made.spec.programs["hello"]
    head("2. clang makes bytecode of it, for the eBPF virtual machine")
    sources = {line.slot: line for line in spec.line_infos}
    shown = ""
    slot = 0
    insns = decode(spec.insns)
    for insn, text in zip(insns, disasm(insns, name_call=_name_call), strict=True):
        line = sources.get(slot)
        if line is not None and line.text and line.text != shown and "bcc_entry" not in line.text:
            shown = line.text
            note(f"; {line.text.strip()}")
        print(text)
        slot += insn.slots
    head("3. The bpf() calls that load it, as strace would print them")
    recorded = io.StringIO()
    recorder = Recorder(kernel, recorded)
    with bcc.session(recorder):
        b = bcc.BPF(text=_HELLO)
        program = b.load_func("hello", bcc.BPF.KPROBE)
        print(recorded.getvalue().rstrip())
        head("4. The verifier walks every path before anything may run")
        info = program.program.info()
        code = f"{info.jited_len} bytes of machine code" if info.jited_len else "not compiled"
        print(f"accepted: {info.verified_insns} instructions walked, {info.xlated_len // 8} in the program, {code}")
        head("5. Attached to execve(); these are the calls of a real command and its children")
        note("$ " + " ".join(_COMMAND[:2]) + f" '{_COMMAND[2]}'")
        b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="hello")
        sys.stdout.flush()
        try:
            while True:
                print((b.trace_readline() or b"").decode(errors="replace"))
        except KeyboardInterrupt:
            if process.poll() is None:
                raise
        process.wait()
        head("6. The map that the program counted in, read from Python")
        note('for uid, count in b["started"].items(): print(uid.value, count.value)')
        for uid, count in b["started"].items():
            print(uid.value, count.value)


def _packets(context: Context, head, note) -> None:  # type: ignore[no-untyped-def]
    from ebpf.cli.replay import run as replay
    from ebpf.cli.words import Words
    from ebpf.compile import compile_c

    head("7. An XDP program, over a capture of 100,000 packets")
    print(_XDP.rstrip())
    with tempfile.TemporaryDirectory(prefix="ebpf-tour-") as folder:
        capture, target = os.path.join(folder, "dns.pcap"), os.path.join(folder, "hello.bpf.o")
        _capture(capture, 100_000)
        Path(target).write_bytes(compile_c("hello.bpf.c", text=_XDP).object)
        note("$ ebpf prog run hello.bpf.o --pcap dns.pcap")
        replay(context, Words([target, "--pcap", capture]))


def _name_call(insn, slot: int) -> str | None:  # type: ignore[no-untyped-def]
    from ebpf.engine.verifier.verify import name_call

    return name_call(insn, slot)


def _capture(path: str, count: int) -> None:
    """DNS questions as they go over a wire: Ethernet, IPv4, UDP, and the question."""
    from ebpf.sys.capture import CaptureWriter

    question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04ebpf\x02io\0\0\x01\0\x01"
    with CaptureWriter(path) as writer:
        for number in range(count):
            port = 1024 + number % 60000
            udp = struct.pack(">HHHH", port, 53, 8 + len(question), 0) + question
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0, b"\x0a\0\0\x01", b"\x0a\0\0\x35")
            writer.write(b"\x02\0\0\0\0\x35\x02\0\0\0\0\x01\x08\0" + ip + udp, 1_700_000_000 * 10**9 + number * 1000)
