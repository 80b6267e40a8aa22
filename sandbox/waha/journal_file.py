"""Writes the journal: who ran which session, and when. `sandbox.waha.journal` reads it.

Each process (each container, when one process serves many) has a file of its own, held under a lock as
long as it lives. A process that is killed writes no end, so it also touches its file every
`BEAT_SECONDS` while a session runs: the last touch says until when it certainly spoke.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from sandbox.waha.store import database_name

BEAT_SECONDS = 0.5


class JournalFile:
    """Appends one JSON line per event; the file is made by the first one."""

    def __init__(self, folder: str, session_namespace: str, allocation: str | None) -> None:
        self._folder = os.path.join(folder, "journal")
        self._namespace = session_namespace
        self._allocation = allocation
        self._file: int | None = None
        self._running: set[str] = set()

    def start(self, session: str, *, paired: bool) -> None:
        """The session's engine starts; `paired` when it connects with stored credentials."""
        self._running.add(session)
        self._write("start", session, paired=paired)

    def working(self, session: str) -> None:
        self._write("working", session, paired=True)

    def end(self, session: str) -> None:
        """The session's connection is closed for good."""
        if session in self._running:
            self._running.discard(session)
            self._write("end", session, paired=False)

    def tunnel(self, session: str) -> None:
        """Its tunnel stands."""
        self._write("tunnel", session, paired=False)

    def traffic(self, session: str, sent: int, received: int) -> None:
        """Bytes that went through its tunnels since the last line of this kind."""
        self._write("traffic", session, paired=False, sent=sent, received=received)

    def beat(self) -> None:
        if self._running and self._file is not None:
            os.utime(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, event: str, session: str, *, paired: bool, **more: int) -> None:
        if self._file is None:
            self._file = self._open()
        line = {
            "at": time.time(),
            "event": event,
            "session": session,
            "database": database_name(self._namespace, session),
            "namespace": self._namespace,
            "allocation": self._allocation,
            "pid": os.getpid(),
            "paired": paired,
            **more,
        }
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _open(self) -> int:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        name = f"{self._namespace}.{self._allocation or os.getpid()}.{os.urandom(4).hex()}.jsonl"
        file = os.open(
            os.path.join(self._folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
