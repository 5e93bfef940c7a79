"""The programs in every engine: compiled, loaded, and called by one loop in C."""

import ctypes
import random
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.engine.runtime.abi import Env, Xdp
from ebpf.engine.runtime.build import shared_library, sources
from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import ProgTestRun

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "programs.c"
THIRTEEN = ("prime", "log2", "memcpy", "strcmp", "fib", "csum", "fnv", "vm", "call", "parse", "array", "hash", "count")
BARE = THIRTEEN[:10]
KEYS = 4096
RINGS = ("ring_record",)


def packet() -> bytes:
    """1040 bytes that lead every program its longest way: TCP in IPv4 to port 80, two equal strings, fib's 200."""
    rng = random.Random(13)
    data = bytearray(rng.randbytes(1040))
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 1026, 1, 0, 64, 6, 0, bytes((10, 0, 0, 0)), bytes(4))
    data[12:34] = b"\x08\x00" + ip[:20]
    data[36:38] = b"\0\x50"
    text = bytes(1 + byte % 255 for byte in data[256:383]) + b"\0"
    data[256:384] = data[384:512] = text
    data[1032], data[1033] = 200, 1
    return bytes(data)


def spec(*, bare: bool = False) -> ObjectSpec:
    """The programs as an object."""
    return read_object(compile_c(str(SOURCE), includes=[str(FOLDER)], flags=["-O2", *(["-DBARE"] if bare else [])]).object)


def native(*options: str) -> ctypes.CDLL:
    """The same for this processor, at -O2, with the loop that measures."""
    out = FOLDER / "native.so"
    # The whole runtime goes before the programs, so that what they call of it can be made part of them.
    runtime = "".join(f'#include "{name}"\n' for name, _ in sources() if name.endswith(".c"))
    out.write_bytes(shared_library(f'{runtime}#include "{SOURCE}"\n', ("-fvisibility=hidden", "-I", str(FOLDER), *options)))
    try:
        library = ctypes.CDLL(str(out))
    finally:
        out.unlink()
    library.bench_time.restype = ctypes.c_uint64
    library.bench_time.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
    return library


class Subject:
    """The programs in user space, natively, and in Linux's kernel where that lets us."""

    def __init__(self) -> None:
        self._spec = spec()
        self.user = open_kernel("user")
        self.ours = Collection.load(self._spec, self.user)
        self.native = native()
        self.tuned = native("-march=native")
        self.data = ctypes.create_string_buffer(packet(), 4096)
        start = ctypes.addressof(self.data)
        self.ctx = Xdp(start, start + 1040, start, 1, 0, 0, 0, start, start + 4096)
        self.env = Env(ncpu=2)
        self._fill(self.ours)
        self._maps = {name: self.user.map_at(self.ours.maps[name].fd, "bench").map.address for name in ("table", "ring")}
        for library in (self.native, self.tuned):
            for name, address in self._maps.items():
                ctypes.c_void_p.in_dll(library, f"native_{name}").value = address
        self.linux_says = ""
        self.linux: Collection | None = None
        try:
            kernel = open_kernel("linux")
            self.linux = Collection.load(self._spec, kernel)
            kernel.bpf(ProgTestRun(self.linux.programs["prime_program"].fd, packet(), repeat=1))
            self._fill(self.linux)
        except EbpfError as error:
            self.linux, self.linux_says = None, str(error)

    def _fill(self, loaded: Collection) -> None:
        """The keys that the programs look for: 4096 numbers, and the packet's source address."""
        address = packet()[26:30]
        for key in [*(number.to_bytes(4, "little") for number in range(KEYS)), address]:
            loaded.maps["table"].update(key, bytes(8))

    def entry(self, name: str) -> int:
        """The machine code of a program of ours."""
        return self.user.program_at(self.ours.programs[f"{name}_program"].fd, "bench").program.entry

    def engines(self, name: str) -> dict[str, Callable[[int], float]]:
        """By engine: nanoseconds a run over so many runs."""
        symbol = f"{name}_program"
        out: dict[str, Callable[[int], float]] = {
            "native": partial(self._run, ctypes.cast(self.native[symbol], ctypes.c_void_p).value or 0, name),
            "march=native": partial(self._run, ctypes.cast(self.tuned[symbol], ctypes.c_void_p).value or 0, name),
            "JIT": partial(self._run, self.entry(name), name),
        }
        if self.linux is not None and name not in RINGS:
            out["Linux"] = partial(self._run_linux, symbol)
        return out

    def results(self, name: str) -> list[int]:
        """What each engine's run answers: they must be the same."""
        symbol, ctx, env = f"{name}_program", ctypes.addressof(self.ctx), ctypes.addressof(self.env)
        shape = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
        out = []
        for place in (ctypes.cast(self.native[symbol], ctypes.c_void_p).value or 0, self.entry(name)):
            self.data[: len(packet())] = packet()
            out.append(shape(place)(ctx, env))
        if self.linux is not None and name not in RINGS:
            out.append(self.linux.programs[symbol].run(packet()).retval)
        return out

    def _run(self, entry: int, name: str, times: int) -> float:
        ring = self._maps["ring"] if name in RINGS else None
        return self.native.bench_time(entry, ctypes.addressof(self.ctx), ctypes.addressof(self.env), times, ring) / times

    def _run_linux(self, symbol: str, times: int) -> float:
        assert self.linux is not None
        program = self.linux.programs[symbol]
        return float(program.kernel.bpf(ProgTestRun(program.fd, packet(), repeat=max(times, 2000))).duration_ns)

    def close(self) -> None:
        for loaded in (self.ours, self.linux):
            if loaded is not None:
                loaded.close()
        self.user.__exit__(None, None, None)
