"""The verifier's door: a program in, a verdict out, with a log in Linux's dialect."""

from ebpf.engine.program import Code, SourceLine, Verdict
from ebpf.engine.verifier.explore import Explorer
from ebpf.engine.verifier.refusal import Refusal
from ebpf.isa import Insn, disasm_one
from ebpf.uapi import HELPERS, CallSrc

LIMIT = 1_000_000


def verify(code: Code, *, log_level: int = 0, limit: int = LIMIT) -> Verdict:
    """Judge a program: accepted means that it can run with no check of its own and does no harm.

    What this verifier does not know yet is refused with a cause that says so. `log_level` 1 adds the program's text to the log.
    """
    explorer: Explorer | None = None
    try:
        explorer = Explorer(code, limit)
        explorer.run()
    except Refusal as refusal:
        processed = explorer.processed if explorer is not None else 0
        states = explorer.states if explorer is not None else 0
        log = _log(code, log_level, refusal, processed, states)
        return Verdict(False, log, refusal.cause, refusal.insn, line_at(code.lines, refusal.insn), processed)
    return Verdict(
        True,
        _log(code, log_level, None, explorer.processed, explorer.states) if log_level else "",
        processed=explorer.processed,
        ctx_access=explorer.memory.ctx_access,
        call_map={slot: fd for slot, fd in explorer.calls.call_map.items() if fd >= 0},
        stack_depth={start: explorer.memory.depth.get(start, 0) for start in explorer.structure.starts},
    )


def line_at(lines: tuple[SourceLine, ...], slot: int) -> SourceLine | None:
    """The source line that an instruction belongs to."""
    found = None
    for line in lines:
        if line.slot > slot:
            break
        found = line
    return found if slot >= 0 else None


def name_call(insn: Insn, slot: int) -> str | None:
    """A helper call as Linux prints it: `bpf_trace_printk#6`."""
    del slot
    row = HELPERS.get(insn.imm) if insn.src == CallSrc.HELPER else None
    return f"bpf_{row.name}#{insn.imm}" if row is not None else None


def _log(code: Code, level: int, refusal: Refusal | None, processed: int, states: int) -> str:
    lines: list[str] = []
    shown = {line.slot: line.text.strip() for line in code.lines}
    slot = 0
    for insn in code.insns:
        wanted = level & 3 or (refusal is not None and slot == refusal.insn)
        if wanted:
            if slot in shown:
                lines.append(f"; {shown[slot]}")
            lines.append(f"{slot}: {disasm_one(insn, slot, name_call=name_call)}")
        if refusal is not None and slot == refusal.insn:
            break
        slot += insn.slots
    if refusal is not None:
        lines.append(refusal.says)
    lines.append(
        f"processed {processed} insns (limit {LIMIT}) max_states_per_insn 0 total_states {states} peak_states {states} mark_read 0"
    )
    return "\n".join(lines) + "\n"
