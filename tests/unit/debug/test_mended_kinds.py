"""What `ebpf verify --fix` does to a refused program: the patch mends it, for nearly every kind of refusal that a patch can mend."""

import re
from pathlib import Path

import pytest

from ebpf.cli.code import code_of
from ebpf.cli.fixes import patch_for
from ebpf.cli.replay import read
from ebpf.debug import explain
from ebpf.engine.program import Code, Verdict
from ebpf.engine.verifier import REASONS, verify
from ebpf.spec import ObjectSpec

FOLDER = Path(__file__).parents[2] / "verifier"
#: A refused program of each kind, and what the patch has.
MENDED = {
    "packet-unproved": ("swaps_addresses", "if ((void *)(eth + 1) > data_end)"),
    "packet-short": ("reads_udp_after_ip", "if ((void *)(udp + 1) > data_end)"),
    "packet-moved": ("payload_behind_options", "if ((void *)(payload + 1) > data_end)"),
    "packet-void": ("pulls_and_reads", "eth = (void *)(long)skb->data;"),
    "not-a-pointer": ("follows_a_list", "bpf_probe_read_kernel(&next_, sizeof(next_), node);"),
    "maybe-null": ("second_lookup", "if (!b)"),
    "moved-maybe-null": ("element_of_maybe_null", "if (!e)"),
    "out-of-bounds": ("letter_of_a_name", "if (i >= sizeof(e->comm) / sizeof(e->comm[0]))"),
    "unbounded-offset": ("any_index", "if (i >= sizeof(e->path) / sizeof(e->path[0]))"),
    "negative-size": ("signed_length", "n > sizeof(buf)"),
    "unbounded-size": ("any_length", "if (n > sizeof(buf))"),
    "zero-size": ("loads_nothing", "if (!n)"),
    "stack-bounds": ("index_into_an_array", "if (i >= sizeof(names) / sizeof(names[0]))"),
    "leaked-reference": ("record_kept_on_error", "bpf_ringbuf_discard(e, 0);"),
    "endless-loop": ("waits_for_a_flag", "for (int turn = 0; turn < 1000 && (i < 10); turn++)"),
    "helper-not-allowed": ("loads_as_a_filter", "bpf_xdp_load_bytes(ctx, 0, buf, sizeof(buf));"),
    "return-value": ("permits_oddly", "return !!(verdict);"),
    "locked-call": ("locked_call", "now = bpf_ktime_get_ns();"),
    "read-only": ("writes_a_constant", "volatile __u32 wanted = 7;"),
    "argument-type": ("submits_twice", ""),
    "lock-misuse": ("leaves_with_a_lock", "bpf_spin_unlock(&c->lock);"),
    "map-type": ("redirects_by_a_hash", "bpf_redirect_map(&ports, 0, 0);"),
}
#: What a change of the refused line alone does not mend: another design is wanted, or another kernel.
NO_PATCH = {"too-complex", "stack-total", "context-access", "missing-information", "misaligned", "pointer-arithmetic", "reference-misuse"}


def _without(text: str, word: str, *, keep: bool) -> str:
    """The text with `word(code)` as the code, or left out."""
    head, found, rest = text.partition(f"{word}(")
    if not found:
        return text
    depth, at = 1, 0
    while depth:
        depth += (rest[at] == "(") - (rest[at] == ")")
        at += 1
    return head + (rest[: at - 1] if keep else "") + _without(rest[at:], word, keep=keep)


def _alone(name: str) -> str:
    """The program by itself, as its author would have written it."""
    source = next(path for path in FOLDER.glob("refused*.bpf.c") if f"int {name}(" in path.read_text())
    head, *programs = re.split(r"\n(?=SEC\(\"[\w/]+\"\)\nint )", source.read_text())
    start, rest = head.split("#ifdef FIXED")
    mine = next(each for each in programs if f"\nint {name}(" in each)
    end = programs[-1][programs[-1].index("char LICENSE") :]
    body = "\n".join([rest.partition("#endif")[2], mine, end if end not in mine else ""])
    return start + _without(_without(body, "WRONG", keep=True), "RIGHT", keep=False)


@pytest.mark.parametrize("kind", MENDED)
def test_a_patch_mends_it(tmp_path: Path, kind: str) -> None:
    name, has = MENDED[kind]
    path = tmp_path / f"{name}.bpf.c"
    path.write_text(_alone(name))

    def judge(spec: ObjectSpec) -> tuple[Code, Verdict]:
        code = code_of(spec, spec.programs[name])
        return code, verify(code)

    code, verdict = judge(read(path))
    assert explain(code, verdict).name == kind
    patch = patch_for(path, code, verdict, judge)
    added = [line[1:].strip() for line in patch.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert has in "\n".join(added)
    assert patch


def test_most_kinds_that_programs_come_to_are_mended() -> None:
    marks = "".join(path.read_text() for path in FOLDER.glob("refused*.bpf.c"))
    kinds = {row.name for row in REASONS.values() if f"// {row.id}" in marks}
    assert set(MENDED) <= kinds
    wanted = kinds - NO_PATCH
    assert len(set(MENDED)) / len(wanted) >= 0.8, wanted - set(MENDED)
