"""`ebpf prog attach`: to every hook, until Ctrl-C or by a pinned link; as bpftool to maps of sockets and flow dissectors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from support import probes
from support.lacking import reason

pytestmark = pytest.mark.linux
SOURCE = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>
char LICENSE[] SEC("license") = "GPL";
SEC("tp") int on_tp(void *ctx) { return 0; }
SEC("raw_tp") int raw(void *ctx) { return 0; }
SEC("uprobe") int up(void *ctx) { return 0; }
SEC("uprobe.multi") int ups(void *ctx) { return 0; }
SEC("perf_event") int sample(void *ctx) { return 0; }
SEC("xdp") int x(void *ctx) { return 2; }
SEC("tc") int t(void *ctx) { return 0; }
SEC("tcx/ingress") int tx(void *ctx) { return -1; }
NETFILTER
SEC("sk_lookup") int lookup(void *ctx) { return 1; }
SEC("cgroup_skb/egress") int egress(void *ctx) { return 1; }
SEC("flow_dissector") int dissect(void *ctx) { return 0; }
SEC("sk_msg") int msg(void *ctx) { return 1; }
SEC("tp_btf/sys_enter") int btf(void *ctx) { return 0; }
struct { __uint(type, BPF_MAP_TYPE_SOCKMAP); __uint(max_entries, 4); __type(key, int); __type(value, __u64); } socks SEC(".maps");
SEC("usdt") int probe(struct pt_regs *ctx) { long a = 0; bpf_usdt_arg(ctx, 0, &a); return a; }
SEC("sk_skb/verdict") int with_map(void *ctx) { int k = 0; return bpf_sk_redirect_map(ctx, &socks, 0, 0); }
"""
#: What an older kernel does not load.
LATER = {"NETFILTER": ("netfilter", 'SEC("netfilter") int nf(void *ctx) { return 1; }')}


def source() -> str:
    """The programs that this kernel loads."""
    text = SOURCE
    for word, (name, program) in LATER.items():
        text = text.replace(word, "" if reason(name) else program)
    return text


#: What is typed after `prog attach pinned P`: the program, the words, and the type of the link that `link list` then tells.
HOOKS = {
    "tracepoint": ("on_tp", "tracepoint syscalls:sys_enter_getpgid", "perf_event"),
    "raw_tp": ("raw", "raw_tp sys_enter", "raw_tracepoint"),
    "trace": ("btf", "trace", "raw_tracepoint"),
    "uprobe": ("up", "uprobe libc.so.6:getpgid", "perf_event"),
    "uretprobe": ("up", "uretprobe libc.so.6:getpgid pid 1", "perf_event"),
    "uprobe.multi": ("ups", "uprobe.multi libc.so.6:getpg?d", "uprobe_multi"),
    "usdt": ("probe", "usdt LIBRARY:ours:work pid 1", "perf_event"),
    "usdt again": ("probe", "usdt LIBRARY:ours:work", "perf_event"),
    "perf_event": ("sample", "perf_event cpu-clock period 1000000000 pid 1", "perf_event"),
    "xdp": ("x", "xdp lo generic", "xdp"),
    "tcx": ("tx", "tcx_ingress lo", "tcx"),
    "netfilter": ("nf", "netfilter ip input priority -7", "netfilter"),
    "sk_lookup": ("lookup", "sk_lookup", "netns"),
}
#: Runs in mount and network namespaces of its own; each command is a child of it, which need not start Python anew.
SCRIPT = r"""
import json, os, subprocess, sys, tempfile
import ebpf.attach.multi, ebpf.attach.perf, ebpf.attach.raw, ebpf.attach.sockets, ebpf.attach.static_probes, ebpf.kernels.linux
import ebpf.cli.attach, ebpf.cli.link, ebpf.cli.map, ebpf.cli.net, ebpf.cli.prog
from ebpf.cli.main import main
path, hooks = sys.argv[1], json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
def ebpf(*words):
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        child, status = os.fork(), 1
        if child == 0:
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(complained.fileno(), 2)
                status = main(["--kernel", "linux", *words])
                sys.stderr.flush()
            finally:
                os._exit(status)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0), complained.seek(0)
        return [code, said.read(), complained.read()]
out = {"load": ebpf("prog", "loadall", path, "/sys/fs/bpf/p", "pinmaps", "/sys/fs/bpf/m")}
for name, (program, words, kind) in hooks.items():
    at = "/sys/fs/bpf/link_" + name.replace(".", "_").replace(" ", "_")
    out[name] = ebpf("prog", "attach", "pinned", "/sys/fs/bpf/p/" + program, *words.split(), "pin", at)
    out[name + " link"] = ebpf("-j", "link", "show", "pinned", at)
    if os.path.exists(at): os.unlink(at)
out["usdt rows"] = ebpf("-j", "map", "dump", "pinned", "/sys/fs/bpf/m/__bpf_usdt_specs")
out["no usdt"] = ebpf("prog", "attach", "pinned", "/sys/fs/bpf/p/probe", "usdt", hooks["usdt"][1].split()[1] + "s")
pinned = ("pinned", "/sys/fs/bpf/p/msg")
maps = ("pinned", "/sys/fs/bpf/m/socks")
out["attach msg"] = ebpf("prog", "attach", *pinned, "sk_msg_verdict", *maps)
out["attach msg again"] = ebpf("prog", "attach", *pinned, "sk_skb_verdict", *maps)
out["detach msg"] = ebpf("prog", "detach", *pinned, "sk_msg_verdict", *maps)
out["detach msg again"] = ebpf("prog", "detach", *pinned, "sk_msg_verdict", *maps)
dissect = ("pinned", "/sys/fs/bpf/p/dissect")
out["dissect"] = ebpf("prog", "attach", *dissect, "flow_dissector")
out["dissectors"] = ebpf("-j", "net", "show")
out["dissect off"] = ebpf("prog", "detach", *dissect, "flow_dissector")
out["unknown"] = ebpf("prog", "attach", *dissect, "nowhere", "x")
out["unknown place"] = ebpf("prog", "attach", "pinned", "/sys/fs/bpf/p/up", "uprobe", "libc.so.6:getpgidd", "pin", "/sys/fs/bpf/z")
print(json.dumps(out))
"""


