"""News of what passes wrote, for requests that wait for it. Who misses news looks again within a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, Never, Protocol

from core.store.notify import Listener

POLL_S: Final = 1.0


class ObservedHub:
    """Wakes everybody who waits for a user's news."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def announce(self, user_id: str) -> None:
        for event in self._waiting.get(user_id, ()):
            event.set()

    def announce_all(self) -> None:
        """Something may have been missed."""
        for user_id in tuple(self._waiting):
            self.announce(user_id)

    @contextmanager
    def subscribed(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that news of the user sets; news counts from here on. The waiter clears it."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(user_id, set())
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting and self._waiting.get(user_id) is waiting:
                del self._waiting[user_id]


async def looks(event: asyncio.Event, wait_s: float) -> AsyncIterator[None]:
    """One turn after each news or second, and a last one when `wait_s` is over; none when it is 0."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_s
    while (left := ends_at - loop.time()) > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(POLL_S, left)):
                await event.wait()
        event.clear()
        yield


class Hub(Protocol):
    """Somebody to tell that something may have been missed."""

    def announce_all(self) -> None: ...


async def stand_in(listener: Listener, *hubs: Hub) -> Never:
    """While `listener` hears nothing, everybody looks every second: one timer for all who wait."""
    while True:
        await asyncio.sleep(POLL_S)
        if not listener.is_listening:
            for hub in hubs:
                hub.announce_all()
