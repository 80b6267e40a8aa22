"""Keeping the state on disk: one SQLite file, one transaction for each commit.

A reply that left the double must survive its death, as a real server's does; SQLite in WAL mode keeps a finished
transaction when the process is killed, and writes only what changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path


class SqliteStorage:
    """Rows of (kind, key, JSON) in a SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS objects ("
            "number INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, json BLOB NOT NULL, "
            "UNIQUE (kind, key))"
        )

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        """All rows in the order in which their objects were first written."""
        yield from self._db.execute("SELECT kind, key, json FROM objects ORDER BY number").fetchall()

    def write(self, rows: Iterable[tuple[str, str, bytes | None]]) -> None:
        self._db.execute("BEGIN")
        try:
            for kind, key, data in rows:
                if data is None:
                    self._db.execute("DELETE FROM objects WHERE kind = ? AND key = ?", (kind, key))
                else:
                    self._db.execute(
                        "INSERT INTO objects (kind, key, json) VALUES (?, ?, ?) "
                        "ON CONFLICT (kind, key) DO UPDATE SET json = excluded.json",
                        (kind, key, data),
                    )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
