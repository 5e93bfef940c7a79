"""bpf_fib_lookup: a table that was given answers as Linux's own does, in a network name space with the same routes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ebpf.errors import NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.sys.kernel import Route

SCRIPT = r"""
import ipaddress, json, socket, struct, sys
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.kernel import Route

SOURCE = '''
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct bpf_fib_lookup params = {};
long answer = 0;
__u32 flags = 0, size = sizeof(struct bpf_fib_lookup);
SEC("tc") int find(struct __sk_buff *skb) { answer = bpf_fib_lookup(skb, &params, sizeof(params), flags); return 0; }
SEC("tc") int short_one(struct __sk_buff *skb) { answer = bpf_fib_lookup(skb, &params, 63, flags); return 0; }
char LICENSE[] SEC("license") = "GPL";
'''
name, index, peer = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
own = bytes.fromhex(sys.argv[4])
cases = [(to, flags, length, program) for to in ("10.1.2.3", "10.9.2.3", "10.9.128.1", "10.20.0.1", "10.30.0.1", "10.40.0.1", "192.0.2.1", "10.1.0.9")
         for flags in (0, 4) for length in (0, 1400, 4000) for program in ("find",)]
cases += [("2001:db8::7", flags, 0, "find") for flags in (0, 4)] + [("10.1.2.3", 1 << 20, 0, "find"), ("10.1.2.3", 0, 0, "short_one")]
with open_kernel(name) as kernel, Collection.load(read_object(compile_c("fib.bpf.c", text=SOURCE).object), kernel) as held:
    if name == "user":
        kernel.lab.set_routes([
            Route("10.1.2.3/32", index, smac=own, dmac=peer, mtu=1500),
            Route("10.1.0.0/16", index, mtu=1500),
            Route("10.9.0.0/16", index, gateway="10.1.2.3", smac=own, dmac=peer, mtu=1500, metric=7),
            Route("10.9.128.0/17", index, gateway="10.1.2.3", smac=own, dmac=peer, mtu=1300, link_mtu=1500),
            Route("10.20.0.0/16", result=1), Route("10.30.0.0/16", result=2), Route("10.40.0.0/16", result=3),
            Route("2001:db8::/32", index, smac=own, dmac=peer, mtu=1500, metric=256),
        ])
    out = []
    for to, flags, length, program in cases:
        address = ipaddress.ip_address(to)
        packed = address.packed.ljust(16, b"\0")
        source = ipaddress.ip_address("10.1.0.1" if address.version == 4 else "2001:db8::1").packed.ljust(16, b"\0")
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        raw = struct.pack("<BBHHHII", family, 17, 0, 0, length, index, 0) + source + packed + bytes(16)
        bss = next(m for n, m in held.maps.items() if n.endswith(".bss"))
        place = {v.name: v.offset for v in bss.spec.variables}
        data = bytearray(bss.lookup(bytes(4)))
        data[place["params"] : place["params"] + 64] = raw
        data[place["flags"] : place["flags"] + 4] = flags.to_bytes(4, "little")
        bss.update(bytes(4), bytes(data))
        held.programs[program].run(bytes(64))
        data = bss.lookup(bytes(4))
        params = data[place["params"] : place["params"] + 64]
        answer = int.from_bytes(data[place["answer"] : place["answer"] + 8], "little", signed=True)
        # What else is in the params of a look-up that failed is nobody's business.
        seen = params[:1] + params[6:12] + (params[12:16] if not answer else b"") + params[32:48] + params[52:64] if answer in (0, 7) else params[6:8]
        out.append([to, flags, length, answer, seen.hex()])
print(json.dumps(out))
"""


def run(*words: str) -> list[list[object]]:
    answer = subprocess.run([*words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return list(json.loads(answer.stdout))


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_a_table_answers_as_linux_does() -> None:
    space = f"ebpf-fib-{os.getpid()}"
    inside = ["ip", "netns", "exec", space]

    def ip(*words: str) -> None:
        subprocess.run([*inside, "ip", *words], check=True, capture_output=True)

    subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        ip("link", "set", "lo", "up")
        ip("link", "add", "one", "type", "veth", "peer", "name", "two")
        for name in ("one", "two"):
            ip("link", "set", name, "up")
        ip("addr", "add", "10.1.0.1/16", "dev", "one")
        ip("addr", "add", "2001:db8::1/32", "dev", "one", "nodad")
        subprocess.run(
            [*inside, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/forwarding; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"],
            check=True,
        )
        for address in ("10.1.2.3", "2001:db8::7"):
            ip("neigh", "add", address, "lladdr", "02:00:00:00:00:07", "dev", "one")
        ip("route", "add", "10.9.0.0/16", "via", "10.1.2.3", "metric", "7")
        ip("route", "add", "10.9.128.0/17", "via", "10.1.2.3", "mtu", "lock", "1300")
        for kind, prefix in (("blackhole", "10.20.0.0/16"), ("unreachable", "10.30.0.0/16"), ("prohibit", "10.40.0.0/16")):
            ip("route", "add", kind, prefix)
        links = json.loads(subprocess.run([*inside, "ip", "-j", "link", "show", "one"], check=True, capture_output=True).stdout)
        words = [str(links[0]["ifindex"]), "020000000007", links[0]["address"].replace(":", "")]
        theirs = run(*inside, sys.executable, "-c", SCRIPT, "linux", *words)
        ours = run(sys.executable, "-c", SCRIPT, "user", *words)
    finally:
        subprocess.run(["ip", "netns", "del", space], check=True)
    assert ours == theirs


def test_nothing_is_found_without_a_table() -> None:
    answers = run(sys.executable, "-c", SCRIPT.replace("kernel.lab.set_routes([", "(["), "user", "5", "020000000007", "020000000001")
    assert {answer for _, flags, _, answer, _ in answers if not flags} == {4, -22}


def test_a_route_that_is_none_is_refused() -> None:
    with open_kernel("user") as kernel:
        for bad in (
            Route("10.0.0.0/33"),
            Route("10.0.0.1/8"),
            Route("10.0.0.0/8", gateway="x"),
            Route("10.0.0.0/8", smac=b"12345", dmac=bytes(6)),
        ):
            with pytest.raises(ValueError, match=r"does not appear|has host bits|6 bytes"):
                kernel.lab.set_routes([bad])


@pytest.mark.linux
def test_linux_says_that_it_has_routes_of_its_own() -> None:
    with open_kernel("linux") as kernel, pytest.raises(NotSupportedError, match="ip route"):
        kernel.lab.set_routes([])
