"""Explaining a refusal of a real kernel from its log alone: the way and the reason are read out of the text."""

import re
from collections.abc import Sequence
from typing import Final

from ebpf.debug.explain import Explanation, explain
from ebpf.engine.program import Code, SourceLine, Verdict
from ebpf.isa import Insn

#: What Linux says, the reason that it is, and the numbers in it.
_SAID: Final[tuple[tuple[str, str], ...]] = (
    (
        r"invalid access to packet, off=(?P<start>-?\d+) size=(?P<size>\d+), "
        r"R(?P<register>\d+)\(id=(?P<id>\d+),off=-?\d+,r=(?P<proved>\d+)\)",
        "packet",
    ),
    (r"R(?P<register>\d+) offset is outside of the packet", "packet-unproved"),
    (r"R(?P<register>\d+) invalid mem access '\w*_or_null\w*'", "maybe-null"),
    (r"R(?P<register>\d+) pointer arithmetic on \w+_or_null prohibited", "moved-maybe-null"),
    (r"R(?P<register>\d+) invalid mem access '\w+'", "not-a-pointer"),
    (r"R(?P<register>\d+) type=\w+_or_null\w* expected=", "maybe-null"),
    (r"Possibly NULL pointer passed", "null-argument"),
    (r"invalid access to (?:map value|map key|memory), \w+=(?P<whole>\d+) off=(?P<high>-?\d+) size=(?P<size>\d+)", "out-of-bounds"),
    (r"R(?P<register>\d+) (?:max|min) value is outside of the (?:allowed memory|array) range", "out-of-bounds"),
    (r"R(?P<register>\d+) min value is negative, either use unsigned index", "out-of-bounds"),
    (r"math between \w+ pointer and|unbounded min value is not allowed|makes \w+ pointer be out of bounds", "unbounded-offset"),
    (r"R(?P<register>\d+) unbounded memory access, make sure", "unbounded-offset"),
    (r"R(?P<register>\d+) min value is negative, either use unsigned or", "negative-size"),
    (r"R(?P<register>\d+) unbounded memory access, use", "unbounded-size"),
    (r"R(?P<register>\d+) invalid zero-sized read: u64=\[(?P<low>\d+),(?P<high>\d+)\]", "zero-size"),
    (r"R(?P<register>\d+) !read_ok", "uninitialised"),
    (r"invalid (?:indirect )?read from stack.*off (?P<low>-?\d+)\+(?P<index>\d+) size (?P<size>\d+)", "uninitialised-stack"),
    (r"invalid (?:variable-offset|unbounded variable-offset)?\s*(?:write to|read from|indirect access to)? ?stack", "stack-bounds"),
    (r"Unreleased reference id=\d+ alloc_insn=(?P<acquired>\d+)|would lead to reference leak", "leaked-reference"),
    (r"infinite loop detected at insn", "endless-loop"),
    (r"BPF program is too large\. Processed|sequence of \d+ jumps is too complex", "too-complex"),
    (r"combined stack size of|the call stack of \d+ frames|tail_calls are not allowed when call stack", "stack-total"),
    (r"program of this type cannot use helper|invalid func unknown|unknown func", "helper-not-allowed"),
    (r"invalid bpf_context access off=(?P<offset>\d+) size=(?P<size>\d+)|variable ctx access|of modified ctx ptr", "context-access"),
    (r"has smin=(?P<low>-?\d+)|should have been in|R0 leaks addr as return", "return-value"),
    (r"Caller passes invalid args into func|arg#\d+ ", "function-arguments"),
    (r"function calls are not allowed while holding a lock", "locked-call"),
    (r"unreachable insn|jump out of range|last insn is not|back-edge|recursive call", "control-flow"),
    (r"cannot call GPL-restricted function", "licence"),
    (r"misaligned .*access", "misaligned"),
    (r"R(?P<register>\d+) .*(?:pointer arithmetic|operator .* on pointer|pointer .* pointer) ?.*prohibited", "pointer-arithmetic"),
    (r"R(?P<register>\d+) type=\w+ expected=", "argument-type"),
    (r"cannot write into|write into map forbidden|read from map forbidden", "read-only"),
    (r"leaks addr|pointer comparison prohibited|partial copy of pointer|leaking pointer", "pointer-leak"),
    (
        r"xpected an initialized (?:dynptr|iter)|Expected a dynptr of type|Dynptr has to be an uninitialized|bpf_dynptr_from_mem data",
        "argument-type",
    ),
    (r"is an unacquired reference|cannot overwrite referenced dynptr|cannot release unowned const", "reference-misuse"),
    (r"reference has not been acquired|must be referenced when passed|must have zero offset when passed", "reference-misuse"),
    (r"progs cannot use bpf_\w+ yet", "missing-information"),
    (r"spin_(?:un)?lock|rcu_read|preempt", "lock-misuse"),
    (r"same insn cannot be used with different pointers", "mixed-pointers"),
    (r"cannot pass map_type", "map-type"),
    (r"unknown opcode|uses reserved fields|div by zero|invalid shift|frame pointer is read only", "invalid-instruction"),
    (r"cannot use bpf_|missing btf|BTF|does not have", "missing-information"),
)
_STEP: Final = re.compile(r"^(\d+): \([0-9a-f]{2}\)")
_END: Final = re.compile(r"^(?:processed \d+ insns|verification time|stack depth|\s*$)")


def explain_log(insns: Sequence[Insn], prog_type: int, lines: tuple[SourceLine, ...], log: str) -> Explanation:
    """Explain what a kernel's verifier said of a program: `log` is its text, `lines` the program's source lines."""
    rows = log.splitlines()
    path = [int(found[1]) for row in rows if (found := _STEP.match(row))]
    said = [
        row
        for row in rows
        if not _END.match(row) and not _STEP.match(row) and not row.startswith(("from ", ";", "func#", "cur state:", "old state:"))
    ]
    says = "\n".join(said[-2:])
    reason, facts = reason_of(says)
    slot = path[-1] if path else -1
    verdict = Verdict(
        False,
        log,
        cause=_plain(reason, says),
        insn=slot,
        reason=reason,
        says=says,
        facts=facts,
        path=tuple(path),
    )
    return explain(Code(tuple(insns), prog_type, lines=lines), verdict)


def reason_of(says: str) -> tuple[str, dict[str, object]]:
    """The reason behind Linux's words and the numbers in them; `unknown` where nobody knows them."""
    for pattern, reason in _SAID:
        found = re.search(pattern, says)
        if found is None:
            continue
        facts: dict[str, object] = {name: int(text) for name, text in found.groupdict().items() if text is not None}
        if reason == "packet":
            proved, id_ = facts.get("proved", 0), facts.get("id", 0)
            reason = "packet-moved" if id_ and not proved else "packet-short" if proved else "packet-unproved"
        return reason, facts
    return "unknown", {}


def _plain(reason: str, says: str) -> str:
    from ebpf.engine.verifier import REASONS

    return f"{REASONS[reason].title} ({says.splitlines()[-1] if says else 'the kernel gave no reason'})"
