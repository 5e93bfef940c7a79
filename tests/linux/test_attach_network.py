"""Programs on the network, each by one call: they see what is sent in a namespace of the test's own, can be exchanged, and go."""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import AttachError, EbpfError, NotFoundError, VerifierError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from support import place
from support.lacking import need, reason

pytestmark = pytest.mark.linux
HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
long seen = 0;
long other = 0;
char LICENSE[] SEC("license") = "GPL";
"""
SOURCE = """
SEC("xdp") int xdp_count(struct xdp_md *ctx) { __sync_fetch_and_add(&seen, 1); return XDP_PASS; }
SEC("xdp") int xdp_other(struct xdp_md *ctx) { __sync_fetch_and_add(&other, 1); return XDP_PASS; }
SEC("tc") int tc_count(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 0; }
SEC("tcx/egress") int tcx_count(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return -1; }
SEC("tcx/ingress") int tcx_in(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return -1; }
SEC("tcx/ingress") int tcx_other(struct __sk_buff *skb) { __sync_fetch_and_add(&other, 1); return -1; }
SEC("netkit/primary") int nk_primary(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 0; }
SEC("netkit/peer") int nk_peer(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 0; }
SEC("netfilter") int nf_count(void *ctx) { __sync_fetch_and_add(&seen, 1); return 1; }
SEC("socket") int keep_four(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 12; }
SEC("flow_dissector") int dissect(struct __sk_buff *skb) { return 0; }
struct { __uint(type, BPF_MAP_TYPE_SOCKMAP); __uint(max_entries, 4); __type(key, int); __type(value, __u64); } socks SEC(".maps");
SEC("sk_lookup") int choose(struct bpf_sk_lookup *ctx) {
    struct bpf_sock *sk; int zero = 0; long got;
    if (ctx->local_port != 7777) return SK_PASS;
    __sync_fetch_and_add(&seen, 1);
    sk = bpf_map_lookup_elem(&socks, &zero);
    if (!sk) return SK_PASS;
    got = bpf_sk_assign(ctx, sk, 0);
    bpf_sk_release(sk);
    return got ? SK_DROP : SK_PASS;
}
SEC("sk_msg") int refuse_message(struct sk_msg_md *msg) { __sync_fetch_and_add(&seen, 1); return SK_PASS; }
SEC("sk_skb/stream_parser") int all_of_it(struct __sk_buff *skb) { __sync_fetch_and_add(&other, 1); return skb->len; }
SEC("sk_skb/stream_verdict") int look_in(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return SK_PASS; }
SEC("sk_skb/verdict") int look_in_too(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return SK_PASS; }
struct { __uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); } group SEC(".maps");
SEC("sk_reuseport") int second(struct sk_reuseport_md *ctx) {
    __u32 one = 1; __sync_fetch_and_add(&seen, 1);
    bpf_sk_select_reuseport(ctx, &group, &one, 0);
    return SK_PASS;
}
"""
OBJECT = compile_c("net.bpf.c", text=HEAD + SOURCE).object


@pytest.fixture
def held() -> Iterator[Collection]:
    """The programs above, each loaded when it is first needed, in a network of this test's own."""
    with place.network(), open_kernel("linux") as kernel, Collection.load(read_object(OBJECT), kernel, load=False) as collection:
        yield collection


