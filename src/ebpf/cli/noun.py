"""What bpftool's nouns have in common: a verb out of a table, the grammar on request, names of kinds."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

from ebpf.cli.context import Context
from ebpf.cli.usage import grammar
from ebpf.cli.words import Words, match
from ebpf.errors import EbpfError, KernelError, UsageError
from ebpf.sys.calls import ObjPin

Verb = Callable[[Context, Words], int]


class Misuse(UsageError):
    """Words that a noun's grammar ("": the whole command's) has no place for: it is printed, after what was wrong if that is known."""

    def __init__(self, noun: str, what: str = "", *, brief: str = "") -> None:
        self.noun = noun
        # Under its own name `ebpf` says in one line what bpftool answers with its grammar.
        self.brief = brief or what or f"words are missing or not in the grammar of '{noun}'"
        super().__init__(what)


class Worded(UsageError):
    """A wrong request of which we say more than bpftool: `theirs` is what that says."""

    def __init__(self, ours: str, theirs: str) -> None:
        self.theirs = theirs
        super().__init__(ours)


class Missing(UsageError):
    """No object has this name or tag: bpftool says so by its status alone."""

    def __init__(self, what: str, status: int = 255) -> None:
        self.status = status
        super().__init__(what)


class Silent(UsageError):
    """A wrong request of which all is said already."""


class Refused(UsageError):
    """A wrong request whose exit status is not 255."""

    def __init__(self, what: str, status: int) -> None:
        self.status = status
        super().__init__(what)


class Failure(EbpfError):
    """What a kernel refused, in bpftool's words, and the exit status: its errno, unless another is given."""

    def __init__(self, what: str, number: int, *, status: int | None = None) -> None:
        self.status = -number & 0xFF if status is None else status
        super().__init__(f"{what}: {os.strerror(number)}")


_PINS = "/sys/fs/bpf"


def prepare_pin(context: Context, path: str, *, folder: bool = False) -> None:
    """See to it that a pin can be made at `path`: /sys/fs/bpf is mounted at need (and nothing else), `folder`: its folder is made.

    Raises UsageError where it cannot be made.
    """
    kernel = context.kernel()
    roots = kernel.pin_roots()
    if roots is None:
        return
    parent = os.path.dirname(os.path.abspath(path))
    if not any(parent == root or parent.startswith(root.rstrip("/") + "/") for root in roots):
        if context.nomount:
            raise UsageError("no BPF file system found, not mounting it due to --nomount option")
        if parent != _PINS and not parent.startswith(_PINS + "/"):
            raise UsageError(f"can't pin BPF object: '{parent}' is not on a BPF file system; pin it below {_PINS}")
        try:
            kernel.mount_pins()
        except OSError as error:
            raise UsageError(f"can't mount BPF file system to pin the object '{path}': {error.strerror}") from error
    if folder:
        os.makedirs(parent, mode=0o700, exist_ok=True)
    elif os.path.lexists(path):
        raise UsageError(f"can't pin BPF object: path '{path}' already exists")
    elif not os.path.isdir(parent):
        raise UsageError(f"can't pin BPF object: dir '{parent}' doesn't exist")


def pin_object(context: Context, path: str, fd: int, *, folder: bool = False) -> None:
    """Give an object a path that nothing has yet."""
    prepare_pin(context, path, folder=folder)
    try:
        context.kernel().bpf(ObjPin(path, fd))
    except KernelError as error:
        if error.errno == errno.EEXIST:
            raise UsageError(f"can't pin BPF object: path '{path}' already exists") from error
        raise Failure(f"can't pin the object ({path})", error.errno, status=255) from error


def dispatch(context: Context, argv: list[str], noun: str, verbs: Mapping[str, Verb]) -> int:
    """Carry out one command of a noun; without a verb it is the table's first."""
    words = Words(argv)
    if not words:
        return next(iter(verbs.values()))(context, words)
    verb = words.take("command")
    action = match(verb, verbs)
    if action is None:
        raise Misuse(noun, brief=f"unknown command '{noun} {verb}'")
    return action(context, words)


def later(module: str, name: str) -> Verb:
    """A verb of a module that is imported when the verb is used."""

    def carry_out(context: Context, words: Words) -> int:
        done: int = getattr(import_module(module), name)(context, words)
        return done

    return carry_out


@contextmanager
def status(number: int) -> Iterator[None]:
    """Wrong requests in this block end with another status than 255."""
    try:
        yield
    except (Misuse, Missing, Refused):
        raise
    except UsageError as error:
        raise Refused(str(error), number) from error


def help_verb(noun: str) -> Verb:
    """The verb that prints a noun's grammar."""

    def usage(context: Context, words: Words) -> int:
        del words
        if context.json:
            done(context)
        else:
            context.note(grammar(context.command, noun, context.noun).removesuffix("\n"))
        return 0

    return usage


def done(context: Context) -> None:
    """A command without output says null in JSON, and nothing else."""
    if context.json:
        context.write("null")