def lacking(hook: str) -> str:
    """Why this kernel has not such a hook ("": it has, or nobody doubts it)."""
    return reason(hook) if hook in ("uprobe.multi", "tcx", "netfilter") else ""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    path = tmp_path_factory.mktemp("attach") / "hooks.bpf.o"
    path.write_bytes(compile_c("hooks.bpf.c", text=source()).object)
    hooks = json.dumps({name: row for name, row in HOOKS.items() if not lacking(name)}).replace("LIBRARY", probes.library(path.parent))
    command = ["unshare", "-m", "-n", sys.executable, "-c", SCRIPT, str(path), hooks]
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {name: tuple(answer) for name, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_program_is_attached_by_a_link_that_is_pinned(hook: str, answers: dict[str, tuple[int, str, str]]) -> None:
    assert answers["load"] == (0, "", "")
    if why := lacking(hook):
        pytest.skip(f"{hook}: {why}")
    assert answers[hook] == (0, "", "")
    code, out, _ = answers[f"{hook} link"]
    assert code == 0
    assert json.loads(out)["type"] == HOOKS[hook][2]


def test_each_place_of_a_probe_has_a_row_of_its_own_for_its_arguments(answers: dict[str, tuple[int, str, str]]) -> None:
    rows = [each["formatted"]["value"] for each in json.loads(answers["usdt rows"][1])]
    # A row that is taken is not given out again.
    assert [row["arg_cnt"] for row in rows[:3]] == [3, 3, 0]
    assert [argument["arg_bitshift"] for argument in rows[1]["args"][:3]] == [32, 0, 48]
    assert answers["no usdt"][0] != 0
    assert "no USDT probe 'ours:works'" in answers["no usdt"][2]


def test_maps_of_sockets_and_dissectors_as_bpftool_has_them(answers: dict[str, tuple[int, str, str]]) -> None:
    assert answers["attach msg"] == answers["detach msg"] == answers["dissect"] == answers["dissect off"] == (0, "", "")
    assert answers["attach msg again"][0] == answers["detach msg again"][0] == 234
    assert "failed prog attach to map: bpf(PROG_ATTACH): EINVAL" in answers["attach msg again"][2]
    assert json.loads(answers["dissectors"][1])[0]["flow_dissector"]


def test_what_cannot_be_attached_is_one_line(answers: dict[str, tuple[int, str, str]]) -> None:
    code, _, err = answers["unknown"]
    assert (code, err.count("\n")) == (234, 1)
    assert "invalid attach/detach type 'nowhere'; there is sk_msg_verdict" in err
    code, _, err = answers["unknown place"]
    assert (code, err.count("\n")) == (255, 1)
    assert "no function 'getpgidd'" in err


def test_without_a_pin_it_stays_until_it_is_interrupted(tmp_path: Path) -> None:
    from ebpf.elf import read_object
    from ebpf.kernels import open_kernel
    from ebpf.object import Collection

    spec = read_object(compile_c("hooks.bpf.c", text=source()).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, programs=["raw"]) as held:
        id_ = held.programs["raw"].info().id
        command = [sys.executable, "-m", "ebpf", "--kernel", "linux", "prog", "attach", "id", str(id_), "raw_tp", "sys_enter"]
        # Whoever runs the tests in the background has SIGINT ignored, and a child would inherit that.
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, heard)
        with child:
            assert child.stderr is not None
            assert child.stderr.readline() == "attached: raw_tracepoint sys_enter; Ctrl-C detaches\n"
            child.send_signal(signal.SIGINT)
            try:
                assert child.wait(20) == 0
            finally:
                child.kill()