def send(address: str = "127.0.0.1", port: int = 9, count: int = 3) -> None:
    """Datagrams to a port where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(b"0123456789", (address, port))


def seen(held: Collection) -> int:
    return int(held.variables()["seen"])  # type: ignore[arg-type]


#: name: program, how it is attached. All see datagrams on lo.
KINDS: dict[str, tuple[str, Callable[[Program], Link]]] = {
    "xdp": ("xdp_count", lambda p: attach.xdp(p, "lo")),
    "xdp-generic": ("xdp_count", lambda p: attach.xdp(p, "lo", mode="generic")),
    "xdp-link": ("xdp_count", lambda p: attach.xdp(p, "lo", mode="generic", link=True)),
    "tcx-egress": ("tcx_count", lambda p: attach.tcx(p, "lo", "egress")),
    "tcx-ingress": ("tcx_in", lambda p: attach.tcx(p, "lo")),
    "tc-ingress": ("tc_count", lambda p: attach.tc(p, "lo")),
    "tc-egress": ("tc_count", lambda p: attach.tc(p, "lo", "egress", priority=7, handle=3)),
    "netfilter-input": ("nf_count", lambda p: attach.netfilter(p, "input", priority=-5)),
    "netfilter-output": ("nf_count", lambda p: attach.netfilter(p, "output", priority=5)),
}
#: What an older kernel has not, by the first word.
LATER = {"tcx": ("tcx",), "netfilter": ("netfilter",)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_sees_packets_until_its_link_is_closed(kind: str, held: Collection) -> None:
    name, attach_it = KINDS[kind]
    need(*LATER.get(kind.partition("-")[0], ()))
    send()
    with attach_it(held.programs[name]):
        before = seen(held)
        send()
        during = seen(held)
    send()
    assert before == 0
    assert during >= 3
    assert seen(held) == during


@pytest.mark.parametrize("mode", ["driver", "native"])
def test_xdp_in_the_driver_of_a_veth(mode: str, held: Collection) -> None:
    with attach.xdp(held.programs["xdp_count"], "v1", mode=mode, link=True):
        assert [(s.ifname, s.mode) for s in held.kernel.xdp_query()] == [("v1", "xdpdrv")]
    assert held.kernel.xdp_query() == []


@pytest.mark.parametrize(("first", "then", "kind"), [("xdp_count", "xdp_other", "xdp-link"), ("tcx_in", "tcx_other", "tcx-ingress")])
def test_a_link_takes_another_program_without_a_gap(first: str, then: str, kind: str, held: Collection) -> None:
    need(*LATER.get(kind.partition("-")[0], ()))
    with KINDS[kind][1](held.programs[first]) as link:
        send()
        was = seen(held)
        link.update(held.programs[then])
        send()
        # Datagrams and the answers that nobody listens: at least those are seen by the one program or the other.
        assert was >= 3
        assert seen(held) == was
        assert held.variables()["other"] >= 3  # type: ignore[operator]
        assert link.info().prog_id == held.programs[then].info().id


def test_a_detached_link_sees_nothing_more(held: Collection) -> None:
    with KINDS["xdp-link"][1](held.programs["xdp_count"]) as link:
        link.detach()
        send()
        assert seen(held) == 0


def test_a_clsact_of_ours_goes_with_its_last_filter_and_others_stay(held: Collection) -> None:
    program = held.programs["tc_count"]
    with attach.tc(program, "lo") as first:
        with attach.tc(program, "lo", priority=2):
            first.close()
            assert [state.kind for state in held.kernel.tc_query()] == ["clsact/ingress"]
            send()
            assert seen(held) >= 3
        assert held.kernel.tc_query() == []


def test_programs_of_tcx_run_in_the_order_that_was_asked_for(held: Collection) -> None:
    need("tcx")
    kernel, programs = held.kernel, held.programs
    from ebpf.sys.calls import ProgQuery
    from ebpf.uapi import AttachType

    with attach.tcx(programs["tcx_in"], "lo"), attach.tcx(programs["tcx_other"], "lo", before=programs["tcx_in"].fd):
        found = kernel.bpf(ProgQuery(kernel.interfaces()["lo"], AttachType.TCX_INGRESS))
        assert found.prog_ids == (programs["tcx_other"].info().id, programs["tcx_in"].info().id)


def test_a_socket_filter_shortens_what_a_socket_receives(held: Collection) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with attach.socket_filter(held.programs["keep_four"], sock.fileno()):
            send(port=sock.getsockname()[1], count=1)
            short = sock.recv(100)
        send(port=sock.getsockname()[1], count=1)
        assert (short, sock.recv(100), seen(held)) == (b"0123", b"0123456789", 1)


def test_a_program_chooses_among_sockets_that_share_a_port(held: Collection) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        port = 0
        for index, sock in enumerate(socks):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.settimeout(5)
            sock.bind(("127.0.0.1", port))
            port = sock.getsockname()[1]
            held.maps["group"].update(struct.pack("<I", index), struct.pack("<Q", sock.fileno()))
        with attach.reuseport(held.programs["second"], socks[0].fileno()):
            send(port=port, count=4)
            assert [socks[1].recv(100) for _ in range(4)] == [b"0123456789"] * 4
        assert seen(held) == 4


def test_a_lookup_sends_a_port_to_a_socket_that_is_bound_elsewhere(held: Collection) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        held.maps["socks"].update(struct.pack("<i", 0), struct.pack("<Q", sock.fileno()))
        with attach.sk_lookup(held.programs["choose"]):
            send(port=7777, count=1)
            assert sock.recv(100) == b"0123456789"
        assert seen(held) == 1


@pytest.mark.parametrize("link", [False, True])
def test_messages_of_sockets_in_a_map_are_seen(link: bool, held: Collection) -> None:
    if link:
        need("sockmap (link)")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        attach.sockmap(held.programs["refuse_message"], held.maps["socks"], link=link),
        socket.create_connection(server.getsockname()) as client,
    ):
        held.maps["socks"].update(struct.pack("<i", 0), struct.pack("<Q", client.fileno()))
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(100) == b"hello"
        held.maps["socks"].delete(struct.pack("<i", 0))
    assert seen(held) == 1


@pytest.mark.parametrize("names", [("all_of_it", "look_in"), ("look_in",), ("look_in_too",)], ids="-".join)
def test_what_sockets_in_a_map_receive_is_seen(names: tuple[str, ...], held: Collection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        for name in names:
            stack.enter_context(attach.sockmap(held.programs[name], held.maps["socks"]))
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        client.settimeout(20)
        accepted, _ = server.accept()
        with accepted:
            held.maps["socks"].update(struct.pack("<i", 0), struct.pack("<Q", client.fileno()))
            accepted.sendall(b"hello")
            assert client.recv(100) == b"hello"
            # Its end would be seen too.
            held.maps["socks"].delete(struct.pack("<i", 0))
    assert (seen(held), held.variables()["other"]) == (1, 1 if "all_of_it" in names else 0)


def test_a_flow_dissector_stands_in_its_namespace_alone(held: Collection) -> None:
    with attach.flow_dissector(held.programs["dissect"]) as link:
        assert link.info().detail["attach_type"] == 17
        with pytest.raises(AttachError, match="there is a program already"):
            attach.flow_dissector(held.programs["dissect"])


def test_what_cannot_be_attached_says_why_and_what_would_work(held: Collection) -> None:
    programs = held.programs
    no_netkit = (errno.EINVAL, "this kernel has no netkit devices") if reason("netkit") else (errno.ENXIO, "is no netkit device")
    refusals: list[tuple[Callable[[], Link], type[EbpfError], int, str]] = [
        (lambda: attach.xdp(programs["xdp_count"], "lo", mode="driver"), AttachError, errno.EOPNOTSUPP, "use mode generic"),
        (lambda: attach.xdp(programs["xdp_count"], "loo"), NotFoundError, errno.ENOENT, "no interface 'loo'"),
        (lambda: attach.netkit(programs["tc_count"], "lo"), AttachError, *no_netkit),
        (lambda: attach.tcx(programs["xdp_count"], "lo"), AttachError, errno.EINVAL, "clsact"),
        (lambda: attach.tc(programs["xdp_count"], "lo"), AttachError, errno.EINVAL, "SEC(tc)"),
        (lambda: attach.sk_lookup(programs["choose"], "/no/such"), NotFoundError, errno.ENOENT, "network namespace"),
        (lambda: attach.sockmap(programs["refuse_message"], held.maps[".bss"]), AttachError, errno.EOPNOTSUPP, "holds no sockets"),
        (lambda: attach.netfilter(programs["nf_count"], "inputs"), EbpfError, errno.EINVAL, "prerouting, input"),
    ]
    for call, kind, number, text in refusals:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.errno == number, caught.value
        assert text in f"{caught.value} {caught.value.hint}"


def test_a_kernel_without_netfilters_programs_says_so(held: Collection) -> None:
    if not reason("netfilter"):
        pytest.skip("this kernel has programs of netfilter: the probe loaded one")
    with pytest.raises(VerifierError, match=r"program 'nf_count' refused: this kernel has no programs of SEC\(netfilter\)"):
        attach.netfilter(held.programs["nf_count"], "input")


@pytest.mark.parametrize(("end", "sender"), [("primary", "nk0"), ("peer", "nk1")])
def test_a_netkit_device_runs_a_program_at_each_end(end: str, sender: str, held: Collection) -> None:
    need("netkit")
    place.netkit("nk0", "nk1")
    program = held.programs["nk_primary" if end == "primary" else "nk_peer"]
    with attach.netkit(program, "nk0", end) as link:
        packet(sender)
        during = seen(held)
        packet("nk1" if sender == "nk0" else "nk0")
        assert link.info().detail["attach_type"] == program.spec.attach_type
        with pytest.raises(AttachError, match="not the primary one"):
            attach.netkit(program, "nk1", end)
    packet(sender)
    assert (during, seen(held)) == (1, 1)


def packet(interface: str) -> None:
    """One packet of IPv4 out of an interface, as it is (of a protocol for experiments: nobody answers it)."""
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20, 1, 0, 64, 253, 0, socket.inet_aton("10.8.0.1"), socket.inet_aton("10.8.0.2"))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        sock.sendto(head, (interface, 0x0800))


def test_a_place_that_is_taken_is_named(held: Collection) -> None:
    programs = held.programs
    with attach.xdp(programs["xdp_count"], "v0"), pytest.raises(AttachError, match="has an XDP program already"):
        attach.xdp(programs["xdp_other"], "v0")
    with attach.tc(programs["tc_count"], "v0"), pytest.raises(AttachError, match="priority and handle already"):
        attach.tc(programs["tc_count"], "v0")
    need("netfilter")
    with attach.netfilter(programs["nf_count"], "input"), pytest.raises(AttachError, match="another program has this hook"):
        attach.netfilter(programs["nf_count"], "input")
