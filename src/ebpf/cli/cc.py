"""`ebpf cc`: compile eBPF C with the flags that tutorials print."""

from ebpf.cli.context import Context

USAGE = """usage: ebpf cc FILE.c [-o FILE.o] [-I DIR] [-D NAME[=VALUE]] [-O2] [-g] [-Wall] [-mcpu=v3] ...

Compile eBPF C to an object, with clang from PyPI and headers of ours (linux/*.h, bpf/bpf_helpers.h, bpf/bpf_tracing.h,
bpf/bpf_core_read.h, bpf/bpf_endian.h): nothing needs to be installed. -O2 -g -target bpf are the defaults."""


def run(context: Context, words: list[str]) -> int:
    """Compile and return 0; CompileError carries clang's diagnostics."""
    if not words or words == ["help"] or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    from ebpf.compile import cc

    result = cc(words)
    for note in result.notes:
        context.note(f"note: {note}")
    for diagnostic in result.diagnostics:
        context.note(str(diagnostic))
        if diagnostic.excerpt:
            context.note(diagnostic.excerpt)
    return 0
