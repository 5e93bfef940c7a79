"""Changes of the source that may mend a refusal. They are guesses by the words of the refused line: who offers one verifies it first."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ebpf.debug.explain import Explanation
from ebpf.engine.program import Code, Verdict
from ebpf.uapi import ProgType

_WORD: Final = r"[A-Za-z_]\w*"
_NO_NAMES: Final = frozenset({"sizeof", "return", "if", "while", "for", "void", "struct", "char", "int", "long"})
_LEAVES: Final = {ProgType.XDP: "return XDP_PASS;", ProgType.SCHED_CLS: "return 0;"}
#: How what a helper acquired is given back.
_GIVES_BACK: Final = {
    "bpf_ringbuf_reserve": "bpf_ringbuf_discard({}, 0);",
    "bpf_sk_lookup_tcp": "bpf_sk_release({});",
    "bpf_sk_lookup_udp": "bpf_sk_release({});",
    "bpf_skc_lookup_tcp": "bpf_sk_release({});",
    "bpf_task_acquire": "bpf_task_release({});",
    "bpf_task_from_pid": "bpf_task_release({});",
    "bpf_cgroup_from_id": "bpf_cgroup_release({});",
    "bpf_cgroup_acquire": "bpf_cgroup_release({});",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal with the text it belongs to. `line` counts from 1."""

    rows: list[str]
    line: int
    code: Code
    verdict: Verdict
    why: Explanation

    @property
    def text(self) -> str:
        """The refused line."""
        return self.rows[self.line - 1]

    @property
    def above(self) -> str:
        """What stands before it, and the line itself."""
        return _joined(self.rows[: self.line])

    @property
    def leave(self) -> str:
        """How the function around the line leaves early."""
        for at in range(self.line - 1, -1, -1):
            if re.match(r"[\w_].*\)\s*\{?\s*$", self.rows[at]):
                if re.search(r"\bvoid\s+\w+\(", self.rows[at]):
                    return "return;"
                break
        return _LEAVES.get(ProgType(self.code.prog_type), "return 0;")

    def fact(self, name: str) -> int:
        """A number of the refusal."""
        found = self.verdict.facts.get(name, 0)
        return found if isinstance(found, int) else 0

    def before(self, *added: str, line: int | None = None) -> str:
        """The text with lines added before one, at its depth."""
        at = (line or self.line) - 1
        depth = re.match(r"\s*", self.rows[at])
        lead = depth[0] if depth else ""
        step = "\t" if "\t" in lead or not lead else "    "
        new = [lead + each.replace("\t", step) for each in added]
        return _joined([*self.rows[:at], *new, *self.rows[at:]])

    def instead(self, new: str, line: int | None = None) -> str:
        """The text with another line in place of one."""
        at = (line or self.line) - 1
        return _joined([*self.rows[:at], new, *self.rows[at + 1 :]])


def _joined(rows: list[str]) -> str:
    return "\n".join(rows)


def fixes(text: str, code: Code, verdict: Verdict, why: Explanation) -> Iterator[str]:
    """Texts in which the refusal may be mended, the likeliest first."""
    if why.span is None:
        return
    rows = text.split("\n")
    if not 0 < why.span.line <= len(rows):
        return
    refused = Refused(rows, why.span.line, code, verdict, why)
    yield from _WAYS.get(why.name, _none)(refused)


def _none(refused: Refused) -> Iterator[str]:
    del refused
    return iter(())


def _pointers(text: str) -> list[str]:
    """Names that a line reaches memory through."""
    out = re.findall(rf"({_WORD})\s*->", text) + re.findall(rf"\*\s*({_WORD})", text) + re.findall(rf"({_WORD})\s*\[", text)
    return list(dict.fromkeys(name for name in out if name not in _NO_NAMES))


def _names(text: str) -> list[str]:
    """Variables that a line names."""
    found = re.findall(rf"(?<![\w.>])({_WORD})\b(?!\s*\()", text)
    return list(dict.fromkeys(name for name in found if name not in _NO_NAMES))


def _check(condition: str, leave: str) -> tuple[str, str]:
    return f"if ({condition})", f"\t{leave}"


