"""Reduced BTF: byte for byte bpftool's, and every record is answered by it as by the whole."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ebpf.btf import Btf, Matcher, Relo
from ebpf.cli.main import main
from ebpf.compile import compile_c
from ebpf.elf.types import core_records, read_types

BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
VMLINUX = Path("/sys/kernel/btf/vmlinux")
HEAD = '#include "vmlinux.h"\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n'
#: Each kind of record, through members without a name, arrays, bitfields and pointers; types that are there and that are not.
FIELDS = """
struct pid___x { int level; struct upid numbers[1]; } __attribute__((preserve_access_index));
struct nowhere { int at; } __attribute__((preserve_access_index));
SEC("raw_tp/sys_enter") int fields(void *ctx) {
    struct task_struct *t = (void *)bpf_get_current_task(); struct kobject *k = (void *)t; long s = 0;
    s += BPF_CORE_READ(t, thread_pid, numbers[0].nr) + BPF_CORE_READ(t, mm, arg_start) + BPF_CORE_READ(t, comm[3]);
    s += bpf_core_field_exists(t->cpus_ptr) + bpf_core_field_size(t->comm) + BPF_CORE_READ_BITFIELD_PROBED(t, sched_reset_on_fork);
    s += bpf_core_field_exists(((struct nowhere *)0)->at);
    struct pid___x *p = (void *)BPF_CORE_READ(t, thread_pid); s += BPF_CORE_READ(p, level);
    return s + (long)BPF_CORE_READ(k, parent, parent, name);
}
"""
TYPES = """
struct sock___old { int nothing; } __attribute__((preserve_access_index));
struct nowhere { int at; };
SEC("raw_tp/sys_enter") int types(void *ctx) {
    return bpf_core_type_exists(struct nowhere) + bpf_core_type_size(struct list_head) + bpf_core_type_id_kernel(struct path)
        + bpf_core_type_id_local(struct path) + bpf_core_type_exists(size_t) + bpf_core_type_matches(struct sock___old)
        + bpf_core_type_matches(struct hlist_head) + bpf_core_type_matches(struct file_operations)
        + bpf_core_type_exists(work_func_t);
}
"""
ENUMS = """
SEC("raw_tp/sys_enter") int enums(void *ctx) {
    return bpf_core_enum_value(enum bpf_map_type, BPF_MAP_TYPE_HASH) + bpf_core_enum_value_exists(enum hrtimer_mode, HRTIMER_MODE_ABS);
}
"""
NOTHING = 'SEC("xdp") int nothing(void *ctx) { return 2; }'
pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel tells no types")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("objects")
    out = {}
    for name, text in (("fields", FIELDS), ("types", TYPES), ("enums", ENUMS), ("nothing", NOTHING)):
        path = folder / f"{name}.bpf.o"
        path.write_bytes(compile_c(f"{name}.bpf.c", text=HEAD + text).object)
        out[name] = str(path)
    return out


SETS = [("fields",), ("types",), ("enums",), ("nothing",), ("types", "fields", "enums")]


def reduced(target: Path, paths: list[str]) -> bytes:
    assert main(["gen", "min_core_btf", str(VMLINUX), str(target), *paths]) == 0
    return target.read_bytes()


@pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")
@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_it_is_bpftools(names: tuple[str, ...], objects: dict[str, str], tmp_path: Path) -> None:
    paths = [objects[name] for name in names]
    theirs = tmp_path / "theirs.btf"
    subprocess.run([str(BPFTOOL), "gen", "min_core_btf", str(VMLINUX), str(theirs), *paths], check=True)
    assert reduced(tmp_path / "ours.btf", paths) == theirs.read_bytes()


@pytest.mark.parametrize("name", ["fields", "types", "enums"])
def test_a_record_is_answered_by_it_as_by_the_whole(name: str, objects: dict[str, str], tmp_path: Path) -> None:
    whole = read_types(VMLINUX.read_bytes(), str(VMLINUX))
    small = Btf.parse(reduced(tmp_path / "small.btf", [objects[name]]))
    assert len(small) < 400
    local, records = core_records(Path(objects[name]).read_bytes(), name)
    by_whole, by_small = Matcher(local, lambda: (whole,)), Matcher(local, lambda: (small,))
    for record in records:
        if record[2] == Relo.TYPE_ID_TARGET:
            named = [btf.name(each.answer(*record).new) for btf, each in ((whole, by_whole), (small, by_small))]
            assert named[0] == named[1]
        else:
            assert by_small.answer(*record) == by_whole.answer(*record)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "b"], "'min_core_btf' needs at least 3 arguments, 2 found"),
        (["/none", "out", "x.o"], "can't read /none: no such file or directory"),
        ([str(VMLINUX), "out", "none.o"], "can't read none.o: no such file or directory"),
        (["/dev/null", "out", "x.o"], "null"),
    ],
)
def test_a_wrong_request_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gen", "min_core_btf", *words]) != 0
    assert line in capsys.readouterr().err
