"""What the log of level 2 says of a program before a path is walked, in Linux's words: its functions, and which registers live."""

from collections.abc import Callable

from ebpf.engine.verifier.graph import parts
from ebpf.engine.verifier.structure import Structure


def shape(structure: Structure, text: Callable[[int], str]) -> list[str]:
    """The lines; `text` gives an instruction's, with its slot."""
    loops = parts(structure)
    out = [f"func#{number} @{start}" for number, start in enumerate(structure.starts)]
    out.append("Live regs before insn:")
    for slot, insn in enumerate(structure.slots):
        if insn is None:
            continue
        live = "".join(str(at) if structure.live[slot] >> at & 1 else "." for at in range(10))
        loop = f"{loops[slot]:3} " if slot in loops else "    "
        number, _, rest = text(slot).partition(": ")
        out.append(f"{loop}{number:>3}: {live} {rest}")
    return out
