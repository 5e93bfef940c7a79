"""Why programs are refused: one row for each kind of mistake, with the number that documentation and tools know it by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Reason:
    """A kind of mistake: `id` never changes once published."""

    id: str
    name: str
    title: str


_ROWS: Final = (
    Reason("E0001", "packet-unproved", "a packet is read without a comparison with its end"),
    Reason("E0002", "packet-short", "the comparison with the packet's end covers too little"),
    Reason("E0003", "packet-moved", "a packet pointer was moved by a variable after it was compared"),
    Reason("E0004", "packet-void", "a packet pointer is used after a helper moved the packet"),
    Reason("E0005", "not-a-pointer", "memory is reached through a number"),
    Reason("E0006", "maybe-null", "a pointer that may be null is used"),
    Reason("E0007", "moved-maybe-null", "a pointer that may be null is moved"),
    Reason("E0008", "out-of-bounds", "an access may leave a map value or other memory"),
    Reason("E0009", "unbounded-offset", "a pointer is moved by a number without bounds"),
    Reason("E0010", "negative-size", "a size may be negative"),
    Reason("E0011", "unbounded-size", "a size has no upper bound"),
    Reason("E0012", "zero-size", "a size may be zero"),
    Reason("E0013", "uninitialised", "a register is read that nothing was written to"),
    Reason("E0014", "uninitialised-stack", "stack is read that nothing was written to"),
    Reason("E0015", "stack-bounds", "an access leaves the stack"),
    Reason("E0016", "leaked-reference", "what was acquired is not given back on every path"),
    Reason("E0017", "null-argument", "an argument that must not be null may be"),
    Reason("E0018", "endless-loop", "a loop may never end"),
    Reason("E0019", "too-complex", "there are too many paths to walk"),
    Reason("E0020", "stack-total", "functions that call each other need too much stack"),
    Reason("E0021", "helper-not-allowed", "programs of this type cannot call the helper"),
    Reason("E0022", "context-access", "a field of the context is used as it cannot be"),
    Reason("E0023", "return-value", "the program may return a value that has no meaning"),
    Reason("E0024", "function-arguments", "a function is called with what it does not take"),
    Reason("E0025", "locked-call", "a call is made where none is allowed"),
    Reason("E0026", "missing-information", "the program or the kernel lacks what this needs"),
    Reason("E0027", "invalid-instruction", "an instruction is none that the kernel knows"),
    Reason("E0028", "misaligned", "an access is not aligned to its size"),
    Reason("E0029", "pointer-arithmetic", "arithmetic of this kind on a pointer is not allowed"),
    Reason("E0030", "argument-type", "an argument is not of the type that the helper takes"),
    Reason("E0031", "read-only", "memory is written that may only be read, or the other way round"),
    Reason("E0032", "pointer-leak", "an address would become visible"),
    Reason("E0033", "control-flow", "control flow leaves the program or never gets somewhere"),
    Reason("E0034", "licence", "the helper is for programs with a GPL-compatible licence"),
    Reason("E0035", "reference-misuse", "a reference is given back that is none"),
    Reason("E0036", "lock-misuse", "locks, RCU or preemption sections do not match"),
    Reason("E0037", "mixed-pointers", "one instruction uses pointers of different kinds"),
    Reason("E0038", "map-type", "the helper does not take maps of this type"),
    Reason("E0039", "capability", "a privilege is missing"),
    Reason("E0099", "unknown", "this verifier cannot judge the program"),
)
REASONS: Final[Mapping[str, Reason]] = {row.name: row for row in _ROWS}
