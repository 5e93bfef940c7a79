"""A kernel that prints each call as strace would, and passes it on."""

from typing import Any, TextIO

from ebpf.errors import KernelError, errno_name
from ebpf.records import names_of
from ebpf.sys.calls import Call, FdById, GetBtfInfo, GetLinkInfo, GetMapInfo, GetProgInfo, Loaded, MapCreate, NextId, ProgLoad, R
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType, MapType, ProgType

_ATTR_SIZE = {"PROG_LOAD": 152, "MAP_CREATE": 80, "PROG_TEST_RUN": 80}
_HIDDEN = frozenset({"cmd", "value_size", "key_size", "images", "log_size"})


class Recorder:
    """Wraps a kernel; every bpf() call that passes is written to `out` with its answer."""

    def __init__(self, kernel: Kernel, out: TextIO) -> None:
        self._kernel = kernel
        self._out = out

    def bpf(self, call: Call[R]) -> R:
        """Print and carry out one command."""
        head = f"bpf(BPF_{call.cmd.name}, {{{', '.join(_arguments(call))}}}, {_ATTR_SIZE.get(call.cmd.name, 32)})"
        try:
            answer = self._kernel.bpf(call)
        except KernelError as error:
            self._out.write(f"{head} = -1 {errno_name(error.errno)} ({_strerror(error.errno)})\n")
            raise
        self._out.write(f"{head} = {_result(answer)}\n")
        return answer

    def finder(self, fd: int, key: str, value: str) -> None:
        """None: every look-up is to pass here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.shutdown()


def _strerror(number: int) -> str:
    import os

    return os.strerror(number)


def _result(answer: object) -> str:
    if isinstance(answer, Loaded):
        return str(answer.fd)
    return str(answer) if isinstance(answer, int) else "0"


def _named(prefix: str, kind: type[Any], value: int) -> str:
    try:
        return prefix + str(kind(value).name)
    except ValueError:
        return str(value)


def _bytes(value: bytes) -> str:
    text = "".join(f"\\x{b:02x}" for b in value[:16])
    return f'"{text}"' + ("..." if len(value) > 16 else "")


def _arguments(call: Call[Any]) -> list[str]:
    if isinstance(call, ProgLoad):
        return [
            f"prog_type={_named('BPF_PROG_TYPE_', ProgType, call.prog_type)}",
            f"insn_cnt={len(call.insns) // 8}",
            "insns=[...]",
            f'license="{call.license}"',
            f"log_level={call.log_level}",
            f"prog_flags={call.flags:#x}" if call.flags else "prog_flags=0",
            f'prog_name="{call.name}"',
            f"expected_attach_type={_named('BPF_', AttachType, call.expected_attach_type)}",
            f"prog_btf_fd={call.btf_fd}",
        ]
    if isinstance(call, MapCreate):
        return [
            f"map_type={_named('BPF_MAP_TYPE_', MapType, call.map_type)}",
            f"key_size={call.key_size}",
            f"value_size={call.value_size}",
            f"max_entries={call.max_entries}",
            f"map_flags={call.flags:#x}" if call.flags else "map_flags=0",
            f'map_name="{call.name}"',
            f"btf_fd={call.btf_fd}",
        ]
    if isinstance(call, (GetProgInfo, GetMapInfo, GetBtfInfo, GetLinkInfo)):
        return [f"info={{bpf_fd={call.fd}}}"]
    if isinstance(call, NextId):
        return [f"start_id={call.start}"]
    if isinstance(call, FdById):
        return [f"id={call.id}"]
    out = []
    for name in names_of(type(call)):
        value = getattr(call, name)
        if name in _HIDDEN or value in (b"", ""):
            continue
        out.append(f"{name}={_bytes(value) if isinstance(value, bytes) else repr(value) if isinstance(value, str) else value}")
    return out
