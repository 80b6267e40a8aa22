"""A container's log: one JSON line per event. Never a key, a QR value or a request body."""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Log:
    """Writes lines to stdout, or through `write`, which gets each line with its newline."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or _to_stdout

    def emit(self, event: str, **fields: Any) -> None:
        """Writes `{"time": ms since 1970, "event": ..., ...}`."""
        line = {"time": int(time.time() * 1000), "event": event, **fields}
        self._write(json.dumps(line, separators=(",", ":")) + "\n")


def _to_stdout(line: str) -> None:
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except (OSError, ValueError):
        # The reader of our output is gone (its agent was killed); serving goes on, as a container would.
        return
