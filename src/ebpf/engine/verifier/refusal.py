"""Why a program is refused."""


class Refusal(Exception):  # it is an answer, not an error: verify() turns it into a Verdict
    """A program is refused: `cause` in the C programmer's words, `says` in Linux's, at slot `insn`."""

    def __init__(self, cause: str, says: str, insn: int = -1) -> None:
        self.cause = cause
        self.says = says
        self.insn = insn
        super().__init__(says)
