"""Time for the double: everything that waits or stamps goes through a `Clock`, so tests run without waiting."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """What the double needs to know about time."""

    def time_ns(self) -> int:
        """Wall-clock time in nanoseconds since 1970, as Nomad stamps its objects."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less returns after one turn of the event loop."""
        ...


class SystemClock:
    """The machine's own clock."""

    def time_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class VirtualClock:
    """A clock that only moves when `advance` is called."""

    def __init__(self, start_ns: int = 1_700_000_000 * NS_PER_S) -> None:
        self._now_ns = start_ns
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return self._now_ns

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        due_ns = self._now_ns + round(seconds * NS_PER_S)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (due_ns, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time on, waking every sleeper at its own moment, in order."""
        target_ns = self._now_ns + round(seconds * NS_PER_S)
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target_ns:
            due_ns, _, future = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, due_ns)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._now_ns = target_ns

    @staticmethod
    async def settle(turns: int = 30) -> None:
        """Let everything that is ready run until it waits again."""
        for _ in range(turns):
            await asyncio.sleep(0)
