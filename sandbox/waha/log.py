"""One JSON line per event on stdout. Never a key, a QR value or a request body."""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def emit(event: str, **fields: Any) -> None:
    """Writes one line: `{"time": ms since 1970, "event": ..., ...}`."""
    line = json.dumps({"time": int(time.time() * 1000), "event": event, **fields}, separators=(",", ":"))
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        # The reader of our output is gone (its agent was killed); serving goes on, as a container would.
        return