def _context(refused: Refused) -> str:
    """What the function calls its context."""
    found = re.findall(rf"struct (?:xdp_md|__sk_buff)\s*\*\s*({_WORD})", refused.above)
    return str(found[-1]) if found else "ctx"


def _end_of_packet(refused: Refused) -> str:
    """What the function calls the packet's end."""
    found = re.findall(rf"({_WORD})\s*=\s*[^;,]*->\s*data_end\b", refused.above)
    if found:
        return str(found[-1])
    return "data_end" if "data_end" in refused.above else f"(void *)(long){_context(refused)}->data_end"


def _packet(refused: Refused) -> Iterator[str]:
    end, last = _end_of_packet(refused), refused.fact("start") + refused.fact("size")
    for name in _pointers(refused.text):
        yield refused.before(*_check(f"(void *)({name} + 1) > {end}", refused.leave))
        if last > 0:
            yield refused.before(*_check(f"(void *){name} + {last} > {end}", refused.leave))


def _packet_void(refused: Refused) -> Iterator[str]:
    """Only a pointer to the packet's beginning can be made again without knowing more."""
    context = _context(refused)
    for name in _pointers(refused.text):
        if re.search(rf"\b{name}\s*=\s*(?:\([^()]*\)\s*)*(?:data|{context}->data)\s*;", refused.above):
            yield refused.before(
                f"{name} = (void *)(long){context}->data;",
                *_check(f"(void *)({name} + 1) > (void *)(long){context}->data_end", refused.leave),
            )


def _null(refused: Refused) -> Iterator[str]:
    origin = [span for span in refused.why.related if "comes from" in span.label]
    made = [found[1] for span in origin if (found := re.search(rf"({_WORD})\s*=", span.text))]
    for name in dict.fromkeys([*made, *_pointers(refused.text), *_names(refused.text)]):
        yield refused.before(*_check(f"!{name}", refused.leave))


def _index(refused: Refused) -> Iterator[str]:
    for array, index in re.findall(rf"((?:{_WORD}(?:->|\.))*{_WORD})\[\s*({_WORD})\s*\]", refused.text):
        yield refused.before(*_check(f"{index} >= sizeof({array}) / sizeof({array}[0])", refused.leave))
        yield refused.before(*_check(f"{index} < 0 || {index} >= sizeof({array}) / sizeof({array}[0])", refused.leave))


def _arguments(text: str) -> list[str]:
    """The arguments of the first call of a helper in a line."""
    found = re.search(r"\bbpf_\w+\s*\(", text)
    if not found:
        return []
    out, depth, word = [], 0, ""
    for letter in text[found.end() :]:
        if letter == ")" and not depth:
            break
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            out.append(word.strip())
            word = ""
        else:
            word += letter
    return [*out, word.strip()]


def _size(refused: Refused) -> Iterator[str]:
    arguments, at = _arguments(refused.text), refused.fact("register") - 1
    if not 0 < at < len(arguments):
        return
    size, memory = arguments[at], arguments[at - 1].lstrip("&")
    if not re.fullmatch(_WORD, size):
        return
    if refused.why.name == "zero-size":
        yield refused.before(*_check(f"!{size}", refused.leave))
        return
    yield refused.before(*_check(f"{size} > sizeof({memory})", f"{size} = sizeof({memory});"))
    yield refused.before(*_check(f"{size} < 0 || {size} > sizeof({memory})", refused.leave))


def _stack_unwritten(refused: Refused) -> Iterator[str]:
    """The variables that the line names, filled where they are declared."""
    for name in dict.fromkeys([*re.findall(rf"&\s*({_WORD})", refused.text), *_names(refused.text)]):
        declared = re.compile(rf"\s*(?:{_WORD}[\s*]+)+{name}\s*(?:\[[^\]]*\])*\s*(?:=[^;]*)?;")
        for at in range(refused.line - 1, 0, -1):
            if declared.match(refused.rows[at - 1]):
                yield refused.before(f"__builtin_memset(&{name}, 0, sizeof({name}));", line=at + 1)
                break


