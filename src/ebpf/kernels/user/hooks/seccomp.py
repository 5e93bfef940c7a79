"""The seccomp filter that stops just the hooked system calls."""

import struct
from collections.abc import Collection

_LOAD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_ALLOW, _USER_NOTIF, _TRACE = 0x7FFF0000, 0x7FC00000, 0x7FF00000
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000


def build_filter(calls: Collection[int], machine: str, *, notify: bool, everything: bool = False) -> bytes:
    """The filter's instructions (8 bytes each): calls of another architecture pass, those named stop, all others pass."""
    action = _USER_NOTIF if notify else _TRACE

    def insn(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, k)

    out = insn(_LOAD, 4) + insn(_JEQ, _ARCH[machine], 1, 0) + insn(_RET, _ALLOW) + insn(_LOAD, 0)
    if machine == "x86_64":
        out += insn(_JGE, _X32, 0, 1) + insn(_RET, _ALLOW)
    for number in sorted(calls):
        out += insn(_JEQ, number, 0, 1) + insn(_RET, action)
    return out + insn(_RET, action if everything else _ALLOW)
