"""A double on a clock that only moves when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from sandbox.consul_double.double import ConsulDouble, Knobs


class FakeClock:
    def __init__(self) -> None:
        self.t = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.t, UTC)

    def monotonic(self) -> float:
        return self.t

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.t + seconds, sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Move on, waking each sleeper at its own moment."""
        until = self.t + seconds
        await self.settle()
        while due := [one for one in self._sleepers if one[0] <= until]:
            first = min(due, key=lambda one: one[0])
            self._sleepers.remove(first)
            self.t = max(self.t, first[0])
            if not first[1].done():
                first[1].set_result(None)
            await self.settle()
        self.t = until

    @staticmethod
    async def settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def double(clock: FakeClock) -> AsyncIterator[ConsulDouble]:
    made = ConsulDouble(clock=clock, knobs=Knobs())
    yield made
    await made.close()
