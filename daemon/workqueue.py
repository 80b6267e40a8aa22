"""The queue between sources of news and workers: one key a user, never worked on twice at once.

Lives on one event loop; `put` may be called from any coroutine of it and never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from random import Random
from typing import Final

from core.clock import Clock
from core.domain import backoff
from daemon.agenda import Agenda

_JITTER: Final = 0.5  # a delay of d lasts between d/2 and d, so that keys that failed together spread
_NEVER: Final = float("inf")
_SHORTEST_S: Final = 0.001  # an alarm that a clock's grain let ring too early is not set anew at once


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
        self._waiters: deque[asyncio.Future[None]] = deque()  # who waits longest first
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = _NEVER
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
        self._look(now)

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
                self._look(now)  # who was woken for this key may have been woken for several
                return key
            await self._news(now)
        raise QueueClosed

    def done(self, key: str) -> None:
        """The work on `key` has ended; if it was put meanwhile it is handed out again at its time."""
        now = self._clock.monotonic()
        self._agenda.done(key, now)
        self._look(now)

    def close(self) -> None:
        """Hand out no more keys; whoever waits in `get` gets QueueClosed. Work under way may end."""
        self._closed = True
        self._silence()
        while self._waiters:
            self._wake()

    async def _news(self, now: float) -> None:
        """Wait for a key that is ready, or for the close."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._set_alarm(now)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._wake()  # woken and stopped at once: the key is another's
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if not self._waiters:
                self._silence()
            raise

    def _look(self, now: float) -> None:
        """One of those who wait is woken for a key that is ready; of the others none has to know."""
        if not self._waiters:
            return  # the next `get` looks for itself
        if self._agenda.is_ready:
            self._wake()
        else:
            self._set_alarm(now)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():  # its task may have been stopped at this very moment
                waiter.set_result(None)
                return

    def _set_alarm(self, now: float) -> None:
        at = self._agenda.next_at()
        if at is None or at >= self._rings_at:
            return  # one that rings too early costs a look, setting each anew costs more
        self._silence()
        self._rings_at = at
        # Counted by the loop: a task that sleeps would cost five times as much. The agenda has the last word.
        self._alarm = asyncio.get_running_loop().call_later(max(_SHORTEST_S, at - now), self._ring)

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, _NEVER
        self._wake()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._rings_at = None, _NEVER
