"""Machine code in memory: a small loader for the objects that LLVM makes of our modules.

Code pages are written first and made executable afterwards, never both. x86-64 only.
"""

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from ebpf.errors import FormatError, NotSupportedError

_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_ALLOC, _EXEC = 2, 4
_R_64, _R_PC32, _R_PLT32, _R_PC64, _R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX = 1, 2, 4, 24, 9, 41, 42
_RELATIVE = (_R_PC32, _R_PLT32)
_GOT = (_R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX)
_STUB = 16
_PAGE = mmap.PAGESIZE


class LoadedCode:
    """Machine code that can be called at `entry`. Close it to give back its memory."""

    def __init__(self, memory: mmap.mmap, entry: int, size: int, next_: int = -1) -> None:
        self._memory: mmap.mmap | None = memory
        self._next = next_
        self.entry = entry
        self.size = size

    @property
    def leads(self) -> bool:
        """Whether it can be made to lead to other code."""
        return self._next >= 0

    def lead_to(self, entry: int) -> None:
        """From now on `entry` goes on in other code, from the next run on."""
        if self._memory is not None and self.leads:
            # One aligned store of eight bytes.
            ctypes.c_uint64.from_buffer(self._memory, self._next).value = entry

    def image(self) -> bytes:
        """The machine code as it is."""
        return self._memory[: self.size] if self._memory is not None else b""

    def close(self) -> None:
        """Unmap the code; nothing may run it any more. Idempotent."""
        # The mapping is given back when its last export is gone; ctypes views of it were dropped by the loader.
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def load_image(image: bytes, table: Sequence[int]) -> LoadedCode:
    """Put an object into memory, resolve its relocations, fill its table, and make its code executable."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotSupportedError("the JIT", f"machine code for {platform.machine()} is not loaded yet", hint="set EBPF_ENGINE=interp")
    try:
        return _load(image, table)
    except (struct.error, IndexError) as error:
        raise FormatError("is damaged", where="compiled image") from error


def _load(image: bytes, table: Sequence[int]) -> LoadedCode:
    if image[:4] != b"\x7fELF":
        raise FormatError("is damaged", where="compiled image")
    offset, count, names = struct.unpack_from("<Q", image, 40)[0], *struct.unpack_from("<HH", image, 60)
    del names
    headers = [_SHDR.unpack_from(image, offset + i * _SHDR.size) for i in range(count)]
    places: dict[int, int] = {}
    size = 0
    for executable in (True, False):
        for index, (_, _, flags, _, _, length, _, _, align, _) in enumerate(headers):
            if flags & _ALLOC and bool(flags & _EXEC) == executable and length:
                size = (size + max(align, 1) - 1) // max(align, 1) * max(align, 1)
                places[index] = size
                size += length
        if executable:
            text_size = size
            stubs = (size + _STUB - 1) // _STUB * _STUB
            # Room for calls that leave the image and for addresses that are loaded from memory.
            size = (stubs + 64 * _STUB + _PAGE - 1) // _PAGE * _PAGE
            code_size = size
    memory = mmap.mmap(-1, max((size + _PAGE - 1) // _PAGE * _PAGE, _PAGE), prot=mmap.PROT_READ | mmap.PROT_WRITE)
    # One character: an array of them would be a class of its own, which takes longer to make than all the rest.
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for index, place in places.items():
        _, kind, _, _, at, length, _, _, _, _ = headers[index]
        if kind != 8:
            memory[place : place + length] = image[at : at + length]
    symbols, strings = _symbols(image, headers)
    resolver = _Resolver(memory, base, stubs, code_size, strings)
    addresses: dict[int, int] = {}
    for _, kind, _, _, at, length, _, target, _, _ in headers:
        if kind != 4 or target not in places:
            continue
        for where, info, addend in _RELA.iter_unpack(image[at : at + length]):
            number = info >> 32
            address = addresses.get(number)
            if address is None:
                address = addresses[number] = resolver.address(symbols[number], places)
            resolver.apply(info & 0xFFFFFFFF, places[target] + where, address, addend)
    entry = fill = next_ = -1
    for name, _, _, section, value, _ in symbols:
        text = strings[name : strings.index(b"\0", name)]
        if text == b"entry":
            entry = base + places[section] + value
        elif text == b"table":
            fill = places[section] + value
        elif text == b"next":
            next_ = places[section] + value
    if entry < 0 or fill < 0:
        raise FormatError("has no entry", where="compiled image")
    memory[fill : fill + 8 * len(table)] = struct.pack(f"<{len(table)}Q", *table)
    _protect(base, code_size)
    return LoadedCode(memory, entry, text_size, next_)


def _symbols(image: bytes, headers: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], bytes]:
    for _, kind, _, _, at, length, link, _, _, _ in headers:
        if kind == 2:
            _, _, _, _, text, text_length, _, _, _, _ = headers[link]
            return list(_SYM.iter_unpack(image[at : at + length])), image[text : text + text_length]
    raise FormatError("has no symbols", where="compiled image")


class _Resolver:
    """Relocations, with stubs for functions that are further away than a call reaches."""

    def __init__(self, memory: mmap.mmap, base: int, stubs: int, end: int, strings: bytes) -> None:
        self._memory = memory
        self._base = base
        self._next = stubs
        self._end = end
        self._strings = strings
        self._stubs: dict[int, int] = {}
        self._cells: dict[int, int] = {}

    def address(self, symbol: tuple[int, ...], places: dict[int, int]) -> int:
        name, _, _, section, value, _ = symbol
        if section in places:
            return self._base + places[section] + value
        if section:
            raise FormatError(f"names section {section}, which is not loaded", where="compiled image")
        text = self._strings[name : self._strings.index(b"\0", name)].decode()
        try:
            function = _process()[text]
        except AttributeError:
            raise FormatError(f"needs {text!r}, which is nowhere", where="compiled image") from None
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def _take(self, data: bytes) -> int:
        at = self._next
        self._next += _STUB
        if self._next > self._end:
            raise FormatError("needs more than this loader has room for", where="compiled image")
        self._memory[at : at + len(data)] = data
        return at

    def apply(self, kind: int, at: int, address: int, addend: int) -> None:
        here = self._base + at
        if kind == _R_64:
            struct.pack_into("<Q", self._memory, at, (address + addend) & (1 << 64) - 1)
            return
        if kind == _R_PC64:
            struct.pack_into("<q", self._memory, at, address + addend - here)
            return
        if kind in _GOT:
            if address not in self._cells:
                self._cells[address] = self._take(struct.pack("<Q", address))
            address = self._base + self._cells[address]
        elif kind not in _RELATIVE:
            raise FormatError(f"relocation {kind} is not known", where="compiled image")
        distance = address + addend - here
        if not -(1 << 31) <= distance < 1 << 31:
            if address not in self._stubs:
                # jmp *0(%rip), and the address behind it.
                self._stubs[address] = self._take(b"\xff\x25\0\0\0\0" + struct.pack("<Q", address))
            distance = self._base + self._stubs[address] + addend - here
        struct.pack_into("<i", self._memory, at, distance)


@lru_cache(maxsize=1)
def _process() -> ctypes.CDLL:
    """What this process has loaded. To open it makes a class: a tenth of a millisecond."""
    return ctypes.CDLL(None)


@lru_cache(maxsize=1)
def _mprotect() -> Callable[[int, int, int], int]:
    protect = _process().mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return cast(Callable[[int, int, int], int], protect)


def _protect(base: int, size: int) -> None:
    if _mprotect()(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise NotSupportedError("the JIT", "this system does not let memory become executable", hint="set EBPF_ENGINE=interp")
