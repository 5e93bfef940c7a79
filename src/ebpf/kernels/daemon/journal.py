"""What is pinned while a daemon runs, in a file: the next one can tell what an unexpected end took along."""

import json
import os
from contextlib import suppress
from pathlib import Path

# How many lost pins are named in one line.
_NAMED = 8


class Journal:
    """The file beside a daemon's socket. It is there as long as the daemon runs; one that is found tells of an unexpected end.

    `ended` says that there was one, `lost` which pins are not there any more, `back` of when those are that came back. Both the
    news and the lost are kept until somebody was told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: dict[str, str] = {}
        self.ended = False
        self.lost: list[str] = []
        self.back = ""
        self._recall()
        self._write()

    def _recall(self) -> None:
        try:
            text = self._path.read_text()
        except OSError:
            return
        self.ended = True
        # A file that is not ours, or of another version: what was pinned is not known.
        with suppress(ValueError, TypeError, KeyError):
            found = json.loads(text)
            self.lost = [str(row) for row in [*found["lost"], *(f"{path} ({what})" for path, what in found["pins"].items())]]

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"lost": self.lost, "pins": self._pins}))
        # Whoever is killed here leaves the old one or the new one.
        os.replace(new, self._path)

    def remember(self, pins: dict[str, str]) -> None:
        """These are the pins now: what each is."""
        self._pins = pins
        self._write()

    def restored(self, failed: list[str], when: str) -> None:
        """What was saved is there again, but for what `failed`."""
        there = {f"{path} ({what})" for path, what in self._pins.items()}
        self.back = when if self._pins else ""
        self.lost = [row for row in self.lost if row not in there] + failed
        self._write()

    def news(self) -> str:
        """What happened before, in one line; "" if nothing did, or somebody was told."""
        if not self.ended and not self.lost:
            return ""
        more = f" and {len(self.lost) - _NAMED} more (ebpf daemon log)" if len(self.lost) > _NAMED else ""
        named = ", ".join(self.lost[:_NAMED]) + more
        if not self.ended:
            return f"ebpfd could not make again what was saved: {named}"
        back = f"; its pins are as they were saved at {self.back}" if self.back else ""
        if not self.lost:
            return f"ebpfd ended unexpectedly{back or '; nothing was pinned'}"
        return f"ebpfd ended unexpectedly and lost what was pinned: {named}{back}"

    def told(self) -> None:
        """Somebody knows."""
        self.ended, self.lost = False, []
        self._write()

    def close(self) -> None:
        """An end that was wanted: nothing is to be told of it. Idempotent."""
        with suppress(OSError):
            self._path.unlink()
