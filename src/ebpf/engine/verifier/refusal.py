"""How a program's refusal travels inside the verifier."""

from collections.abc import Mapping


class Refusal(Exception):
    """A program is not accepted: `reason` names a row of reasons.py, `cause` says why in one sentence, `says` in Linux's
    words, `slot` is the instruction (-1: the whole program), `facts` has the numbers that an explanation needs.
    """

    def __init__(self, reason: str, says: str, cause: str, slot: int = -1, **facts: object) -> None:
        super().__init__(says)
        self.reason = reason
        self.says = says
        self.cause = cause
        self.slot = slot
        self.facts: Mapping[str, object] = facts


class Unjudged(Refusal):
    """The program uses something that this verifier does not know: neither accepted nor refused."""

    def __init__(self, feature: str, slot: int = -1, cause: str = "") -> None:
        super().__init__("unknown", f"unknown: {feature}", cause or f"this verifier does not judge {feature} yet", slot, feature=feature)
        self.feature = feature
