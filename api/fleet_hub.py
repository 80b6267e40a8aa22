"""Whose rows changed, for each operator who watches the fleet: bounded, whatever happens and however slow they read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOST_PENDING: Final = 1000
_AT_ONCE: Final = 100


class Pending:
    """What one watcher has yet to tell of."""

    def __init__(self) -> None:
        self.users: dict[str, None] = {}
        self.relist = False
        self.news = asyncio.Event()

    def add(self, user_id: str) -> None:
        if len(self.users) >= MOST_PENDING:
            self.missed()
        else:
            self.users[user_id] = None
            self.news.set()

    def missed(self) -> None:
        """Something changed and nobody knows whose."""
        self.users.clear()
        self.relist = True
        self.news.set()

    def take(self) -> list[str]:
        taken = list(self.users)[:_AT_ONCE]
        for user_id in taken:
            del self.users[user_id]
        if not self.users:
            self.news.clear()
        return taken


class FleetHub:
    """Tells all watchers of this process."""

    def __init__(self) -> None:
        self._watchers: set[Pending] = set()

    @contextmanager
    def subscribed(self) -> Iterator[Pending]:
        pending = Pending()
        self._watchers.add(pending)
        try:
            yield pending
        finally:
            self._watchers.discard(pending)

    def announce(self, user_id: str) -> None:
        for one in self._watchers:
            one.add(user_id)

    def announce_fleet(self) -> None:
        """Its figures changed, and no user's row."""
        for one in self._watchers:
            one.news.set()

    def announce_all(self) -> None:
        """Something may have been missed."""
        for one in self._watchers:
            one.missed()
