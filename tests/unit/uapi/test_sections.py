"""Section names say what libbpf's say."""

import ctypes

import pytest

from ebpf.uapi import SECTIONS, section_row
from support import libbpf

LIBBPF = libbpf.library()
#: What follows a name, and what stands before it.
FORMS = ("{}", "{}/", "{}/x", "{}/x/y", "{}x", "{}.s", "{}.s/x", "{}.multi", "{}.multi/x", "{}.session", "?{}", "{}+")
#: Names that libbpf has learned since 1.1.
NEWER = {
    "kprobe.session", "uprobe.multi", "uretprobe.multi", "uprobe.session", "uprobe.multi.s", "uretprobe.multi.s", "uprobe.session.s",
    "usdt.s", "tc/ingress", "tc/egress", "tcx/ingress", "tcx/egress", "netkit/primary", "netkit/peer", "tracepoint.s", "tp.s",
    "raw_tracepoint.s", "raw_tp.s", "tp_btf.s", "fsession", "fsession.s", "fsession.multi", "fsession.multi.s", "fentry.multi",
    "fexit.multi", "fentry.multi.s", "fexit.multi.s", "sk_skb/verdict", "cgroup/connect_unix", "cgroup/sendmsg_unix",
    "cgroup/recvmsg_unix", "cgroup/getpeername_unix", "cgroup/getsockname_unix", "struct_ops.s", "netfilter",
}  # fmt: skip


def theirs(name: str) -> tuple[int, int] | None:
    """Program and attach type that libbpf gives a section."""
    assert LIBBPF is not None
    kind, attach = ctypes.c_int(), ctypes.c_int()
    if LIBBPF.libbpf_prog_type_by_name(name.encode(), ctypes.byref(kind), ctypes.byref(attach)):
        return None
    return kind.value, attach.value


def ours(name: str) -> tuple[int, int] | None:
    """Program and attach type that we give it."""
    found = section_row(name)
    return None if found is None else (int(found[0].type), int(found[0].attach or 0))


@pytest.mark.skipif(LIBBPF is None, reason="libbpf.so.1 is not installed")
@pytest.mark.parametrize("name", [row.name for row in SECTIONS if row.name not in NEWER])
def test_a_name_in_every_form_is_what_libbpf_takes_it_for(name: str) -> None:
    assert theirs(name) is not None
    for form in FORMS:
        text = form.format(name)
        row = section_row(text)
        if row is None or row[0].name not in NEWER:
            assert ours(text) == theirs(text), text


@pytest.mark.skipif(LIBBPF is None, reason="libbpf.so.1 is not installed")
def test_a_newer_name_is_what_a_libbpf_that_knows_it_takes_it_for() -> None:
    forms = [form.format(name) for name in sorted(NEWER) for form in FORMS]
    assert [text for text in forms if theirs(text) is not None and ours(text) != theirs(text)] == []


def test_there_are_as_many_names_as_libbpf_has() -> None:
    assert len(SECTIONS) == len({row.name for row in SECTIONS}) == 116
    assert {row.name for row in SECTIONS} > NEWER