def _uninitialised(refused: Refused) -> Iterator[str]:
    for name in _names(refused.text):
        for at in range(refused.line - 1, 0, -1):
            found = re.match(rf"(\s*(?:{_WORD}[\s*]+)+{name});(.*)$", refused.rows[at - 1])
            if found:
                yield refused.instead(f"{found[1]} = 0;{found[2]}", at)
                break


def _leak(refused: Refused) -> Iterator[str]:
    acquired = [span for span in refused.why.related if span.label == "acquired here"]
    for span in acquired:
        found = re.search(rf"({_WORD})\s*=\s*(bpf_\w+)\s*\(", span.text)
        if found and found[2] in _GIVES_BACK:
            yield from _before_returns(refused, span.line, _GIVES_BACK[found[2]].format(found[1]))


def _before_returns(refused: Refused, first: int, statement: str) -> Iterator[str]:
    """The statement before one of the returns that follow a line, up to the function's end."""
    for at in range(first + 1, len(refused.rows) + 1):
        row = refused.rows[at - 1]
        if row.startswith("}"):
            return
        found = re.search(r"\breturn\b[^;]*;", row)
        if found and row.strip().startswith("return"):
            alone = not re.search(r"[{;}]\s*$", refused.rows[at - 2])
            if alone:
                yield refused.instead(row.replace(found[0], f"{{ {statement} {found[0]} }}"), at)
            else:
                yield refused.before(statement, line=at)
        elif found:
            yield refused.instead(row.replace(found[0], f"{{ {statement} {found[0]} }}"), at)


def _returns(refused: Refused) -> Iterator[str]:
    allowed = refused.verdict.facts.get("allowed")
    found = re.search(r"\breturn\s+([^;]+);", refused.text)
    if not found or not isinstance(allowed, tuple):
        return
    low, high = allowed
    if (low, high) == (0, 1):
        yield refused.instead(refused.text.replace(found[0], f"return !!({found[1]});"))
    if low == high:
        yield refused.instead(refused.text.replace(found[0], f"return {low};"))
    elif low == 0 and not high & (high + 1):
        yield refused.instead(refused.text.replace(found[0], f"return ({found[1]}) & {high};"))


def _locked_call(refused: Refused) -> Iterator[str]:
    """The call, before the lock is taken."""
    for at in range(refused.line - 1, 0, -1):
        if "bpf_spin_lock(" in refused.rows[at - 1]:
            rows = refused.rows
            yield _joined([*rows[: at - 1], refused.text, *rows[at - 1 : refused.line - 1], *rows[refused.line :]])
            return


def _lock(refused: Refused) -> Iterator[str]:
    unlock = re.search(r"bpf_spin_unlock\(([^;]+)\);", refused.text)
    if unlock:
        yield refused.before(f"bpf_spin_lock({unlock[1]});")
    locks = [at for at in range(refused.line, 0, -1) if "bpf_spin_lock(" in refused.rows[at - 1]]
    ends = {"bpf_rcu_read_lock": "bpf_rcu_read_unlock();", "bpf_preempt_disable": "bpf_preempt_enable();"}
    for at in locks[:1]:
        held = re.search(r"bpf_spin_lock\(([^;]+)\);", refused.rows[at - 1])
        if held:
            yield from _before_returns(refused, at, f"bpf_spin_unlock({held[1]});")
    for begin, end in ends.items():
        for at in range(len(refused.rows), 0, -1):
            if f"{begin}(" in refused.rows[at - 1]:
                yield from _before_returns(refused, at, end)


def _number_as_pointer(refused: Refused) -> Iterator[str]:
    found = re.match(rf"(\s*)({_WORD})\s*=\s*\*\s*({_WORD});", refused.text)
    if found:
        yield refused.instead(f"{found[1]}bpf_probe_read_kernel(&{found[2]}, sizeof({found[2]}), {found[3]});")
    made = re.match(rf"(\s*)((?:{_WORD}\s+)+)({_WORD})\s*=\s*\*\s*({_WORD});", refused.text)
    if made:
        lead, kind, name, pointer = made.groups()
        yield refused.instead(f"{lead}{kind}{name} = 0;\n{lead}bpf_probe_read_kernel(&{name}, sizeof({name}), {pointer});")


