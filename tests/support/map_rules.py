"""Rules of maps as text: operations with the answers that Linux gave, replayed on any kernel.

A case begins with a line `# what it shows`; each further line is an operation, `=>` and its answer. Answers are an errno's name, `ok`,
a value, or a list. `python -m support.map_rules FILE...` (as root, in tests/) writes the answers of the running Linux into the files.

    map NAME TYPE key=4 value=8 entries=3 flags=a|b inner=NAME extra=3    makes a map; NAME is the current one from here on
    flags TYPE key=4 ...                                                  which flags MAP_CREATE takes (or refuses with other than EINVAL)
    use NAME | prog NAME TYPE | info | freeze | mmap PAGES ro|rw
    lookup K | update K V | delete K | take K | next K                     flags=F behind it; `-` is no key
    keys | items | read N | takeall N | put K=V,K=V | drop K,K             walks and batches

A key or value is a number (as many bytes as the map wants, the lowest first; on every CPU of a per-CPU map), `x` and hex digits,
or `@NAME`, the descriptor of a map or program. `A/B` is a prefix length and an address of a trie.
"""

import errno
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from ebpf.errors import EbpfError, KernelError, NotSupportedError
from ebpf.isa import asm, encode
from ebpf.sys.calls import (
    GetMapInfo,
    GetProgInfo,
    MapCreate,
    MapDelete,
    MapDeleteBatch,
    MapFreeze,
    MapLookup,
    MapLookupAndDelete,
    MapLookupBatch,
    MapNextKey,
    MapTakeBatch,
    MapUpdate,
    MapUpdateBatch,
    ProgLoad,
)
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MAP_TYPES, MapFlag, MapType, ProgType

CREATE = {
    "key": "key_size",
    "value": "value_size",
    "entries": "max_entries",
    "flags": "flags",
    "extra": "map_extra",
    "inner": "inner_map_fd",
}
UPDATE = {"any": 0, "noexist": 1, "exist": 2, "lock": 4}
PAGE = 4096


def number(text: str, names: dict[str, int]) -> int:
    """A number, or names joined by `|`."""
    total = 0
    for part in text.split("|"):
        total |= names[part] if part in names else int(part, 0)
    return total


