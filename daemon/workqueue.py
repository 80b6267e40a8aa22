"""The queue between sources of news and workers: one key a user, never worked on twice at once.

Lives on one event loop; `put` may be called from any coroutine of it and never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Final

from core.clock import Clock
from core.domain import backoff
from daemon.agenda import Agenda

_JITTER: Final = 0.5  # a delay of d lasts between d/2 and d, so that keys that failed together spread


class QueueClosed(Exception):
    """No more keys are handed out."""


class WorkQueue:
    """Keys that want a look, with delays and a backoff per key.

    Args:
        base_s, cap_s: pause after the first failure of a key, and the longest one.
    """

    def __init__(self, clock: Clock, random: Random, *, base_s: float = 0.5, cap_s: float = 30.0) -> None:
        self._clock = clock
        self._random = random
        self._base_s = base_s
        self._cap_s = cap_s
        self._agenda = Agenda()
        self._failures: dict[str, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._agenda)

    def __contains__(self, key: str) -> bool:
        """Whether the key is ready, waits for its time, or is being worked on."""
        return key in self._agenda

    @property
    def running(self) -> frozenset[str]:
        """Keys that are being worked on."""
        return self._agenda.taken

    @property
    def waiting(self) -> frozenset[str]:
        """Keys that are ready or wait for their time."""
        return self._agenda.keys()

    def news_at(self, key: str) -> float:
        """When the newest news came for which `key` is being worked on, on the clock's monotonic half."""
        return self._agenda.news_at(key)

    def put(
        self, key: str, after_s: float = 0.0, *, bulk: bool = False, news_at: float | None = None
    ) -> None:
        """Look at `key` in `after_s` seconds at the latest; see `Agenda.put` for `bulk` and `news_at`."""
        now = self._clock.monotonic()
        self._agenda.put(key, now + max(0.0, after_s), now, bulk=bulk, news_at=news_at)
        self._wake()

    def put_all(self, keys: Iterable[str], *, spread_s: float = 0.0) -> None:
        """Look at all of them, each at a random moment within `spread_s` seconds."""
        for key in keys:
            self.put(key, self._random.uniform(0.0, spread_s), bulk=True)

    def put_failed(self, key: str, *, least_s: float = 0.0) -> float:
        """Look again after a pause that grows with each failure in a row, of `least_s` at least.

        Returns the pause in seconds.
        """
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        full_s = backoff.delay(failures, self._base_s, self._cap_s)
        pause_s = max(least_s, full_s * (1 - _JITTER * self._random.random()))
        self.put(key, pause_s)
        return pause_s

    def succeeded(self, key: str) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    async def get(self) -> str:
        """The next key; call `done` when the work on it has ended. Raises QueueClosed after `close`."""
        while not self._closed:
            now = self._clock.monotonic()
            key = self._agenda.take(now)
            if key is not None:
                return key
            at = self._agenda.next_at()
            await self._news(None if at is None else at - now)
        raise QueueClosed

    def done(self, key: str) -> None:
        """The work on `key` has ended; if it was put meanwhile it is handed out again at its time."""
        self._agenda.done(key, self._clock.monotonic())
        self._wake()

    def close(self) -> None:
        """Hand out no more keys; whoever waits in `get` gets QueueClosed. Work under way may end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        # All waiters look again: one of them takes the key, the others recompute how long to wait.
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _news(self, limit_s: float | None) -> None:
        """Wait for a put, a done or a close, for `limit_s` at most."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        timer = None if limit_s is None else asyncio.ensure_future(self._clock.sleep(limit_s))
        try:
            await asyncio.wait({waiter} | ({timer} if timer else set()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(waiter)
            waiter.cancel()
            if timer is not None:
                timer.cancel()
