"""Reads the journal that the simulators write, and finds moments when two of them spoke for one chip."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One line. `at` in seconds since 1970; `process` names the file it stands in.

    `tunnel`: the session's way through its proxy stands. `traffic`: bytes through it since the last such line.
    """

    at: float
    event: Literal["start", "working", "end", "tunnel", "traffic"]
    session: str
    database: str
    namespace: str
    allocation: str | None
    pid: int
    paired: bool
    process: str
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Interval:
    """A time in which one process certainly ran one session.

    `speaking` is True when it did so with the credentials of a paired phone. `until` is the moment of the
    end, of the last sign of life of a killed process, or of the reading for one that still runs (`open`).
    """

    process: str
    allocation: str | None
    namespace: str
    database: str
    session: str
    since: float
    until: float
    speaking: bool
    open: bool


@dataclass(frozen=True)
class Overlap:
    """Two processes that ran the same session, or sessions of the same user, at one time."""

    first: Interval
    second: Interval

    @property
    def seconds(self) -> float:
        return min(self.first.until, self.second.until) - max(self.first.since, self.second.since)


def read(folder: Path | str) -> list[Entry]:
    """All entries of a store folder (the value of WAHA_SIM_STORE_DIR), oldest first."""
    entries = [entry for path in _files(folder) for entry in _entries(path)]
    return sorted(entries, key=lambda entry: entry.at)


def intervals(folder: Path | str) -> list[Interval]:
    """When which process ran which session; a speaking part is an interval of its own."""
    found: list[Interval] = []
    for path in _files(folder):
        alive = _is_locked(path)
        last_sign = time.time() if alive else path.stat().st_mtime
        running: dict[str, Entry] = {}
        for entry in _entries(path):
            if entry.event in ("tunnel", "traffic"):
                continue
            begun = running.pop(entry.session, None)
            if begun is not None:
                found.append(_interval(begun, entry.at, still_open=False))
            if entry.event != "end":
                running[entry.session] = entry
        found += [_interval(begun, max(last_sign, begun.at), still_open=alive) for begun in running.values()]
    return sorted(found, key=lambda interval: interval.since)


def traffic(folder: Path | str) -> dict[str, tuple[int, int]]:
    """(bytes sent, bytes received) through tunnels by session. A tunnel tells once a minute and when it ends."""
    found: dict[str, tuple[int, int]] = {}
    for entry in read(folder):
        if entry.event == "traffic":
            sent, received = found.get(entry.session, (0, 0))
            found[entry.session] = sent + entry.sent, received + entry.received
    return found


def overlaps(
    folder: Path | str,
    *,
    by: Literal["session", "user"] = "session",
    speaking: bool = True,
) -> list[Overlap]:
    """Pairs of intervals of different processes that share a moment.

    Args:
        folder: the store folder.
        by: `session` compares the same WhatsApp device, `user` everything under one namespace.
        speaking: only times with a paired phone's credentials; False counts unpaired sessions too.
    """
    groups: dict[str, list[Interval]] = {}
    for interval in intervals(folder):
        if interval.speaking or not speaking:
            key = interval.database if by == "session" else interval.namespace
            groups.setdefault(key, []).append(interval)
    found: list[Overlap] = []
    for group in groups.values():
        for position, first in enumerate(group):
            for second in group[position + 1 :]:
                if second.since >= first.until:
                    break
                if second.process != first.process and second.until > first.since:
                    found.append(Overlap(first, second))
    return found


def _interval(begun: Entry, until: float, *, still_open: bool) -> Interval:
    return Interval(
        process=begun.process,
        allocation=begun.allocation,
        namespace=begun.namespace,
        database=begun.database,
        session=begun.session,
        since=begun.at,
        until=until,
        speaking=begun.paired,
        open=still_open,
    )


def _files(folder: Path | str) -> list[Path]:
    return sorted(Path(folder, "journal").glob("*.jsonl"))


def _entries(path: Path) -> list[Entry]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Entry(**json.loads(line), process=path.stem) for line in lines if line]


def _is_locked(path: Path) -> bool:
    """Whether the process that writes the file still lives."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
