"""A refusal explained: the refused line, where the value came from, what was proved, what would help."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ebpf.debug.trail import Trail
from ebpf.engine.program import Code, SourceLine, Verdict
from ebpf.engine.verifier import REASONS, line_at
from ebpf.uapi import CallSrc

Facts = dict[str, object]
_MOST_BRANCHES: Final = 4


@dataclass(frozen=True, slots=True)
class Span:
    """A place of the source with what is to be said of it. `column` counts from 1; 0 is the whole line."""

    path: str
    line: int
    column: int
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a program was refused. `related` are the places that matter besides `span`, in the order of the walk.

    `obligation` says what is needed and what is proved, with numbers; `advice` what to write instead; `kernel_says` is
    Linux's own line, if it is known.
    """

    id: str
    name: str
    title: str
    cause: str
    span: Span | None
    related: tuple[Span, ...] = ()
    obligation: str = ""
    advice: str = ""
    kernel_says: str = ""
    insn: int = -1


def explain(code: Code, verdict: Verdict) -> Explanation:
    """Explain a refusal of the verifier."""
    reason = REASONS.get(verdict.reason, REASONS["unknown"])
    teller = _Teller(code, verdict)
    rows = _NOTES.get(verdict.reason, _no_notes)(teller)
    related = [*rows.related, *teller.branches()]
    order = {slot: place for place, slot in enumerate(teller.trail.path)}
    seen: set[tuple[int, str]] = set()
    spans = []
    for slot, label in sorted(related, key=lambda each: order.get(each[0], 0)):
        span = teller.span(slot, label)
        if span is not None and (span.line, label) not in seen:
            seen.add((span.line, label))
            spans.append(span)
    return Explanation(
        reason.id,
        reason.name,
        reason.title,
        verdict.cause,
        teller.span(verdict.insn, rows.label or ("not judged" if verdict.unknown else "refused here")),
        tuple(spans),
        rows.obligation,
        rows.advice,
        "" if verdict.unknown else _line(verdict.says),
        verdict.insn,
    )


def _line(says: str) -> str:
    """The last of Linux's lines that says why; states may follow it."""
    rows = [row for row in says.split("\n") if row and not row.startswith(("cur state:", "old state:"))]
    return rows[-1] if rows else ""


@dataclass(slots=True)
class _Notes:
    """What a kind of refusal has to say: places by slot, the obligation, advice."""

    related: list[tuple[int, str]]
    obligation: str = ""
    advice: str = ""
    label: str = ""


class _Teller:
    """Answers questions about one refusal."""

    def __init__(self, code: Code, verdict: Verdict) -> None:
        self.code = code
        self.verdict = verdict
        self.trail = Trail(code.insns, verdict.path)
        self.facts: Facts = dict(verdict.facts)

    def number(self, name: str, missing: int = 0) -> int:
        """A number of the refusal."""
        found = self.facts.get(name, missing)
        return found if isinstance(found, int) else missing

    @property
    def register(self) -> int:
        """The register that it is about."""
        return self.number("register", self._register_in_words())

    def _register_in_words(self) -> int:
        found = re.search(r"\bR(\d+)\b", self.verdict.says)
        return int(found[1]) if found else 0

    def source(self, slot: int) -> SourceLine | None:
        """The source line of an instruction."""
        return line_at(self.code.lines, slot)

    def span(self, slot: int, label: str) -> Span | None:
        """A place of the source."""
        line = self.source(slot)
        return Span(line.path, line.line, line.column, line.text, label) if line is not None else None

    def origin(self, register: int | None = None) -> tuple[int, str] | None:
        """Where the value of the register was made: (slot, what made it)."""
        place = self.trail.origin(self.register if register is None else register)
        if place is None:
            return None
        helper = self.trail.helper(place)
        return self.trail.path[place], f"the value comes from {helper}()" if helper else "the value is made here"

    def checks(self, register: int | None = None) -> list[tuple[int, str]]:
        """The last comparison of the register's value."""
        found = self.trail.comparisons(self.register if register is None else register)
        if not found:
            return []
        place, taken = found[0]
        return [(self.trail.path[place], f"the last comparison of it; here it was {'true' if taken else 'false'} for the jump")]

    def branches(self) -> list[tuple[int, str]]:
        """The last branches of the way."""
        out = []
        for place, taken in self.trail.comparisons()[:_MOST_BRANCHES]:
            out.append((self.trail.path[place], "this way: the jump is taken" if taken else "this way: the jump is not taken"))
        return out

    def name_at(self, pattern: str) -> str:
        """The first group of a pattern in the refused line's text, or ""."""
        line = self.source(self.verdict.insn)
        found = re.search(pattern, line.text) if line is not None else None
        return found[1] if found else ""

    def exit_word(self) -> str:
        """How a program of this type leaves early."""
        return {6: "return XDP_PASS;", 3: "return TC_ACT_OK;", 4: "return TC_ACT_OK;"}.get(self.code.prog_type, "return 0;")


