"""How a command finds the wahafleet that it should talk to.

`wahafleet up` writes one file into the user's state folder; `wahafleet --api URL VERB` picks the one of that
address, else the newest whose process lives.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from sandbox.up.data import write_private
from sandbox.up.machine import process_started


class Context(msgspec.Struct, frozen=True):
    """One running wahafleet.

    Attributes:
        api: its address, `http://host:port`. data: its data folder. started_at: RFC 3339.
        pid, pid_started: the process, and when it began as `process_started` tells it.
    """

    api: str
    data: str
    operator_token: str
    pid: int
    pid_started: str
    started_at: str

    @property
    def lives(self) -> bool:
        return process_started(self.pid) == self.pid_started

    def __repr__(self) -> str:
        return f"Context({self.api}, {self.data})"


def state_folder(env: Mapping[str, str] | None = None) -> Path:
    """Where a user's state belongs (XDG Base Directory Specification: XDG_STATE_HOME, ~/.local/state)."""
    env = os.environ if env is None else env
    named = env.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    base = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    return base / "wahafleet"


def write(context: Context, folder: Path | None = None) -> Path:
    """Keep `context`; one file per data folder. Contexts of processes that are gone are removed."""
    folder = folder or state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file, old in _all(folder):
        if not old.lives:
            file.unlink(missing_ok=True)
    file = folder / f"context-{hashlib.sha256(context.data.encode()).hexdigest()[:12]}.json"
    write_private(file, msgspec.json.encode(context).decode())
    return file


def find(api: str | None = None, folder: Path | None = None) -> Context | None:
    """The context of address `api`, else the newest; only of processes that live."""
    alive = [context for _, context in _all(folder or state_folder()) if context.lives]
    if api is not None:
        alive = [context for context in alive if _place(context.api) == _place(api)]
    return max(alive, key=lambda context: context.started_at, default=None)


def _all(folder: Path) -> list[tuple[Path, Context]]:
    found = []
    for file in folder.glob("context-*.json"):
        try:
            found.append((file, msgspec.json.decode(file.read_bytes(), type=Context)))
        except (OSError, msgspec.DecodeError):
            # Of another version of wahafleet, or gone since: none that we could use.
            continue
    return found


def _place(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url if "//" in url else f"http://{url}")
    host = parts.hostname or ""
    return "127.0.0.1" if host == "localhost" else host, parts.port or {"http": 80, "https": 443}.get(
        parts.scheme
    )
