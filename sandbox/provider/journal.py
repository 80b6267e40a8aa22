"""What the provider saw: one JSON line per tunnel that opens, closes or is refused, and per chunk.

    {"at": 1234.5, "event": "chunk", "tunnel": 7, "user": "local-0123456789ab", "direction": "out", "bytes": 48}

`at` is CLOCK_MONOTONIC, so lines compare with what other processes of the machine measured. `out` is what the chip said.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

LIMIT: Final = 20_000_000  # bytes; a file that grows beyond is set aside as `<name>.1`

Event = Literal["open", "chunk", "close", "refused"]
Direction = Literal["in", "out"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One event.

    Attributes:
        at: seconds on CLOCK_MONOTONIC. tunnel: its number, 0 for one that was refused.
        user: the name that logged in, "" when nobody did.
        target: host:port; with `open` and `refused`. exit_ip: with `open`. why: with `refused`.
        direction, bytes: with `chunk`. scheme: socks5 or http.
    """

    at: float
    event: Event
    tunnel: int
    user: str
    scheme: str = ""
    target: str = ""
    exit_ip: str = ""
    why: str = ""
    direction: Direction | Literal[""] = ""
    bytes: int = 0


class Journal:
    """Appends to a file, each line by one write, so that a killed process leaves whole lines."""

    def __init__(self, path: Path | None) -> None:
        """`path`: None keeps nothing. Raises OSError."""
        self._path = path
        self._file: int | None = None
        self._size = 0
        self._open()

    def write(self, event: Event, tunnel: int, user: str, **more: Any) -> None:
        if self._file is None:
            return
        line = {"at": time.monotonic(), "event": event, "tunnel": tunnel, "user": user, **more}
        self._size += os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if self._size > LIMIT and self._path is not None:
            self.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._open()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._file).st_size


def read(path: Path) -> list[Line]:
    """All whole lines of a journal, oldest first; what was set aside is not looked at."""
    try:
        *lines, _unfinished = path.read_text().split("\n")
    except FileNotFoundError:
        return []
    return [Line(**json.loads(line)) for line in lines]
