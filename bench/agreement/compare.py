"""Our answers beside a kernel's: what each pair is, and the table of them by file."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.agreement.case import Answer, Case

AGREE, FALSE_ACCEPT, FALSE_REJECT, UNKNOWN, CRASH, TIMEOUT = "agree", "false_accept", "false_reject", "unknown", "crash", "timeout"
COLUMNS = ("cases", AGREE, FALSE_ACCEPT, FALSE_REJECT, UNKNOWN, CRASH, TIMEOUT, "message", "refused", "processed")


@dataclass(frozen=True, slots=True)
class Pair:
    """One case with both answers (`ours` has the verdict "crash" or "timeout" when there was none)."""

    case: Case
    theirs: Answer
    ours: Answer

    @property
    def kind(self) -> str:
        """What came of it."""
        if self.ours.verdict in (UNKNOWN, CRASH, TIMEOUT):
            return self.ours.verdict
        if self.ours.verdict == self.theirs.verdict:
            return AGREE
        return FALSE_ACCEPT if self.ours.verdict == "accepted" else FALSE_REJECT

    @property
    def same_message(self) -> bool:
        """Both refuse, with the same last line."""
        return self.kind == AGREE and self.theirs.verdict == "refused" and self.ours.message == self.theirs.message

    @property
    def same_count(self) -> bool:
        """Both walked as many instructions."""
        return self.kind == AGREE and self.ours.processed == self.theirs.processed


@dataclass(slots=True)
class Table:
    """Counts by row: `refused` are the agreed refusals, `message` those of them with the same text, `processed` the same counts."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: str, pair: Pair) -> None:
        count = self.rows.setdefault(row, Counter())
        count["cases"] += 1
        count[pair.kind] += 1
        count["refused"] += pair.kind == AGREE and pair.theirs.verdict == "refused"
        count["message"] += pair.same_message
        count["processed"] += pair.same_count

    def text(self) -> str:
        """The table for eyes, the total last."""
        width = max([len(name) for name in self.rows] + [12])
        heads = ("cases", "agree", "f.acc", "f.rej", "unkn", "crash", "time", "msg", "refus", "insns")
        out = [" " * width + "".join(f"{head:>7}" for head in heads)]
        for name, count in sorted(self.rows.items()):
            out.append(f"{name:<{width}}" + "".join(f"{count[column] or '':>7}" for column in COLUMNS))
        total = self.total()
        out.append(f"{'all':<{width}}" + "".join(f"{total[column] or '':>7}" for column in COLUMNS))
        cases = total["cases"] or 1
        out.append(
            f"verdicts equal {total[AGREE] / cases:.1%}, false accepts {total[FALSE_ACCEPT]}, false rejects {total[FALSE_REJECT]}, "
            f"unknown {total[UNKNOWN] / cases:.1%}, messages equal {total['message'] / (total['refused'] or 1):.1%} of agreed refusals, "
            f"counts equal {total['processed'] / (total[AGREE] or 1):.1%} of agreed"
        )
        return "\n".join(out)

    def total(self) -> Counter[str]:
        """All rows together."""
        out: Counter[str] = Counter()
        for count in self.rows.values():
            out.update(count)
        return out


def table_of(pairs: Iterable[Pair], *, by_stage: bool = False) -> Table:
    """The table of some pairs, a row per set and file (or per set and stage)."""
    table = Table()
    for pair in pairs:
        table.add(f"{pair.case.set} stage {pair.case.stage}" if by_stage else f"{pair.case.set}/{pair.case.file}", pair)
    return table
