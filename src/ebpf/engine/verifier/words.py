"""How older releases say the same: the newest's words, and theirs."""

import re
from typing import Final

from ebpf.engine.verifier.rules import Rules

#: Of all before 6.18.
_BEFORE: Final = (
    (re.compile(r"\n(BPF_EXIT instruction in main prog|bpf_throw) would lead to reference leak$"), ""),
    (re.compile(r"^BPF_LD_.* would lead to reference leak$", re.M), "BPF_LD_[ABS|IND] cannot be mixed with socket references"),
)
_MEMORY: Final = "mem, ringbuf_mem, buf, trusted_ptr_"
#: Of 6.1, where numbers are shown by their bits, and pointers are trusted or not without saying so.
_OLD: Final = (
    (re.compile(r"^(misaligned \w+ access off )(-?\d+)\+"), lambda found: f"{found[1]}({int(found[2]) & (1 << 64) - 1:#x}; 0x0)+"),
    (re.compile(rf"expected=(.*){_MEMORY}$"), r"expected=\1mem, alloc_mem, buf"),
    (re.compile(r"^(infinite loop detected at insn \d+)\n.*", re.S), r"\1"),
    (re.compile(r"expected=ringbuf_mem$"), "expected=alloc_mem"),
    (re.compile(r"expected=map_value, ptr_$"), "expected=map_value"),
    (re.compile(r"expected=(.*?ptr_), (?:percpu_)?(?:trusted|rcu)_ptr_.*$"), r"expected=\1"),
)


def said(rules: Rules, says: str) -> str:
    """What a release says where the newest one says `says`."""
    for pattern, other in (*(() if rules.has("6.18") else _BEFORE), *(() if rules.trust else _OLD)):
        says = pattern.sub(other, says)
    return says
