"""How long an answer may take, not counting the time in which this process itself did not run."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

# A timer that is called this late says that the process was held up: by a busy machine, or by its own work.
_HELD_UP_S: Final = 0.02
_TRIES: Final = 3


class Patience:
    """As `asyncio.timeout(seconds)`, for what answers within milliseconds or not at all.

    Timers are looked at before sockets. So after the process was held up, an answer that came in time and lies in its
    socket would count as none; it gets as long once more instead, `_TRIES` times at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._due_at = 0.0
        self._tries = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _begin(self) -> None:
        self._tries += 1
        self._due_at = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._due_at, self._due)

    def _due(self) -> None:
        self._timer, now = None, self._loop.time()
        if now - self._due_at > _HELD_UP_S and self._tries < _TRIES:
            self._begin()
        else:
            self._limit.reschedule(now)
