"""Clocks that drift: of hosts, of the store, of API replicas. Rates are seconds of theirs in a true one."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.simulation.world import START


class DriftingClock:
    """Goes at `rate`, which may change, and never back."""

    def __init__(self, now: float, rate: float, reads: float = 0.0) -> None:
        self.rate = rate
        self._at, self._read = now, reads

    def read(self, now: float) -> float:
        return self._read + (now - self._at) * self.rate

    def change(self, now: float, rate: float) -> None:
        self._at, self._read, self.rate = now, self.read(now), rate


class HostClock:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC of one boot: the latter stands still while the machine sleeps."""

    def __init__(self, now: float, rate: float) -> None:
        self.drifts = DriftingClock(now, rate)
        self._slept_s = 0.0
        self._asleep_at: float | None = None

    @property
    def asleep(self) -> bool:
        return self._asleep_at is not None

    def boottime(self, now: float) -> float:
        return self.drifts.read(now)

    def monotonic(self, now: float) -> float:
        boot = self.drifts.read(now) if self._asleep_at is None else self._asleep_at
        return boot - self._slept_s

    def sleep(self, now: float) -> None:
        self._asleep_at = self._asleep_at or self.drifts.read(now)

    def wake(self, now: float) -> None:
        if self._asleep_at is not None:
            self._slept_s += self.drifts.read(now) - self._asleep_at
            self._asleep_at = None


class StoreClock:
    """Of the store's server; its wall time may be stepped."""

    def __init__(self, world: HasNow, rate: float) -> None:
        self._world = world
        self.drifts = DriftingClock(world.now, rate)
        self.stepped_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic() + self.stepped_s)

    def monotonic(self) -> float:
        return self.drifts.read(self._world.now)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a store does not sleep")


class ReplicaClock:
    """Of an API process. It goes like the store's but for a little: what it cannot follow it takes for a step."""

    def __init__(self, store: StoreClock, off: float) -> None:
        self._store = store
        self._off = off

    def now(self) -> datetime:
        raise AssertionError("an API process takes the time from its store")

    def monotonic(self) -> float:
        return self._store.monotonic() * self._off

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps in a lease")


class HasNow:
    """Whoever knows the true time (s)."""

    now: float
