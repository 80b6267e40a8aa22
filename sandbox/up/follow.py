"""Warnings and errors of the parts, as one short line each on the terminal; all else stays in the logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sandbox.up.supervisor import Say

_LOUD: Final = frozenset({"warning", "error", "critical"})
# Said by the line itself, or of use only beside the other lines of a log.
_LEFT_OUT: Final = frozenset({"message", "level", "at", "component", "reconcile", "request_id", "exception"})
_WIDTH: Final = 160
_PERIOD_S: Final = 10.0
_LINES_A_PERIOD: Final = 5


class Follower:
    """Reads what is appended to `log` and says what is loud in it, a few lines in ten seconds at most."""

    def __init__(self, name: str, log: Path, say: Say) -> None:
        self._name = name
        self._log = log
        self._say = say
        self._at = log.stat().st_size if log.exists() else 0
        self._rest = b""
        self._said: deque[float] = deque(maxlen=_LINES_A_PERIOD)
        self._kept_back = 0

    async def run(self, every_s: float = 0.5) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(every_s)

    def look(self, now: float) -> None:
        """Say what came since the last look. `now`: seconds on a clock that never goes back."""
        for line in self._new_lines():
            told = short(line)
            if told is None:
                continue
            if len(self._said) == _LINES_A_PERIOD and now - self._said[0] < _PERIOD_S:
                self._kept_back += 1
                continue
            self._say(self._name, told)
            self._said.append(now)
        if self._kept_back and now - self._said[-1] >= _PERIOD_S:
            self._say(self._name, f"and {self._kept_back} more, see {self._log}")
            self._kept_back = 0

    def _new_lines(self) -> Iterator[bytes]:
        try:
            if self._log.stat().st_size < self._at:
                self._at, self._rest = 0, b""  # set aside, and begun anew
            with self._log.open("rb") as log:
                log.seek(self._at)
                text = log.read()
        except FileNotFoundError:
            return
        self._at += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        yield from lines


def short(line: bytes) -> str | None:
    """A loud log line in words, None for any other: `warning: dependency_away system=nomad ...`."""
    try:
        event: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("level") not in _LOUD:
        return None
    details = " ".join(f"{key}={value}" for key, value in event.items() if key not in _LEFT_OUT)
    told = f"{event['level']}: {event.get('message', '')} {details}".strip().replace("\n", " ")
    return told if len(told) <= _WIDTH else told[: _WIDTH - 3] + "..."