def _no_notes(teller: _Teller) -> _Notes:
    origin = teller.origin() if re.search(r"\bR\d+\b", teller.verdict.says) else None
    return _Notes([origin] if origin else [])


def _packet(teller: _Teller) -> _Notes:
    start, size, proved = teller.number("start"), teller.number("size", 1), teller.number("proved")
    notes = _Notes([])
    origin = teller.origin()
    if origin:
        notes.related.append(origin)
    notes.related.extend(teller.checks())
    last = start + size - 1
    notes.obligation = f"bytes {start} to {last} from the pointer are needed, {proved} are proved to be there"
    pointer = teller.name_at(r"(\w+)\s*->") or teller.name_at(r"\*\s*(\w+)") or "p"
    notes.advice = f"if ((void *)({pointer} + 1) > data_end)\n    {teller.exit_word()}"
    if teller.verdict.reason == "packet-moved":
        notes.obligation += "; what was proved before it was moved by a variable does not count any more"
    return notes


def _void(teller: _Teller) -> _Notes:
    place = teller.trail.last_call(moves_packet=True)
    notes = _Notes([])
    if place is not None:
        notes.related.append((teller.trail.path[place], f"{teller.trail.helper(place)}() may move the packet: pointers into it are void"))
    notes.advice = "read data and data_end from the context again after the call, and compare again"
    return notes


def _number_as_pointer(teller: _Teller) -> _Notes:
    notes = _Notes([])
    origin = teller.origin()
    if origin:
        notes.related.append((origin[0], origin[1].replace("the value", "the number")))
    moved = teller.trail.last_call(moves_packet=True)
    if moved is not None and origin is None:
        return _void(teller)
    notes.obligation = "an address must be a pointer that the verifier knows: context, stack, map value, packet or a kernel object"
    notes.advice = "read memory that is reached by a number with bpf_probe_read_kernel() or BPF_CORE_READ()"
    return notes


def _maybe_null(teller: _Teller) -> _Notes:
    notes = _Notes([])
    origin = teller.origin()
    name = ""
    if origin:
        notes.related.append((origin[0], origin[1] + ", which may be null"))
        line = teller.source(origin[0])
        found = re.search(r"(\w+)\s*=", line.text) if line is not None else None
        name = found[1] if found else ""
    name = name or teller.name_at(r"\*\s*(\w+)") or teller.name_at(r"(\w+)\s*->") or "value"
    notes.obligation = "it must be known not to be null on every way to this line"
    notes.advice = f"if (!{name})\n    {teller.exit_word()}"
    return notes


def _bounds(teller: _Teller) -> _Notes:
    notes = _Notes([])
    origin = teller.origin()
    if origin:
        notes.related.append(origin)
    notes.related.extend(teller.checks())
    low, high, size, whole = (teller.number(name) for name in ("low", "high", "size", "whole"))
    if whole:
        notes.obligation = f"bytes {low} to {high + size - 1} may be reached, {whole} are there"
        if high + size - 1 == whole + size - 1:
            count = whole // max(size, 1)
            notes.advice = f"compare with >= {count} (or < {count} for what is allowed): the last index is {count - 1}"
        else:
            notes.advice = "bound the index from both sides before it is used, as an unsigned number"
    return notes


def _unbounded(teller: _Teller) -> _Notes:
    notes = _bounds(teller)
    notes.obligation = "a number that moves a pointer needs a lower and an upper bound"
    notes.advice = "compare the index as an unsigned number (if (i >= N) return 0;) or mask it (i &= N - 1) in the variable that is used"
    return notes


def _size(teller: _Teller) -> _Notes:
    notes = _Notes([])
    origin = teller.origin()
    if origin:
        notes.related.append((origin[0], origin[1].replace("the value", "the size")))
    notes.related.extend(teller.checks())
    low, high = teller.number("low"), teller.number("high")
    notes.obligation = f"the size may be {low} to {high}"
    notes.advice = {
        "negative-size": "make it unsigned and bound it from above: if (n > sizeof(buf)) n = sizeof(buf);",
        "unbounded-size": "bound it from above: if (n > sizeof(buf)) n = sizeof(buf);, or n &= sizeof(buf) - 1;",
        "zero-size": f"if (!n)\n    {teller.exit_word()}",
    }[teller.verdict.reason]
    return notes


