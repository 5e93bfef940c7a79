"""Captured packets: classic pcap and pcapng files, both endians, microseconds and nanoseconds.

`Capture` holds the file's bytes and how to walk them; iterating gives packets. A kernel may walk the bytes natively.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ebpf.errors import FormatError, NotFoundError, NotSupportedError
from ebpf.records import record

ETHERNET = 1
_CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("<", False),
    b"\xa1\xb2\xc3\xd4": (">", False),
    b"\x4d\x3c\xb2\xa1": ("<", True),
    b"\xa1\xb2\x3c\x4d": (">", True),
}
# Beyond this a file is mapped writably (privately), so that a native loop can have it without a copy of its own.
_LARGE = 1 << 26
_SECTION, _INTERFACE, _OLD, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_RESOLUTION, _OFFSET = 9, 14
_NAMES = {0: "null (BSD loopback)", 101: "raw IP", 105: "802.11", 113: "Linux cooked (tcpdump -i any)", 276: "Linux cooked v2"}


@record
class Packet:
    """A captured packet: its bytes, when (nanoseconds since 1970), how long it was on the wire, and its link type."""

    data: bytes
    timestamp_ns: int
    length: int
    link: int = ETHERNET


@record
class _Interface:
    """Where packets of a pcapng file came from: times count `units` a second from `offset_s`; 0 for no `snaplen`."""

    link: int = ETHERNET
    snaplen: int = 0
    units: int = 10**6
    offset_s: int = 0


class Capture:
    """A capture file. `buffer` is its bytes, `start` where records (or pcapng's blocks) begin, `swapped` if big-endian."""

    def __init__(self, buffer: "bytes | mmap.mmap", path: str = "") -> None:
        self.path = path
        self.buffer = buffer
        magic = bytes(buffer[:4])
        self.pcapng = magic == b"\x0a\x0d\x0d\x0a"
        self.nanoseconds = False
        if self.pcapng:
            if len(buffer) < 28:
                raise FormatError(f"is cut off: {len(buffer)} bytes", path=path)
            order = _ORDERS.get(bytes(buffer[8:12]))
            if order is None:
                raise FormatError("has a section header without a byte order", path=path)
            self.order, self.start = order, 0
        elif magic in _CLASSIC:
            if len(buffer) < 24:
                raise FormatError(f"is cut off: {len(buffer)} bytes", path=path)
            self.order, self.nanoseconds = _CLASSIC[magic]
            self.start = 24
        else:
            error = FormatError("is no capture (neither pcap nor pcapng)", path=path)
            error.hint = "make one with: tcpdump -w FILE.pcap"
            raise error
        self.swapped = self.order == ">"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Capture":
        """Open a capture file. Raises NotFoundError or FormatError."""
        name = os.fspath(path)
        if not os.path.isfile(name):
            raise NotFoundError("capture", name)
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise FormatError("is empty", path=name)
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ if size < _LARGE else mmap.ACCESS_COPY), name)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Capture":
        """A capture in memory."""
        return cls(data)

    def link_types(self) -> set[int]:
        """The link types of the capture's interfaces."""
        if not self.pcapng:
            return {struct.unpack_from(self.order + "I", self.buffer, 20)[0] & 0xFFFF}
        return {interface.link for interface in self._interfaces()} or {ETHERNET}

    def require_ethernet(self) -> None:
        """Insist on Ethernet frames, which XDP programs expect. Raises NotSupportedError for another link type."""
        for link in self.link_types():
            if link != ETHERNET:
                raise NotSupportedError(
                    self.path or "the capture",
                    f"its link type is {_NAMES.get(link, link)}, and XDP programs see Ethernet frames",
                    hint="capture on one interface (tcpdump -i eth0), not on 'any'",
                )

    def __iter__(self) -> Iterator[Packet]:
        """The packets in order; a torn end raises FormatError after the whole ones."""
        return self._blocks() if self.pcapng else self._records()

    def torn(self, packets: int, offset: int) -> FormatError:
        """The error for a file that ends in the middle of packet number `packets`."""
        return FormatError("is cut off", path=self.path, where=f"packet {packets + 1} at byte {offset}")

    def _records(self) -> Iterator[Packet]:
        layout = struct.Struct(self.order + "IIII")
        link = next(iter(self.link_types()))
        at, count, end = self.start, 0, len(self.buffer)
        scale = 1 if self.nanoseconds else 1000
        while at < end:
            if at + 16 > end:
                raise self.torn(count, at)
            seconds, fraction, size, length = layout.unpack_from(self.buffer, at)
            if at + 16 + size > end:
                raise self.torn(count, at)
            yield Packet(bytes(self.buffer[at + 16 : at + 16 + size]), seconds * 10**9 + fraction * scale, length, link)
            at += 16 + size
            count += 1

    def _walk(self) -> Iterator[tuple[int, int, int, str]]:
        """Each block: its type, where its body begins, its body's size, and the byte order of its section."""
        at, order, end, count = 0, self.order, len(self.buffer), 0
        while at < end:
            if at + 12 > end:
                raise self.torn(count, at)
            if bytes(self.buffer[at : at + 4]) == b"\x0a\x0d\x0d\x0a":
                found = _ORDERS.get(bytes(self.buffer[at + 8 : at + 12]))
                if found is None:
                    raise FormatError("a section without a byte order", path=self.path, where=f"byte {at}")
                order = found
            kind, size = struct.unpack_from(order + "II", self.buffer, at)
            if size < 12 or size % 4 or at + size > end:
                raise self.torn(count, at)
            yield kind, at + 8, size - 12, order
            count += kind in (_OLD, _SIMPLE, _ENHANCED)
            at += size

    def _interfaces(self) -> Iterator[_Interface]:
        try:
            for kind, at, size, order in self._walk():
                if kind == _INTERFACE:
                    yield self._interface(at, size, order)
        except FormatError:
            # Iterating over the packets says so, after the whole ones.
            return

    def _interface(self, at: int, size: int, order: str) -> _Interface:
        """What an interface's block says of it."""
        if size < 8:
            raise FormatError("an interface that is cut off", path=self.path, where=f"byte {at - 8}")
        link, _, snaplen = struct.unpack_from(order + "HHI", self.buffer, at)
        units, offset, option, stop = 10**6, 0, at + 8, at + size
        while option + 4 <= stop:
            code, length = struct.unpack_from(order + "HH", self.buffer, option)
            if code == 0 or option + 4 + length > stop:
                break
            if code == _RESOLUTION and length >= 1:
                resolution = self.buffer[option + 4]
                units = 1 << (resolution & 0x7F) if resolution & 0x80 else 10**resolution
            elif code == _OFFSET and length == 8:
                (offset,) = struct.unpack_from(order + "q", self.buffer, option + 4)
            option += 4 + (length + 3) // 4 * 4
        return _Interface(link, snaplen, units, offset)

    def _blocks(self) -> Iterator[Packet]:
        interfaces: list[_Interface] = []
        count = 0
        for kind, at, size, order in self._walk():
            if kind == _SECTION:
                interfaces.clear()
            elif kind == _INTERFACE:
                interfaces.append(self._interface(at, size, order))
            elif kind in (_ENHANCED, _OLD):
                if size < 20:
                    raise self.torn(count, at)
                number, high, low, captured, length = struct.unpack_from(order + "IIIII", self.buffer, at)
                if captured > size - 20:
                    raise self.torn(count, at)
                if kind == _OLD:
                    # The other half of the word counts dropped packets.
                    number = number & 0xFFFF if order == "<" else number >> 16
                source = interfaces[number] if number < len(interfaces) else _Interface()
                stamp = (high << 32 | low) * 10**9 // source.units + source.offset_s * 10**9
                yield Packet(bytes(self.buffer[at + 20 : at + 20 + captured]), stamp, length, source.link)
                count += 1
            elif kind == _SIMPLE:
                if size < 4:
                    raise self.torn(count, at)
                (length,) = struct.unpack_from(order + "I", self.buffer, at)
                source = interfaces[0] if interfaces else _Interface()
                captured = min(length, source.snaplen or length, size - 4)
                yield Packet(bytes(self.buffer[at + 4 : at + 4 + captured]), 0, length, source.link)
                count += 1


class CaptureWriter:
    """Writes Ethernet frames as a classic pcap with nanoseconds (or microseconds)."""

    def __init__(self, path: str | os.PathLike[str], *, nanoseconds: bool = True) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115  # closed by close()
        self._scale = 1 if nanoseconds else 1000
        self._file.write(header(nanoseconds=nanoseconds))

    def write(self, data: bytes, timestamp_ns: int = 0) -> None:
        """Add a packet."""
        seconds, fraction = divmod(timestamp_ns, 10**9)
        self._file.write(struct.pack("<IIII", seconds, fraction // self._scale, len(data), len(data)) + data)

    def close(self) -> None:
        """Finish the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> "CaptureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def header(*, nanoseconds: bool = False) -> bytes:
    """The header of a classic pcap file of Ethernet frames."""
    return struct.pack("<IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 262144, ETHERNET)
