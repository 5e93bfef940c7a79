"""Objects read by us and by libbpf come out the same: tags of programs, shapes of maps, values by type."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from ebpf.uapi import MapFlag

BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
pytestmark = [pytest.mark.linux, pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")]
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define SUB static __attribute__((noinline)) int
enum color { RED, GREEN = 5, NEG = -3 };
struct in { short s; unsigned char u; _Bool b; };
struct all {
    char name[8]; signed char c; unsigned char raw[4]; enum color color; void *p; struct in two[2]; union { int i; unsigned j; };
    int b1:3; unsigned b2:5; int grid[2][2]; __int128 big; int (*fn)(int); char odd[3];
};
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 9); __type(key, struct in); __type(value, struct all); } a_table_of_long_name SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); __type(key, __u32);
         __array(values, struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); }); } outer SEC(".maps");
int counter; static volatile int hidden; int limits[2] = {3, 4}; const volatile int port = 80;
int custom SEC(".data.my-own") = 7;
SUB leaf(int x) { volatile int y = x; return y + hidden; }
SUB left(int x) { volatile int y = x; return leaf(y); }
SUB right(int x) { volatile int y = x; return leaf(y) + left(y) + custom; }
__attribute__((noinline)) int global(int x) { volatile int y = x; return right(y); }
SUB called_back(__u32 i, void *ctx) { counter += i; return leaf(i) == 3; }
SEC("xdp") int first(struct xdp_md *ctx)
{
    struct in key = {};
    __u32 zero = 0;
    void *inner = bpf_map_lookup_elem(&outer, &zero);
    bpf_loop(3, called_back, 0, 0);
    bpf_printk("counter %d %s", counter, "text");
    counter += right(limits[1]) + left(port) + global(3);
    if (inner)
        return XDP_TX;
    return bpf_map_lookup_elem(&a_table_of_long_name, &key) ? XDP_PASS : XDP_DROP;
}
SEC("xdp") int second(struct xdp_md *ctx) { return global(counter) ? 1 : 2; }
SEC("raw_tp/sys_enter") int third(void *ctx) { bpf_printk("third %d", 3); return 0; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
#: Runs in a mount namespace of its own: bpftool loads the object, then ours does; a value is written, and both print it.
SCRIPT = """
import json, subprocess, sys
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection

path, fs, bpftool = sys.argv[1:]

def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout

def told(what, *handle):
    return json.loads(run(bpftool, "-j", what, "show", *handle))

def all_told(folder):
    programs = [told("prog", "pinned", f"{folder}/{name}") for name in ("first", "second", "third")]
    return {"programs": programs, "maps": [told("map", "id", str(id_)) for id_ in programs[0]["map_ids"]]}

run("mount", "-t", "bpf", "bpf", fs)
run("mkdir", fs + "/theirs", fs + "/ours")
run(bpftool, "prog", "loadall", path, fs + "/theirs")
out = {"theirs": all_told(fs + "/theirs")}
with open(path, "rb") as file:
    spec = read_object(file.read(), path)
with open_kernel("linux") as kernel, Collection.load(spec, kernel) as held:
    for name, program in held.programs.items():
        program.pin(f"{fs}/ours/{name}")
    out["ours"] = all_told(fs + "/ours")
    table = held.maps["a_table_of_long_name"]
    table.update(bytes([1, 0, 2, 1]), bytes(i * 37 % 256 for i in range(table.spec.value_size)))
    table.update(bytes([2, 0, 2, 1]), (b"text" + bytes(12) + (5).to_bytes(4, "little")).ljust(table.spec.value_size, b"\\0"))
    words = ["map", "dump", "id", str(table.info().id)]
    out["dumps"] = [[run(*command, *mode, *words) for command in ([bpftool], [sys.executable, "-m", "ebpf", "--kernel", "linux"])]
                    for mode in ([], ["-j"], ["-p"])]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("objects")
    source, target = folder / "some-long.name.bpf.c", folder / "some-long.name.bpf.o"
    source.write_text(SOURCE)
    subprocess.run([sys.executable, "-m", "ebpf", "cc", str(source), "-o", str(target)], check=True)
    (folder / "fs").mkdir()
    command = ["unshare", "-m", sys.executable, "-c", SCRIPT, str(target), str(folder / "fs"), str(BPFTOOL)]
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tags_of_programs_are_those_that_libbpf_gives_them(answers: Any) -> None:
    ours, theirs = ([(p["name"], p["tag"], p["type"], p["bytes_xlated"]) for p in answers[who]["programs"]] for who in ("ours", "theirs"))
    assert ours == theirs
    assert [name for name, *_ in ours] == ["first", "second", "third"]


def test_maps_have_the_names_sizes_and_flags_that_libbpf_gives_them(answers: Any) -> None:
    keep = ("name", "type", "flags", "bytes_key", "bytes_value", "max_entries", "frozen")
    ours, theirs = ([[m.get(key) for key in keep] for m in answers[who]["maps"]] for who in ("ours", "theirs"))
    # Strings of the compiler's, which nothing in C names, can be mapped with libbpf 1.1 and no longer with 1.8, as with ours.
    for row in theirs:
        if row[0] == ".rodata.str1.1":
            row[2] &= ~int(MapFlag.MMAPABLE)
    assert ours == theirs
    assert len(ours) >= 7


@pytest.mark.parametrize("mode", ["plain", "-j", "-p"])
def test_values_are_printed_as_bpftool_prints_them(answers: Any, mode: str) -> None:
    theirs, ours = answers["dumps"][["plain", "-j", "-p"].index(mode)]
    assert '"GREEN"' in theirs
    assert ours == theirs