class Player:
    """Plays the operations of one case on a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.maps: dict[str, tuple[int, MapCreate]] = {}
        self.programs: dict[str, int] = {}
        self.ids: dict[tuple[bool, int], str] = {}
        self.now = ""

    # -- what stands in the text

    @property
    def fd(self) -> int:
        return self.maps[self.now][0]

    @property
    def spec(self) -> MapCreate:
        return self.maps[self.now][1]

    @property
    def per_cpu(self) -> bool:
        return MAP_TYPES[MapType(self.spec.map_type)].per_cpu

    @property
    def value_bytes(self) -> int:
        size = self.spec.value_size
        return (size + 7) // 8 * 8 * self.kernel.possible_cpus if self.per_cpu else size

    def descriptor(self, name: str) -> int:
        return self.maps[name][0] if name in self.maps else self.programs[name]

    def raw(self, text: str, size: int) -> bytes:
        if text == "-":
            return b""
        if text.startswith("@"):
            return self.descriptor(text[1:]).to_bytes(4, "little")
        if text.startswith("x"):
            return bytes.fromhex(text[1:])
        if "/" in text:
            length, address = text.split("/")
            return struct.pack("<I", int(length)) + bytes(int(part) for part in address.split(".")).ljust(size - 4, b"\0")
        return (int(text, 0) & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def key(self, text: str) -> bytes:
        return self.raw(text, self.spec.key_size)

    def value(self, text: str) -> bytes:
        one = self.raw(text, self.spec.value_size)
        if self.per_cpu and len(one) <= self.spec.value_size:
            return one.ljust(self.value_bytes // self.kernel.possible_cpus, b"\0") * self.kernel.possible_cpus
        return one

    def show_value(self, data: bytes) -> str:
        if self.spec.map_type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS, MapType.PROG_ARRAY):
            is_program = self.spec.map_type == MapType.PROG_ARRAY
            return "@" + self.ids.get((is_program, int.from_bytes(data, "little")), "?")
        if self.per_cpu:
            stride = self.value_bytes // self.kernel.possible_cpus
            parts = {data[at : at + self.spec.value_size] for at in range(0, len(data), stride)}
            return "|".join(sorted(self.show(part) for part in parts))
        return self.show(data)

    def show_key(self, data: bytes) -> str:
        if self.spec.map_type == MapType.LPM_TRIE and len(data) <= 20:
            return f"{int.from_bytes(data[:4], 'little')}/" + ".".join(str(byte) for byte in data[4:])
        return self.show(data)

    @staticmethod
    def show(data: bytes) -> str:
        return str(int.from_bytes(data, "little")) if len(data) <= 8 else "x" + data.hex()

    def pairs(self, keys: bytes, values: bytes, count: int) -> str:
        k, v = self.spec.key_size, self.value_bytes
        rows = [(keys[i * k : (i + 1) * k], values[i * v : (i + 1) * v]) for i in range(count)]
        return ",".join(f"{self.show_key(key)}={self.show_value(value)}" for key, value in sorted(rows)) or "nothing"

    # -- operations

    def play(self, line: str) -> str:
        """Carry out one line; the answer as text."""
        verb, *words = line.split()
        try:
            return VERBS[verb](self, words)
        except NotSupportedError:
            return "NotSupported"
        except KernelError as error:
            name = {524: "ENOTSUPP", errno.EOPNOTSUPP: "EOPNOTSUPP"}.get(error.errno) or errno.errorcode.get(error.errno, str(error.errno))
            return name + (f" after {error.done}" if error.done else "")

    def flags(self, words: list[str]) -> str:
        out = []
        for flag in ["no_prealloc", "no_common_lru", "numa_node", "rdonly", "wronly", "rdonly|wronly", "stack_build_id", "zero_seed", "rdonly_prog", "wronly_prog", "rdonly_prog|wronly_prog", "clone", "mmapable", "preserve_elems", "inner_map", "link", "0x80000000"]:  # fmt: skip
            whole = [f"{word}|{flag}" if word.startswith("flags=") else word for word in words]
            got = self.play(" ".join(["map m", *whole, *([f"flags={flag}"] if whole == words else [])]))
            if got != "EINVAL":
                out.append(flag if got == "ok" else f"{flag}:{got}")
        return " ".join(out) or "none"

    def make(self, words: list[str]) -> str:
        name, kind, *rest = words
        fields = {}
        for word in rest:
            what, text = word.split("=", 1)
            flags = {flag.name.lower(): int(flag) for flag in MapFlag if flag.name}
            fields[CREATE[what]] = self.descriptor(text) if text in self.maps else number(text, flags)
        call = MapCreate(int(MapType[kind.upper()]), **{"key_size": 0, "value_size": 0, "max_entries": 0, **fields})
        fd = self.kernel.bpf(call)
        if name in self.maps:
            self.kernel.close(self.maps[name][0])
        self.maps[name], self.now = (fd, call), name
        self.ids[False, self.kernel.bpf(GetMapInfo(fd)).id] = name
        return "ok"

    def use(self, words: list[str]) -> str:
        self.now = words[0]
        return "ok"

    def program(self, words: list[str]) -> str:
        name, kind = words
        insns = encode(asm("r0 = 0\nexit"))
        fd = self.kernel.bpf(ProgLoad(int(ProgType[kind.upper()]), insns, "GPL")).fd
        self.programs[name] = fd
        self.ids[True, self.kernel.bpf(GetProgInfo(fd)).id] = name
        return "ok"

    def info(self, words: list[str]) -> str:
        del words
        got = self.kernel.bpf(GetMapInfo(self.fd))
        return f"{got.key_size} {got.value_size} {got.max_entries} {got.map_flags:#x}" + (" frozen" if got.frozen else "")

    def freeze(self, words: list[str]) -> str:
        del words
        self.kernel.bpf(MapFreeze(self.fd))
        return "ok"

    def mmap(self, words: list[str]) -> str:
        pages, how = words
        self.kernel.mmap(self.fd, int(pages) * PAGE, writable=how == "rw").close()
        return "ok"

    def lookup(self, words: list[str]) -> str:
        words, flags = split_flags(words)
        key = b"" if self.spec.map_type == MapType.BLOOM_FILTER else self.key(words[0])
        asked = self.value(words[0]) if self.spec.map_type == MapType.BLOOM_FILTER else b""
        got = self.kernel.bpf(MapLookup(self.fd, key, self.value_bytes, flags, asked))
        return "yes" if asked else self.show_value(got)

    def update(self, words: list[str]) -> str:
        words, flags = split_flags(words)
        self.kernel.bpf(MapUpdate(self.fd, self.key(words[0]), self.value(words[1]), flags))
        return "ok"

    def delete(self, words: list[str]) -> str:
        self.kernel.bpf(MapDelete(self.fd, self.key(words[0])))
        return "ok"

    def take(self, words: list[str]) -> str:
        words, flags = split_flags(words)
        return self.show_value(self.kernel.bpf(MapLookupAndDelete(self.fd, self.key(words[0]), self.value_bytes, flags)))

    def next(self, words: list[str]) -> str:
        key = None if words[0] == "-" else self.key(words[0])
        return self.show_key(self.kernel.bpf(MapNextKey(self.fd, key, self.spec.key_size)))

    def keys(self, words: list[str]) -> str:
        """All keys: in their order with the word `ordered`, else sorted."""
        found: list[bytes] = []
        key: bytes | None = None
        while len(found) < 1000:
            try:
                key = self.kernel.bpf(MapNextKey(self.fd, key, self.spec.key_size))
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
                break
            found.append(key)
        return ",".join(self.show_key(each) for each in (found if words else sorted(found))) or "nothing"

    def items(self, words: list[str]) -> str:
        size, flags = split_flags(words)
        del size
        place, keys, values, count = b"", b"", b"", 0
        while True:
            got = self.kernel.bpf(MapLookupBatch(self.fd, place, 512, self.spec.key_size, self.value_bytes, flags))
            keys, values, count = keys + got.keys, values + got.values, count + got.count
            place = got.next
            if not place:
                return self.pairs(keys, values, count)

    def read(self, words: list[str]) -> str:
        """One batch of at most N: how many came, and whether there is more."""
        words, flags = split_flags(words)
        got = self.kernel.bpf(MapLookupBatch(self.fd, b"", int(words[0]), self.spec.key_size, self.value_bytes, flags))
        return f"{got.count} more" if got.next else f"{got.count}"

    def takeall(self, words: list[str]) -> str:
        got = self.kernel.bpf(MapTakeBatch(self.fd, b"", int(words[0]), self.spec.key_size, self.value_bytes))
        return self.pairs(got.keys, got.values, got.count)

    def put(self, words: list[str]) -> str:
        words, flags = split_flags(words)
        rows = [pair.split("=") for pair in words[0].split(",")] if words else []
        keys, values = b"".join(self.key(k) for k, _ in rows), b"".join(self.value(v) for _, v in rows)
        return str(self.kernel.bpf(MapUpdateBatch(self.fd, keys, values, len(rows), flags)))

    def drop(self, words: list[str]) -> str:
        words, flags = split_flags(words)
        rows = words[0].split(",") if words else []
        return str(self.kernel.bpf(MapDeleteBatch(self.fd, b"".join(self.key(k) for k in rows), len(rows), flags)))

    def close(self) -> None:
        for fd in [fd for fd, _ in self.maps.values()] + list(self.programs.values()):
            self.kernel.close(fd)


VERBS: dict[str, Callable[[Player, list[str]], str]] = {
    "map": Player.make,
    "flags": Player.flags,
    "use": Player.use,
    "prog": Player.program,
    "info": Player.info,
    "freeze": Player.freeze,
    "mmap": Player.mmap,
    "lookup": Player.lookup,
    "update": Player.update,
    "delete": Player.delete,
    "take": Player.take,
    "next": Player.next,
    "keys": Player.keys,
    "items": Player.items,
    "read": Player.read,
    "takeall": Player.takeall,
    "put": Player.put,
    "drop": Player.drop,
}


def split_flags(words: list[str]) -> tuple[list[str], int]:
    """The words without `flags=`, and the flags."""
    flags = 0
    rest = []
    for word in words:
        if word.startswith("flags="):
            flags = number(word[6:], UPDATE)
        else:
            rest.append(word)
    return rest, flags


def cases(path: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """The cases of a file: a name, and its operations with their answers."""
    out: list[tuple[str, list[tuple[str, str]]]] = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            out.append((line[1:].strip(), []))
        elif line.strip():
            operation, _, answer = line.partition("=>")
            out[-1][1].append((operation.strip(), answer.strip()))
    return out


def play(kernel: Kernel, operations: list[str]) -> list[str]:
    """The answers to a case's operations."""
    player = Player(kernel)
    try:
        return [player.play(operation) for operation in operations]
    finally:
        player.close()


def main() -> None:
    """Write Linux's answers into files."""
    from ebpf.kernels import open_kernel

    with open_kernel("linux") as kernel:
        for name in sys.argv[1:]:
            path = Path(name)
            blocks = []
            for title, rows in cases(path):
                try:
                    answers = play(kernel, [operation for operation, _ in rows])
                except EbpfError as error:
                    raise SystemExit(f"{path}: {title}: {error}") from error
                width = max((len(operation) for operation, _ in rows), default=0)
                lines = [f"{operation:{width}} => {answer}" for (operation, _), answer in zip(rows, answers, strict=True)]
                blocks.append("\n".join([f"# {title}", *lines]))
            path.write_text("\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    main()
