"""A library with a USDT probe, as a compiler makes it of systemtap's macros."""

from pathlib import Path

from ebpf.toolchain import find_clang, run

PROBES = """
.globl work
.type work, @function
work:
990: nop
 mov %esi, %eax
 ret
.size work, .-work
.globl sem
.pushsection .probes,"aw"
sem: .2byte 0
.size sem, 2
.type sem, @object
.popsection
.pushsection .note.stapsdt,"?","note"
.balign 4
.4byte 992f-991f, 994f-993f, 3
991: .asciz "stapsdt"
992: .balign 4
993: .8byte 990b
.8byte _.stapsdt.base
.8byte sem
.asciz "ours"
.asciz "work"
.asciz "-4@%edi 8@$-7 -2@2(%rsi)"
994: .balign 4
.popsection
.pushsection .stapsdt.base,"aG","progbits",.stapsdt.base,comdat
.weak _.stapsdt.base
.hidden _.stapsdt.base
_.stapsdt.base: .space 1
.size _.stapsdt.base, 1
.popsection
"""


def library(folder: Path) -> str:
    """A library in `folder` with a function `work(int, short *)` and a probe `ours:work` in it."""
    source, object_, target = folder / "p.s", folder / "p.o", folder / "libp.so"
    source.write_text(PROBES)
    clang = find_clang(None)
    assert not run([*clang.command, "-target", "x86_64-linux-gnu", "-c", str(source), "-o", str(object_)]).returncode
    assert not run([*clang.linker, "-shared", "-o", str(target), str(object_)]).returncode
    return str(target)
