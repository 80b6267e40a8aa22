"""The index: one counter for all committed writes, and who waits for it to move."""

from __future__ import annotations

from collections.abc import Callable


class Indexes:
    """Counts commits and remembers the last one of each table."""

    def __init__(self) -> None:
        self._index = 1
        self._tables: dict[str, int] = {}
        self._listeners: list[Callable[[], None]] = []

    def commit(self, *tables: str) -> int:
        """The index of a new commit that touches `tables`. Call `announce` when it is complete."""
        self._index += 1
        for table in tables:
            self._tables[table] = self._index
        return self._index

    def last(self, *tables: str) -> int:
        """The newest commit of any of `tables`, 0 when there is none."""
        return max((self._tables.get(table, 0) for table in tables), default=0)

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def announce(self) -> None:
        """Tell listeners that something may have changed."""
        for listener in self._listeners:
            listener()

    def restart(self) -> None:
        """Count from the beginning again, as after a restore from an old snapshot."""
        self._index = 1
        self._tables = dict.fromkeys(self._tables, 1)

    def frozen_copy(self) -> Indexes:
        """The counters as they are now; nobody listens to the copy."""
        frozen = Indexes()
        frozen.restore(self.snapshot())
        return frozen

    def snapshot(self) -> tuple[int, dict[str, int]]:
        return self._index, dict(self._tables)

    def restore(self, snapshot: tuple[int, dict[str, int]]) -> None:
        """Undo the commits since `snapshot`: none of them was announced as done."""
        self._index, self._tables = snapshot[0], dict(snapshot[1])
