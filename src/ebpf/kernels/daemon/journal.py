"""What is pinned while a daemon runs, in a file: the next one can tell what an unexpected end took along."""

import json
import os
from contextlib import suppress
from pathlib import Path


class Journal:
    """The file beside a daemon's socket. It is there as long as the daemon runs; one that is found tells of an unexpected end.

    `lost` are the pins that such an end took along, and None if there was none; it is kept until somebody was told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost = self._recall()
        self._pins: list[str] = []
        self._write()

    def _recall(self) -> list[str] | None:
        try:
            text = self._path.read_text()
        except OSError:
            return None
        try:
            found = json.loads(text)
            return [str(row) for row in [*(found["lost"] or []), *found["pins"]]]
        except (ValueError, TypeError, KeyError):
            # Not ours, or of another version: what it held is not known.
            return []

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"lost": self.lost, "pins": self._pins}))
        # Whoever is killed here leaves the old one or the new one.
        os.replace(new, self._path)

    def remember(self, pins: list[str]) -> None:
        """These are the pins now."""
        self._pins = pins
        self._write()

    def told(self) -> None:
        """Somebody knows what was lost."""
        if self.lost is not None:
            self.lost = None
            self._write()

    def close(self) -> None:
        """An end that was wanted: nothing is to be told of it. Idempotent."""
        with suppress(OSError):
            self._path.unlink()
