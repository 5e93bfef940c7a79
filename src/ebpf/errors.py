"""Every exception that ebpf raises.

    EbpfError
    ├── CompileError        the C text does not compile; .diagnostics
    ├── FormatError         a file is not what it should be (ELF, BTF, pcap); .path .where .why
    ├── VerifierError       a program was refused; .program .insn .source .cause .log
    ├── KernelError         a call at the seam failed; .call .errno .why
    │   └── PrivilegeError  ... for want of a capability; .capability
    ├── AttachError         a program could not be attached; .target .why .hint
    ├── NotFoundError       a name means nothing here; .kind .name .near
    ├── NotSupportedError   what was asked for is not offered here; .what .why .hint
    └── UsageError          the request itself makes no sense

The text of each is one line: what, where, why, in lower case. The commands print it and, where there is one, `hint`.
`errno` is the number that libbpf's functions give for it, `program` the program that it is about, where that is known.
"""

import errno as _errno
import os
from collections.abc import Iterable, Sequence

from ebpf.records import record


class EbpfError(Exception):
    """Anything that ebpf refuses to do, as one line."""

    hint: str | None = None
    errno: int = _errno.EINVAL
    program: str = ""

    def __str__(self) -> str:
        """One line, whatever names of a damaged file it quotes."""
        text = super().__str__()
        # Some of bpftool's own lines end with an empty one.
        return text if text.rstrip("\n").isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@record
class Diagnostic:
    """One message of the compiler; line and column count from 1, 0 is unknown."""

    severity: str
    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    excerpt: str = ""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}: " if self.line else (f"{self.path}: " if self.path else "")
        return f"{place}{self.severity}: {self.message}"


class CompileError(EbpfError):
    """The C text does not compile."""

    def __init__(self, diagnostics: Sequence[Diagnostic], output: str = "") -> None:
        self.diagnostics = tuple(diagnostics)
        self.output = output
        errors = [d for d in self.diagnostics if d.severity in ("error", "fatal error")]
        super().__init__(str(errors[0]) if errors else (output.strip().splitlines() or ["the compiler failed"])[0])


class FormatError(EbpfError):
    """A file is not what it should be: `path`, `where` in it, and `why`."""

    def __init__(self, why: str, *, path: str = "", where: str = "") -> None:
        self.path, self.where, self.why = path, where, why
        super().__init__(": ".join(part for part in (path, where, why) if part))


class VerifierError(EbpfError):
    """A program was refused at instruction `insn` (-1: as a whole) for `cause`, with `errno`; `log` is the verifier's text."""

    def __init__(self, program: str, cause: str, *, insn: int = -1, source: str = "", log: str = "", errno: int = _errno.EACCES) -> None:
        self.program, self.cause, self.insn, self.source, self.log, self.errno = program, cause, insn, source, log, errno
        at = f" at insn {insn}" if insn >= 0 else ""
        place = f" ({source})" if source else ""
        super().__init__(f"program {program!r} refused{at}{place}: {cause}")


#: What Python does not call as Linux does.
_NAMES = {_errno.EOPNOTSUPP: "EOPNOTSUPP", 524: "ENOTSUPP"}


def errno_name(number: int) -> str:
    """The name of an errno as Linux's own tools print it; its number if it has none."""
    return _NAMES.get(number) or _errno.errorcode.get(number, f"errno {number}")


class KernelError(EbpfError):
    """The call `call` failed with `errno`; `log` is the verifier's or BTF checker's text if there is any.

    `done` is how many elements a batch had moved before it failed.
    """

    def __init__(self, errno: int, call: str, why: str = "", *, log: str = "", done: int = 0) -> None:
        self.errno, self.call, self.why, self.log, self.done = errno, call, why, log, done
        super().__init__(f"{call}: {errno_name(errno)}: {why or os.strerror(errno).lower()}")


class PrivilegeError(KernelError):
    """A call failed for want of `capability`."""

    def __init__(self, errno: int, call: str, capability: str, why: str = "") -> None:
        self.capability = capability
        super().__init__(errno, call, why or f"needs {capability}")


class AttachError(EbpfError):
    """A program could not be attached to `target`."""

    def __init__(self, target: str, why: str, *, hint: str | None = None) -> None:
        self.target, self.why, self.hint = target, why, hint
        super().__init__(f"cannot attach to {target}: {why}")


class NotFoundError(EbpfError):
    """The name `name` of a `kind` of thing means nothing here; `near` are names like it."""

    def __init__(self, kind: str, name: str, *, where: str = "", near: Sequence[str] = (), errno: int = _errno.ENOENT) -> None:
        self.kind, self.name, self.where, self.near, self.errno = kind, name, where, tuple(near), errno
        text = f"no {kind} {name!r}" + (f" in {where}" if where else "")
        if self.near:
            text += "; did you mean " + " or ".join(repr(n) for n in self.near) + "?"
        super().__init__(text)


def near(name: str, names: Iterable[str], *, count: int = 2, cutoff: float = 0.6) -> list[str]:
    """The names that are most like one that is not there; `cutoff` 1 takes only the same."""
    # It is imported by who is in want of it: most commands are not.
    from difflib import get_close_matches

    return get_close_matches(name, list(names), n=count, cutoff=cutoff)


class NotSupportedError(EbpfError):
    """`what` is not offered here, for the reason `why`; `hint` names the way out."""

    errno = _errno.EOPNOTSUPP

    def __init__(self, what: str, why: str, *, hint: str | None = None) -> None:
        self.what, self.why, self.hint = what, why, hint
        super().__init__(f"{what}: {why}" + (f". {hint}" if hint else ""))


class UsageError(EbpfError):
    """The request itself makes no sense."""
