"""Everybody's turn: at start, after a source may have missed something, and every so often without news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from core.store.interface import ReconcileStore
from daemon.workqueue import WorkQueue


class Everyone:
    """Source `resync`. `relist()` makes it look at everybody now; it may be called from any source."""

    name = "resync"

    def __init__(self, store: ReconcileStore, queue: WorkQueue, *, every_s: float) -> None:
        self._store = store
        self._queue = queue
        self._every_s = every_s
        self._wanted = asyncio.Event()
        self._wanted.set()

    def relist(self) -> None:
        """Something may have been missed."""
        self._wanted.set()

    async def listen(self, alive: Callable[[], None]) -> None:
        while True:
            if self._wanted.is_set():
                await self._look_at_all()
            else:
                await self._fill_gaps()
            alive()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._wanted.wait()

    async def _look_at_all(self) -> None:
        # Cleared first and set again on failure: what is wanted while the list is read is not forgotten.
        self._wanted.clear()
        try:
            users = await self._store.user_ids()
        except BaseException:
            self._wanted.set()
            raise
        self._queue.put_all(users)

    async def _fill_gaps(self) -> None:
        """Every pass says when to look next, so only keys that nobody waits for are put."""
        users = await self._store.user_ids()
        missing = [user for user in users if user not in self._queue]
        self._queue.put_all(missing, spread_s=self._every_s)