def _bounded_loop(refused: Refused) -> Iterator[str]:
    """The loop, with an end that it surely comes to."""
    for at in range(refused.line, max(refused.line - 4, 0), -1):
        row = refused.rows[at - 1]
        found = re.search(r"\bwhile\s*\(", row)
        if found:
            condition, rest = _in_parentheses(row[found.end() :])
            yield refused.instead(f"{row[: found.start()]}for (int turn = 0; turn < 1000 && ({condition}); turn++){rest}", at)
            return


def _in_parentheses(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that ends it, and what follows."""
    depth = 0
    for at, letter in enumerate(text):
        if letter == ")" and not depth:
            return text[:at], text[at + 1 :]
        depth += (letter == "(") - (letter == ")")
    return text, ""


#: Helpers that do the same for programs of another type.
_STAND_INS: Final = {
    "bpf_skb_load_bytes": "bpf_xdp_load_bytes",
    "bpf_xdp_load_bytes": "bpf_skb_load_bytes",
    "bpf_xdp_store_bytes": "bpf_skb_store_bytes",
    "bpf_probe_read": "bpf_probe_read_kernel",
    "bpf_probe_read_str": "bpf_probe_read_kernel_str",
}


def _stand_in(refused: Refused) -> Iterator[str]:
    for name in re.findall(r"\b(bpf_\w+)\s*\(", refused.text):
        if name in _STAND_INS:
            yield refused.instead(re.sub(rf"\b{name}\b", _STAND_INS[name], refused.text))


def _writable(refused: Refused) -> Iterator[str]:
    """The constants that the function names, as variables."""
    for at, row in enumerate(refused.rows, 1):
        found = re.match(rf"(?:static\s+)?const\s+(?:volatile\s+)?[\w\s]*?({_WORD})\s*(?:\[[^\]]*\])?\s*=", row)
        if found and re.search(rf"\b{found[1]}\b", _joined(refused.rows[max(refused.line - 8, 0) : refused.line])):
            yield refused.instead(re.sub(r"\bconst\s+", "", row, count=1), at)


def _given_back_twice(refused: Refused) -> Iterator[str]:
    """The second of two that give back, left out."""
    if re.match(r"\s*bpf_(?:ringbuf_(?:submit|discard)(?:_dynptr)?|sk_release)\([^;]*;\s*(?://.*)?$", refused.text):
        yield _joined([*refused.rows[: refused.line - 1], *refused.rows[refused.line :]])


def _other_map(refused: Refused) -> Iterator[str]:
    """Another map of the object, of the type that the helper takes."""
    named = re.search(rf"\bbpf_\w+\s*\(\s*&({_WORD})", refused.text)
    if named:
        for name in re.findall(rf"^\}}\s*({_WORD})\s+SEC\(\"\.maps\"\)", _joined(refused.rows), re.MULTILINE):
            if name != named[1]:
                yield refused.instead(refused.text.replace(f"&{named[1]}", f"&{name}", 1))


_WAYS: Final[Mapping[str, Callable[[Refused], Iterator[str]]]] = {
    "packet-unproved": _packet,
    "packet-short": _packet,
    "packet-moved": _packet,
    "packet-void": _packet_void,
    "not-a-pointer": _number_as_pointer,
    "maybe-null": _null,
    "moved-maybe-null": _null,
    "null-argument": _null,
    "out-of-bounds": _index,
    "unbounded-offset": _index,
    "stack-bounds": _index,
    "negative-size": _size,
    "unbounded-size": _size,
    "zero-size": _size,
    "uninitialised": _uninitialised,
    "uninitialised-stack": _stack_unwritten,
    "leaked-reference": _leak,
    "return-value": _returns,
    "locked-call": _locked_call,
    "lock-misuse": _lock,
    "endless-loop": _bounded_loop,
    "helper-not-allowed": _stand_in,
    "read-only": _writable,
    "argument-type": _given_back_twice,
    "map-type": _other_map,
}
