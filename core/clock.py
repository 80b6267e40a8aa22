"""Where time enters the project. Pure rules get `now` as an argument; everything else gets a `Clock`."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

# Seconds that count while the machine sleeps too; what a promise to others is measured on.
Boottime = Callable[[], float]


class Clock(Protocol):
    """Two readings that are never mixed, and the only way to sleep."""

    def now(self) -> datetime:
        """Wall time, aware, UTC. May jump; never used to measure how long something took."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes backwards. Leases and deadlines are counted on it."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Suspend for `seconds`."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def boottime() -> Boottime:
    """This machine's CLOCK_BOOTTIME. Raises RuntimeError where there is none (outside Linux)."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        raise RuntimeError("this system has no clock that goes on while it sleeps: a guard runs on Linux.")
    return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
