"""What `wahafleet up` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

_NAME_WIDTH = 9


class Screen:
    """Lines for the person at the terminal. `echo` prints one; whatever it cannot print is lost, not fatal."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo

    def say(self, name: str, sentence: str) -> None:
        """One line: the time, who it is about, what happened. Further lines of `sentence` are indented."""
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        first, *more = sentence.splitlines() or [""]
        self.line(f"{at}  {name:<{_NAME_WIDTH}} {first}")
        for text in more:
            self.line(f"{'':<{_NAME_WIDTH + 11}}{text}")

    def line(self, text: str = "") -> None:
        try:
            self._echo(text)
        except (OSError, ValueError):
            # The terminal is gone. What runs, and its orderly end, do not depend on anybody reading this.
            return

    def table(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Columns as wide as their widest cell."""
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            self.line("  " + "  ".join(cells).rstrip())
