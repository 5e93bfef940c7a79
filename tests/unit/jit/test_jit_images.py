"""Compiled images: kept on disk, loaded without LLVM, given their maps at load, and never writable and executable at once."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.engine.jit import LoadedCode, Slot, compile_image, image_key, load_image
from ebpf.engine.program import MapDesc, Prepared
from ebpf.errors import FormatError
from ebpf.isa import Insn, asm
from ebpf.uapi import MapType, PseudoSrc

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")

FD = 5
NUMBERS = asm("r0 = 42\nexit")


def run(code: LoadedCode) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(code.entry)(None, None))


def reads_a_map(offset: int = 8) -> Prepared:
    """A program that adds 1 to a number in an array's data, and returns it."""
    wide = Insn(0x18, dst=1, src=PseudoSrc.MAP_VALUE, imm=FD, imm_hi=offset)
    text = asm("r0 = *(u64 *)(r1 + 0)\nr0 += 1\n*(u64 *)(r1 + 0) = r0\nexit")
    return Prepared((wide, *text), 6, {FD: MapDesc(FD, MapType.ARRAY, 4, 16, 1)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_one_image_serves_two_maps() -> None:
    image, table = compile_image(reads_a_map(), cache=False)
    assert table == (Slot("data", FD),)
    memories = [(ctypes.c_uint64 * 2)(0, start) for start in (100, 200)]
    codes = [load_image(image, [ctypes.addressof(memory)]) for memory in memories]
    assert [run(code) for code in codes * 2] == [101, 201, 102, 202]
    assert [memory[1] for memory in memories] == [102, 202]
    for code in codes:
        code.close()
        code.close()


def test_from_the_cache_a_program_runs_without_llvm(cache: Path) -> None:
    compile_image(Prepared(NUMBERS, 6))
    script = """
import sys
from ebpf.engine.jit import compile_image, load_image
from ebpf.engine.program import Prepared
from ebpf.isa import asm
load_image(*compile_image(Prepared(asm("r0 = 42\\nexit"), 6))).close()
print([name for name in ("llvmlite", "llvmlite.binding") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="torn"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="a-flipped-bit"),
        pytest.param(lambda data: b"garbage" * 100, id="something-else"),
    ],
)
def test_a_damaged_cache_entry_is_made_anew(cache: Path, damage) -> None:
    program = Prepared(NUMBERS, 6)
    compile_image(program)
    (path,) = [p for p in cache.rglob(image_key(program)) if p.is_file()]
    good = path.read_bytes()
    path.write_bytes(damage(good))
    code = load_image(*compile_image(program))
    assert run(code) == 42
    code.close()
    assert path.read_bytes()[:8] == good[:8]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(reads_a_map(0), id="another-instruction"),
        pytest.param(Prepared(reads_a_map().insns, 6, {FD: MapDesc(FD, MapType.ARRAY, 4, 16, 2)}), id="another-map"),
        pytest.param(Prepared(reads_a_map().insns, 6, reads_a_map().maps, stack_depth={0: 64}), id="another-stack"),
    ],
)
def test_what_goes_into_the_code_goes_into_its_name(other: Prepared) -> None:
    assert image_key(other) != image_key(reads_a_map())


def rights(address: int) -> str:
    """What may be done to the page at an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[1][:3]
    return ""


def test_code_is_not_writable_and_its_table_not_executable() -> None:
    memory = (ctypes.c_uint64 * 2)()
    code = load_image(compile_image(reads_a_map(), cache=False)[0], [ctypes.addressof(memory)])
    assert (rights(code.entry), rights((code.entry // 4096 + 1) * 4096)) == ("r-x", "rw-")
    entry = code.entry
    code.close()
    assert rights(entry) != "r-x"


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x7fELF", id="only-a-magic"),
        pytest.param(b"\x7fELF" + bytes(200), id="no-sections"),
    ],
)
def test_a_damaged_image_is_a_format_error(image: bytes) -> None:
    with pytest.raises(FormatError, match="compiled image"):
        load_image(image, ())


def test_a_loop_that_copies_goes_through_libc_and_back() -> None:
    """LLVM makes a call of memset out of this: a symbol outside the image, further away than a call reaches."""
    text = "r2 = 0\nr3 = r10\nr3 += -512\n*(u64 *)(r3 + 0) = 7\nr3 += 8\nr2 += 1\nif r2 < 64 goto -4\nr0 = *(u64 *)(r10 - 8)\nexit"
    code = load_image(*compile_image(Prepared(asm(text), 6), cache=False))
    assert run(code) == 7
    code.close()
