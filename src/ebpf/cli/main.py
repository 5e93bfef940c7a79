"""The entry of the `ebpf` command: options before the noun, the table of nouns, and one line for every error."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ebpf.cli.context import HELP_KERNELS, Context, Run
from ebpf.cli.jsonw import dumps
from ebpf.cli.noun import Missing, Misuse, Silent, Worded
from ebpf.cli.usage import grammar
from ebpf.cli.words import match, split_flags
from ebpf.errors import CompileError, EbpfError, UsageError, VerifierError
from ebpf.records import record


@record
class Noun:
    """A row of the command table: the module that serves it, its summary, and whether it speaks bpftool's grammar."""

    name: str
    summary: str
    bpftool: bool = False

    def load(self) -> Run:
        """Import the module (only the one that is needed: starting stays fast)."""
        run: Run = import_module(f"ebpf.cli.{self.name}").run
        return run


_ROWS = (
    Noun("run", "run a BCC script, with a command whose events it sees: run SCRIPT [ARGS] [-- COMMAND...]"),
    Noun("cc", "compile eBPF C: cc FILE.bpf.c [-o FILE.o] [clang's options]"),
    Noun("verify", "judge the programs of an object or C file: verify FILE"),
    Noun("explain", "say what a kind of refusal means: explain [E0006|maybe-null]"),
    Noun("prog", "list, load, dump and run programs", bpftool=True),
    Noun("map", "list, dump, look up and update maps", bpftool=True),
    Noun("link", "list, pin and detach links", bpftool=True),
    Noun("net", "attach programs to network interfaces", bpftool=True),
    Noun("btf", "list type information and print it, raw or as C", bpftool=True),
    Noun("gen", "link objects, or make a typed Python module of one: gen object|python", bpftool=True),
    Noun("vm", "run raw bytecode: vm run FILE.bin, vm conformance"),
    Noun("lab", "open a shell where the tutorial's commands work as they stand: lab [-- COMMAND...]"),
    Noun("daemon", "look after ebpfd, which keeps the user kernel's pinned objects: daemon status|stop|log"),
    Noun("doctor", "say what this machine lets eBPF do, and what fills each gap"),
    Noun("tour", "show the whole path once: C, bytecode, verifier, events, maps, packets"),
    Noun("batch", "carry out commands of a file: batch file FILE", bpftool=True),
    Noun("completion", "print a script that completes these commands: completion bash|zsh|fish"),
    Noun("version", "print the versions", bpftool=True),
)
NOUNS = {row.name: row for row in _ROWS}

USAGE = f"""usage: ebpf [--kernel {HELP_KERNELS}] [--strace] [-j|--json] [-p|--pretty] NOUN ...

{chr(10).join(f"  {row.name:<8} {row.summary}" for row in _ROWS)}

  ebpf NOUN help says more. --kernel (or EBPF_KERNEL) chooses ours in user space, or Linux's; the default is Linux's where
  bpf(2) is permitted. --strace prints each bpf() call as strace would."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    if os.path.basename(sys.argv[0]) == "bpftool":
        from ebpf.cli.bpftool import main as bpftool

        return bpftool(argv)
    arguments = list(sys.argv[1:] if argv is None else argv)
    context = Context()

    def carry_out() -> int:
        rest = _options(context, arguments)
        if not rest:
            print(USAGE)
            return 0
        noun = NOUNS.get(rest[0]) or match(rest[0], {n: row for n, row in NOUNS.items() if row.bpftool})
        if noun is None:
            raise UsageError(f"unknown command '{rest[0]}'; ebpf help lists them")
        words = rest[1:]
        context.noun = rest[0]
        context.bpftool = noun.bpftool
        if noun.bpftool or noun.name in ("daemon", "vm"):
            words, flags = split_flags(words)
            for flag in flags:
                setattr(context, flag, True)
            context.json = context.json or context.pretty
        return noun.load()(context, words)

    return guarded(context, carry_out)


def guarded(context: Context, carry_out: Callable[[], int]) -> int:
    """Carry out a command: what goes wrong becomes one line and an exit status, and nothing stays open."""
    try:
        status = report_any(context, carry_out)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left (`ebpf ... | head`): nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        import signal

        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    finally:
        context.close()


def _options(context: Context, argv: list[str]) -> list[str]:
    """Take the options before the noun off `argv`; the rest is returned (empty: only help was asked for)."""
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name == "--kernel":
            if not equals and not rest:
                raise UsageError(f"--kernel needs a name: {HELP_KERNELS}")
            context.kernel_name = value if equals else rest.pop(0)
            if context.kernel_name not in HELP_KERNELS.split("|"):
                raise UsageError(f"no kernel '{context.kernel_name}'; there is {HELP_KERNELS.replace('|', ', ')}")
        elif word == "--strace":
            context.strace = True
        elif word in ("-h", "--help"):
            return []
        elif word in ("-V", "--version"):
            return ["version", *rest]
        else:
            words, flags = split_flags([word])
            if words:
                raise UsageError(f"unrecognized option '{word}'; ebpf help lists them")
            for flag in flags:
                setattr(context, flag, True)
    context.json = context.json or context.pretty
    return [] if rest[:1] == ["help"] else rest


def report_any(context: Context, carry_out: Callable[[], int]) -> int:
    """Carry out a command: what goes wrong becomes one line and an exit status."""
    try:
        return carry_out()
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except EbpfError as error:
        return report(context, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return report(context, EbpfError(f"{where}{(error.strerror or str(error)).lower()}"))


def report(context: Context, error: EbpfError) -> int:
    """Print an error as one line, with the compiler's or verifier's text where there is one; return the exit status."""
    under_its_name = context.command == "bpftool"
    if under_its_name and isinstance(error, Worded):
        error = UsageError(error.theirs)
    if isinstance(error, Silent) or (isinstance(error, Missing) and under_its_name):
        if context.json:
            context.write("")
    elif isinstance(error, Misuse) and not under_its_name:
        text = f"{error.brief}; ebpf {error.noun} help"
        if context.json:
            context.write(dumps({"error": text}, pretty=context.pretty))
        else:
            context.note(f"Error: {text}")
    elif isinstance(error, Misuse) and not context.json:
        context.note((f"Error: {error}\n" if str(error) else "") + grammar(context.command, error.noun, context.noun).removesuffix("\n"))
    elif isinstance(error, Misuse) and not str(error):
        context.write("null")
    elif context.json:
        context.write(dumps({"error": str(error)}, pretty=context.pretty))
    elif isinstance(error, CompileError):
        for diagnostic in error.diagnostics:
            context.note(str(diagnostic))
            if diagnostic.excerpt:
                context.note(diagnostic.excerpt)
        if not error.diagnostics:
            context.note(f"Error: {error}")
    else:
        if isinstance(error, VerifierError) and error.log and context.debug:
            context.note(error.log.rstrip())
        context.note(f"Error: {error}")
    if error.hint and not context.json and error.hint not in str(error):
        context.note(f"  hint: {error.hint}")
    if not context.bpftool:
        return 2 if isinstance(error, UsageError) else 1
    return int(getattr(error, "status", 255))


if __name__ == "__main__":
    sys.exit(main())
