"""Types as a header that programs include: what they need around them so that layouts are found out when a program is loaded."""

from collections.abc import Iterable, Iterator, Mapping

from ebpf.btf.c import CPrinter
from ebpf.btf.parse import Btf
from ebpf.btf.selection import FASTCALL

_HEAD = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

#ifndef __ksym
#define __ksym __attribute__((section(".ksyms")))
#endif

#ifndef __weak
#define __weak __attribute__((weak))
#endif

#ifndef __bpf_fastcall
#if __has_attribute(bpf_fastcall)
#define __bpf_fastcall __attribute__((bpf_fastcall))
#else
#define __bpf_fastcall
#endif
#endif

"""
_TAIL = """\
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */"""
_FUNCTIONS = "\n/* BPF kfuncs */\n#ifndef BPF_NO_KFUNC_PROTOTYPES\n"


def c_header(btf: Btf, types: Iterable[int], functions: Mapping[int, set[str]] | None, *, enums: Iterable[int] = ()) -> Iterator[str]:
    """The text of vmlinux.h with the definitions of `types`, the enumerators of nameless `enums`, and prototypes of `functions`.

    `functions` have their tags; with None there is no part for them.
    """
    printer = CPrinter(btf)
    yield _HEAD
    yield from printer.definitions(types)
    yield from printer.enumerators(enums)
    if functions is not None:
        yield _FUNCTIONS
        for name, id_ in sorted((btf.name(id_), id_) for id_ in functions):
            fast = " __bpf_fastcall" if FASTCALL in functions[id_] else ""
            yield f"extern {printer.declaration(btf.type(id_).ref, name)} __weak __ksym{fast};\n"
        yield "#endif\n\n"
    yield _TAIL + "\n"
