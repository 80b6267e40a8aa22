"""One read of the store for all requests that wait for one: what each costs falls as more come.

A read begins after the request that waits for it came, so whoever was told that a write is done sees it,
through whichever process both went. Nothing is remembered here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from api.deadline import STORE_S, too_late
from core.store.standings import Standing, StandingReader

# Two, so that one slow answer does not hold up everybody else.
AT_ONCE: Final = 2


class _Batch:
    """Requests that one read answers, and the timer that sends away who has waited too long for it.

    A timer of its own for each request would cost more than the rest of its wait.
    """

    def __init__(self, wait_s: float) -> None:
        self.users: dict[str, list[asyncio.Future[Standing | None]]] = {}
        self._wait_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, asyncio.Future[Standing | None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, user_id: str) -> asyncio.Future[Standing | None]:
        future: asyncio.Future[Standing | None] = self._loop.create_future()
        self.users.setdefault(user_id, []).append(future)
        self._due.append((self._loop.time() + self._wait_s, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._wait_s, self._send_away)
        return future

    def answer(self, found: dict[str, Standing]) -> None:
        for user_id, futures in self.users.items():
            standing = found.get(user_id)
            for future in futures:
                if not future.done():
                    future.set_result(standing)
        self._end()

    def fail(self, error: Exception) -> None:
        for _, future in self._due:
            if not future.done():
                future.set_exception(error)
        self._end()

    def cancel(self) -> None:
        for _, future in self._due:
            future.cancel()
        self._end()

    def _send_away(self) -> None:
        self._timer, now = None, self._loop.time()
        for due, future in self._due:
            if future.done():
                continue
            if due > now:
                self._timer = self._loop.call_at(due, self._send_away)
                return
            future.set_exception(too_late(self._wait_s))

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Standings:
    """Reads standings of users, many with one statement, at most `AT_ONCE` at a time."""

    def __init__(self, reader: StandingReader, *, wait_s: float = STORE_S) -> None:
        self._reader = reader
        self._wait_s = wait_s
        self._waiting: _Batch | None = None
        self._reads: set[asyncio.Task[None]] = set()
        self._due = False
        self._closed = False

    async def of(self, user_id: str) -> Standing | None:
        """The user's standing at a moment after the call; None when there is no such user.

        Raises Unavailable, after `wait_s` at the latest. Whoever stops waiting takes nothing from the others.
        """
        if self._waiting is None:
            self._waiting = _Batch(self._wait_s)
        future = self._waiting.add(user_id)
        self._begin_soon()
        return await future

    async def close(self) -> None:
        """End what is under way; whoever waits is cancelled."""
        self._closed = True
        for read in tuple(self._reads):
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        if self._waiting is not None:
            self._waiting.cancel()

    def _begin_soon(self) -> None:
        # Not at once: what the same turn of the loop still brings goes along.
        if not self._due and not self._closed and len(self._reads) < AT_ONCE:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._due = False
        batch = self._waiting
        if self._closed or batch is None:
            return
        self._waiting = None
        read = asyncio.create_task(self._read(batch))
        self._reads.add(read)
        read.add_done_callback(self._ended)

    def _ended(self, read: asyncio.Task[None]) -> None:
        self._reads.discard(read)
        if self._waiting is not None:
            self._begin_soon()

    async def _read(self, batch: _Batch) -> None:
        try:
            batch.answer(await self._reader.read(tuple(batch.users)))
        except asyncio.CancelledError:
            batch.cancel()
            raise
        except Exception as error:
            batch.fail(error)
