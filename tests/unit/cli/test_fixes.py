"""`ebpf verify --fix`: patches that apply to the text and are accepted, for each kind of refusal that has one."""

import json
import re
from pathlib import Path

import pytest

from ebpf.cli.main import main

HEAD = """#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
struct value { __u32 index; __s32 length; __u64 count; char bytes[64]; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16); __type(key, __u32); __type(value, struct value); } values SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct locked { struct bpf_spin_lock lock; __u64 time; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16); __type(key, __u32); __type(value, struct locked); } locks SEC(".maps");
"""
VALUE = """    __u32 key = bpf_get_prandom_u32();
    struct value *v = bpf_map_lookup_elem(&values, &key);
    if (!v)
        return 0;
"""
DATA = "    void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;\n    struct ethhdr *eth = data;\n"
#: The kind, the program's section and context, its body, and what the patch adds.
ROWS = [
    ("E0001", "xdp", "xdp_md", DATA + "    return eth->h_proto == 8;", "+    if ((void *)(eth + 1) > data_end)"),
    (
        "E0002",
        "xdp",
        "xdp_md",
        DATA + "    if ((void *)eth + 4 > data_end)\n        return XDP_PASS;\n    return eth->h_proto == 8;",
        "+    if ((void *)(eth + 1) > data_end)",
    ),
    (
        "E0004",
        "xdp",
        "xdp_md",
        DATA
        + "    if ((void *)(eth + 1) > data_end)\n        return XDP_PASS;\n    bpf_xdp_adjust_head(ctx, -14);\n    return eth->h_proto == 8;",
        "+    eth = (void *)(long)ctx->data;",
    ),
    ("E0005", "kprobe/x", "pt_regs", "    __u64 *p = (void *)ctx->rdi;\n    __u64 x = *p;\n    return x == 1;", "bpf_probe_read_kernel(&x"),
    (
        "E0006",
        "xdp",
        "xdp_md",
        "    __u32 key = 1;\n    struct value *v = bpf_map_lookup_elem(&values, &key);\n    return v->count;",
        "+    if (!v)",
    ),
    (
        "E0008",
        "xdp",
        "xdp_md",
        VALUE + "    __u64 i = v->index;\n    if (i > 64)\n        return 0;\n    return v->bytes[i];",
        "+    if (i >= sizeof(v->bytes) / sizeof(v->bytes[0]))",
    ),
    ("E0009", "xdp", "xdp_md", VALUE + "    __u64 i = v->count;\n    return v->bytes[i];", "+    if (i >= sizeof(v->bytes)"),
    (
        "E0010",
        "kprobe/x",
        "pt_regs",
        VALUE + "    char buf[64];\n    __s64 n = v->count;\n    if (n > 64)\n        n = 64;\n"
        "    bpf_probe_read_kernel(buf, n, (void *)ctx->rdi);\n    return n != 0;",
        "+    if (n > sizeof(buf))",
    ),
    (
        "E0011",
        "kprobe/x",
        "pt_regs",
        VALUE + "    char buf[64];\n    __u64 n = v->index;\n    bpf_probe_read_kernel(buf, n, (void *)ctx->rdi);\n    return n != 0;",
        "+    if (n > sizeof(buf))",
    ),
    (
        "E0012",
        "kprobe/x",
        "pt_regs",
        VALUE + "    char buf[64];\n    __u64 n = v->index & 63;\n    bpf_get_current_comm(buf, n);\n    return n != 0;",
        "+    if (!n)",
    ),
    (
        "E0014",
        "xdp",
        "xdp_md",
        "    struct value v;\n    __u32 key = 1;\n    v.index = 1;\n    bpf_map_update_elem(&values, &key, &v, 0);\n    return 0;",
        "+    __builtin_memset(&v, 0, sizeof(v));",
    ),
    (
        "E0016",
        "xdp",
        "xdp_md",
        "    __u64 *e = bpf_ringbuf_reserve(&ring, 8, 0);\n    if (!e)\n        return XDP_PASS;\n    *e = 1;\n"
        "    if (ctx->rx_queue_index == 7)\n        return XDP_DROP;\n    bpf_ringbuf_submit(e, 0);\n    return XDP_PASS;",
        "{ bpf_ringbuf_discard(e, 0); return XDP_DROP; }",
    ),
    ("E0023", "cgroup_skb/ingress", "__sk_buff", "    return ctx->len;", "+    return !!(ctx->len);"),
    (
        "E0025",
        "tc",
        "__sk_buff",
        "    __u32 key = ctx->mark;\n    struct locked *v = bpf_map_lookup_elem(&locks, &key);\n    if (!v)\n        return 0;\n"
        "    __u64 now;\n    bpf_spin_lock(&v->lock);\n    now = bpf_ktime_get_ns();\n    v->time = now;\n    bpf_spin_unlock(&v->lock);\n"
        "    return 0;",
        "+    now = bpf_ktime_get_ns();",
    ),
    (
        "E0036",
        "tc",
        "__sk_buff",
        "    __u32 key = ctx->mark;\n    struct locked *v = bpf_map_lookup_elem(&locks, &key);\n    if (!v)\n        return 0;\n"
        "    bpf_spin_lock(&v->lock);\n    v->time = 1;\n    return 0;",
        "+    bpf_spin_unlock(&v->lock);",
    ),
]


def _applied(text: str, patch: str) -> str:
    """The text with a patch in unified form; what it says it removes must stand there."""
    rows, out, at = text.split("\n"), [], 0
    for row in patch.split("\n")[2:]:
        hunk = re.match(r"@@ -(\d+)", row)
        if hunk:
            out.extend(rows[at : int(hunk[1]) - 1])
            at = int(hunk[1]) - 1
        elif row[:1] in (" ", "-"):
            assert rows[at] == row[1:]
            at += 1
        if row[:1] in (" ", "+"):
            out.append(row[1:])
    return "\n".join(out + rows[at:])


def _source(row: tuple[str, str, str, str, str]) -> str:
    return f'{HEAD}SEC("{row[1]}")\nint wrong(struct {row[2]} *ctx)\n{{\n{row[3]}\n}}\n'


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[0])
def test_a_patch_applies_and_is_accepted(row: tuple[str, str, str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = tmp_path / "wrong.bpf.c", _source(row)
    path.write_text(text)
    # Every Linux here lets a program with CAP_PERFMON read stack that nothing was written to.
    # 6.1 learns nothing of `i != 64`, which clang makes of two tests.
    how = ["--linux", "6.12", *(["--bpf-only"] if row[0] == "E0014" else [])]
    assert main(["verify", str(path), "--fix", "--json", *how]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["id"] == row[0]
    assert row[4] in told["fix"]
    assert path.read_text() == text
    path.write_text(_applied(text, told["fix"]))
    assert main(["verify", str(path), *how]) == 0


def test_what_has_no_mechanical_fix_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "endless.bpf.c"
    path.write_text(HEAD + 'SEC("tracepoint/x/y")\nint endless(void *ctx)\n{\n    bpf_redirect(1, 0);\n    return 0;\n}\n')
    assert main(["verify", str(path), "--fix", "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["fix"] == ""


def test_people_see_the_patch_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.bpf.c"
    path.write_text(_source(ROWS[0]))
    main(["verify", str(path), "--fix"])
    out = capsys.readouterr().out
    assert "this patch was verified:" in out
    assert "+    if ((void *)(eth + 1) > data_end)" in out


def test_only_c_source_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "p.o"), "--fix"]) == 2
    assert "--fix changes C source" in capsys.readouterr().err