def _uninitialised(teller: _Teller) -> _Notes:
    notes = _Notes([])
    register = teller.register
    place = teller.trail.writer(register)
    if place is not None:
        helper = teller.trail.helper(place)
        notes.related.append((teller.trail.path[place], f"{helper + '()' if helper else 'this call'} leaves r{register} without a value"))
        notes.advice = "keep what is needed after a call in r6 to r9 or on the stack (in C: this does not happen)"
    elif register == 0:
        notes.advice = "give the program a value to return on every way"
    else:
        notes.advice = "give the variable a value on every way to this line"
    return notes


def _stack_unread(teller: _Teller) -> _Notes:
    low, index = teller.number("low"), teller.number("index")
    notes = _Notes([], f"byte {low + index} of the stack is read, and nothing was written there on this way")
    notes.advice = "set the whole variable before it is used: __builtin_memset(&v, 0, sizeof(v)) also fills what lies between fields"
    return notes


def _stack_bounds(teller: _Teller) -> _Notes:
    notes = _Notes([*([origin] if (origin := teller.origin()) else []), *teller.checks()])
    last = teller.number("high") + teller.number("size") - 1
    notes.obligation = f"offsets {teller.number('low')} to {last} of the stack may be reached; it is -512 to -1"
    notes.advice = "bound the index to the array's size, or move a large buffer into a per-CPU array map"
    return notes


def _leak(teller: _Teller) -> _Notes:
    notes = _Notes([])
    acquired = teller.number("acquired", -1)
    if acquired >= 0:
        notes.related.append((acquired, "acquired here"))
        insn = teller.trail.slots[acquired]
        name = ": bpf_sk_release(sk);"
        if insn is not None and insn.src == CallSrc.KFUNC_CALL:
            name = " with the function that releases it"
        elif insn is not None:
            name = {131: ": bpf_ringbuf_discard(ptr, 0);", 198: ": bpf_ringbuf_discard_dynptr(&ptr, 0);"}.get(insn.imm, name)
        notes.advice = f"give it back before this return{name}"
    notes.obligation = "on every way to the end what was acquired must be given back once"
    return notes


def _loop(teller: _Teller) -> _Notes:
    notes = _Notes([], "something that the loop's condition depends on must change in each turn")
    notes.advice = "count with a variable that has a constant bound, or use bpf_loop() or bpf_for()"
    return notes


def _complex(teller: _Teller) -> _Notes:
    notes = _Notes([])
    visits = teller.facts.get("visits")
    if isinstance(visits, Sequence):
        for at, count in visits:
            notes.related.append((at, f"walked {count} times"))
    notes.obligation = "1,000,000 instructions are walked at most"
    notes.advice = "make the loop a bpf_loop(), or its body a global function, which is judged once"
    return notes


def _frames(teller: _Teller) -> _Notes:
    notes = _Notes([])
    frames = teller.facts.get("frames")
    if isinstance(frames, Sequence):
        for at, size in frames:
            notes.related.append((at, f"this function needs {size} bytes"))
    notes.obligation = "512 bytes of stack are shared by functions that call each other"
    notes.advice = "move a large buffer into a per-CPU array map"
    return notes


def _context(teller: _Teller) -> _Notes:
    return _Notes([], advice="use a field of the context that this program type has, in its own width")


def _returns(teller: _Teller) -> _Notes:
    origin = teller.origin(0)
    allowed = teller.facts.get("allowed")
    notes = _Notes([(origin[0], "the value that is returned is made here")] if origin else [])
    if isinstance(allowed, tuple):
        notes.obligation = f"{teller.number('low')} to {teller.number('high')} may be returned, {allowed[0]} to {allowed[1]} are allowed"
    return notes


_NOTES: Final[dict[str, Callable[[_Teller], _Notes]]] = {
    "packet-unproved": _packet,
    "packet-short": _packet,
    "packet-moved": _packet,
    "packet-void": _void,
    "not-a-pointer": _number_as_pointer,
    "maybe-null": _maybe_null,
    "moved-maybe-null": _maybe_null,
    "null-argument": _maybe_null,
    "out-of-bounds": _bounds,
    "unbounded-offset": _unbounded,
    "negative-size": _size,
    "unbounded-size": _size,
    "zero-size": _size,
    "uninitialised": _uninitialised,
    "uninitialised-stack": _stack_unread,
    "stack-bounds": _stack_bounds,
    "leaked-reference": _leak,
    "endless-loop": _loop,
    "too-complex": _complex,
    "stack-total": _frames,
    "context-access": _context,
    "return-value": _returns,
}
