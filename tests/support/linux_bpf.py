"""The two commands of bpf(2) that the instruction tests need, by ctypes alone: load a program, run it once."""

import ctypes
import os
import struct

_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _TEST_RUN = 5, 10
XDP, SOCKET_FILTER = 6, 1


def _bpf(cmd: int, attr: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(attr.ljust(152, b"\0"), 152)
    answer = int(libc.syscall(_BPF[os.uname().machine], cmd, data, 152))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if cmd == _TEST_RUN:
        return int(struct.unpack_from("<I", data, 4)[0])
    return answer


def load(code: bytes, prog_type: int = XDP, *, log_level: int = 0, attach_type: int = 0) -> tuple[int, str]:
    """The descriptor of a loaded program (-1: refused) and the verifier's log."""
    log = ctypes.create_string_buffer(1 << 20)
    insns, text = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    logged = (log_level, len(log), ctypes.addressof(log)) if log_level else (0, 0, 0)
    attr = struct.pack("<IIQQIIQ28xI", prog_type, len(code) // 8, ctypes.addressof(insns), ctypes.addressof(text), *logged, attach_type)
    try:
        fd = _bpf(_PROG_LOAD, attr)
    except OSError as error:
        return (-1, log.value.decode()) if log_level else (-1, str(error))
    return fd, log.value.decode()


def run(fd: int, data: bytes = bytes(64)) -> int:
    """The low 32 bits of the r0 of one run."""
    held = ctypes.create_string_buffer(data, len(data))
    return _bpf(_TEST_RUN, struct.pack("<IIIIQQI", fd, 0, len(data), 0, ctypes.addressof(held), 0, 1))


def run_packet(fd: int, data: bytes) -> tuple[int, bytes]:
    """What one run of an XDP program answers, and the packet as it leaves it."""
    held, out = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(8192)
    attr = struct.pack("<IIIIQQI", fd, 0, len(data), len(out), ctypes.addressof(held), ctypes.addressof(out), 1)
    answer = ctypes.create_string_buffer(attr.ljust(152, b"\0"), 152)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_BPF[os.uname().machine], _TEST_RUN, answer, 152) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    retval, _, size = struct.unpack_from("<III", answer, 4)
    return retval, out.raw[:size]
