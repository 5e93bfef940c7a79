"""The kernel's functions by name and address."""

from bisect import bisect_right

from ebpf.sys.kernel import Kernel


class KernelSymbols:
    """What /proc/kallsyms of a kernel says (nothing on a kernel without one)."""

    def __init__(self, kernel: Kernel) -> None:
        try:
            text = kernel.read_file("/proc/kallsyms")
        except OSError:
            text = b""
        rows = []
        for line in text.splitlines():
            parts = line.split()
            if len(parts) >= 3 and parts[1] in (b"t", b"T", b"w", b"W"):
                rows.append((int(parts[0], 16), parts[2], parts[3].strip(b"[]") if len(parts) > 3 else b"kernel"))
        rows.sort()
        self._rows = rows
        self._addresses = [row[0] for row in rows]

    def functions(self) -> list[bytes]:
        """The names of all functions."""
        return [name for _, name, _ in self._rows]

    def address(self, name: bytes) -> int:
        """A function's address, -1 if there is none."""
        return next((address for address, other, _ in self._rows if other == name), -1)

    def name(self, address: int, *, show_module: bool, show_offset: bool) -> bytes:
        """The function that an address lies in."""
        place = bisect_right(self._addresses, address) - 1
        if place < 0 or not self._addresses[place]:
            return b"[unknown]"
        start, name, module = self._rows[place]
        text = name + (b"+0x%x" % (address - start) if show_offset else b"")
        return text + (b" [%s]" % module if show_module else b"")
