"""Kprobes on system calls' functions where the kernel has no kprobes: by the raw tracepoints that all calls pass.

Code before the program's own rebuilds the registers that the function would be entered with: `di` points to the caller's
registers, as on kernels with system call wrappers. x86-64.
"""

import logging
import os
import re
from contextlib import ExitStack
from dataclasses import replace

from ebpf.attach import prefix as p
from ebpf.attach.link import Link
from ebpf.errors import NotSupportedError
from ebpf.isa import Insn, decode, encode
from ebpf.isa.opcodes import CALL, EXIT
from ebpf.object import Program, load_program
from ebpf.sys.calls import MapCreate, RawTracepointOpen
from ebpf.sys.kernel import Kprobe
from ebpf.uapi import HELPERS, SYSCALLS, Arg, CallSrc, MapType, ProgType

_FUNCTION = re.compile(r"^(?:__x64_sys_|__se_sys_|__do_sys_|sys_|ksys_)(\w+)$")
_REGS, _AX, _DI, _ORIG_AX = 168, 80, 112, 120
# thread_info.status of x86-64 (at the beginning of task_struct since 5.11): this bit is set in a 32-bit call, whose numbers differ.
_STATUS, _COMPAT = 16, 2
_AND = 0x57


def syscall_kprobe(program: Program, source: Kprobe) -> Link | None:
    """Attach `program` as if to a kprobe; None where this kernel has no raw tracepoints or `source` is no system call's function."""
    found = _FUNCTION.match(source.function)
    number = SYSCALLS["x86_64"].get(found[1]) if found else None
    if number is None or source.offset or os.uname().machine != "x86_64":
        return None
    kernel = program.kernel
    if not _has_raw_tracepoints(program):
        return None
    _require_no_context(program)
    with ExitStack() as stack:
        regs = kernel.bpf(MapCreate(int(MapType.PERCPU_ARRAY), 4, _REGS, 1, name="ebpf_regs"))
        stack.callback(kernel.close, regs)
        code = _before(number, regs, ret=source.ret)
        scope = kernel.lab.scope
        if scope is not None:
            code = [p.mov(6, 1), *p.in_scope(scope), p.mov(1, 6), *code]
        fd = p.load_prefixed(program, code, ProgType.RAW_TRACEPOINT)
        stack.callback(kernel.close, fd)
        link = kernel.bpf(RawTracepointOpen("sys_exit" if source.ret else "sys_enter", fd))
        stack.callback(kernel.close, link)
        held = stack.pop_all()
    logging.getLogger("ebpf").info("this kernel has no kprobes: %s is reached by its raw tracepoint", source.function)
    return Link("kretprobe" if source.ret else "kprobe", source.function, held.close)


def _has_raw_tracepoints(program: Program) -> bool:
    """Ask the kernel: a program that does nothing is attached, and detached at once."""
    kernel = program.kernel
    nothing = replace(program.spec, name="probe", type=int(ProgType.RAW_TRACEPOINT), attach_type=None, func_infos=(), line_infos=())
    with ExitStack() as stack:
        try:
            fd = load_program(kernel, nothing, encode([p.mov_imm(0, 0), Insn(EXIT)])).fd
            stack.callback(kernel.close, fd)
            link = kernel.bpf(RawTracepointOpen("sys_enter", fd))
        except NotSupportedError:
            return False
        stack.callback(kernel.close, link)
    return True


def _require_no_context(program: Program) -> None:
    """The context here is no real one: helpers that need one cannot be called."""
    for insn in decode(program.insns):
        if insn.opcode != CALL or insn.src != CallSrc.HELPER or insn.imm not in HELPERS:
            continue
        row = HELPERS[insn.imm]
        if row.args is not None and Arg.CTX in row.args:
            raise NotSupportedError(
                f"program {program.name!r}",
                f"this kernel has no kprobes, and bpf_{row.name} needs the context of a real one",
                hint="Use a ring buffer (ringbuf_output) or a map instead",
            )


def _before(number: int, regs: int, *, ret: bool) -> list[Insn]:
    """From a raw tracepoint's arguments (r1) to the registers of a kprobe (r1), or return."""
    out = [p.mov(6, 1), p.load(7, 6, 0)]
    if ret:
        # The number of the call that ends stands in the caller's registers.
        out += [
            p.mov(1, 10),
            p.add(1, -8),
            p.mov_imm(2, 8),
            p.mov(3, 7),
            p.add(3, _ORIG_AX),
            p.call("probe_read_kernel"),
            p.load(8, 10, -8),
        ]
    else:
        out += [p.load(8, 6, 8)]
    out += [p.mov_imm(1, number), *p.leave_unless_equal(8, 1)]
    out += [p.call("get_current_task"), p.mov(3, 0), p.add(3, _STATUS), p.mov(1, 10), p.add(1, -8), p.mov_imm(2, 8)]
    out += [p.call("probe_read_kernel"), p.load(1, 10, -8), Insn(_AND, 1, imm=_COMPAT), *p.leave_unless_zero(1)]
    out += [p.store_word(10, -4, 0), p.mov(2, 10), p.add(2, -4), p.wide(1, regs, 1), p.call("map_lookup_elem"), *p.leave_if_zero(0)]
    out += [p.store(0, _DI, 7)]
    if ret:
        out += [p.load(1, 6, 8), p.store(0, _AX, 1)]
    return [*out, p.mov(1, 0)]
