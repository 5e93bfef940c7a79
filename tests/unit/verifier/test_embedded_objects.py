"""Objects within other files are found whole, and nothing that only looks like one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from bench.agreement.embedded import objects

from ebpf.compile import compile_c
from ebpf.elf import read_object

SOURCE = '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("xdp") int %s(void *ctx) { return 2; }'


def test_objects_are_cut_out_of_what_carries_them(tmp_path: Path) -> None:
    first, second = (compile_c(f"{name}.bpf.c", text=SOURCE % name).object for name in ("first", "second"))
    folder = tmp_path / "package" / "sbin"
    folder.mkdir(parents=True)
    (folder / "tool").write_bytes(b"\x7fELF\x02\x01\x01" + b"x" * 99 + first + b"\0" * 7 + second + b"rest")
    (folder / "library.so").write_bytes(b"abc" + first)
    (folder / "cut").write_bytes(second[:-100])
    found = objects(tmp_path / "package", tmp_path / "out")
    assert [path.name for path in found] == ["library.o", "tool-1.o"]
    assert [path.read_bytes() for path in found] == [first, second]
    assert [list(read_object(path.read_bytes()).programs) for path in found] == [["first"], ["second"]]
