"""One read of the store for all requests that wait for one: what each costs falls as more come.

A read begins after the request that waits for it came, so whoever was told that a write is done sees it,
through whichever process both went. Nothing is remembered here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from core.store.standings import Standing, StandingReader

# Two, so that one slow answer does not hold up everybody else.
AT_ONCE: Final = 2


class Standings:
    """Reads standings of users, many with one statement, at most `AT_ONCE` at a time."""

    def __init__(self, reader: StandingReader) -> None:
        self._reader = reader
        self._waiting: dict[str, list[asyncio.Future[Standing | None]]] = {}
        self._reads: set[asyncio.Task[None]] = set()
        self._due = False
        self._closed = False

    async def of(self, user_id: str) -> Standing | None:
        """The user's standing at a moment after the call; None when there is no such user.

        Raises Unavailable. Whoever stops waiting takes nothing from the others.
        """
        future: asyncio.Future[Standing | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, []).append(future)
        self._begin_soon()
        return await future

    async def close(self) -> None:
        """End what is under way; whoever waits is cancelled."""
        self._closed = True
        for read in tuple(self._reads):
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        for future in _all(self._waiting):
            future.cancel()

    def _begin_soon(self) -> None:
        # Not at once: what the same turn of the loop still brings goes along.
        if not self._due and not self._closed and len(self._reads) < AT_ONCE:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._due = False
        if self._closed:
            return
        waiting, self._waiting = self._waiting, {}
        read = asyncio.create_task(self._read(waiting))
        self._reads.add(read)
        read.add_done_callback(self._ended)

    def _ended(self, read: asyncio.Task[None]) -> None:
        self._reads.discard(read)
        if self._waiting:
            self._begin_soon()

    async def _read(self, waiting: dict[str, list[asyncio.Future[Standing | None]]]) -> None:
        try:
            found = await self._reader.read(tuple(waiting))
        except asyncio.CancelledError:
            for future in _all(waiting):
                future.cancel()
            raise
        except Exception as error:
            for future in _all(waiting):
                if not future.done():
                    future.set_exception(error)
            return
        for user_id, futures in waiting.items():
            for future in futures:
                if not future.done():
                    future.set_result(found.get(user_id))


def _all(waiting: dict[str, list[asyncio.Future[Standing | None]]]) -> list[asyncio.Future[Standing | None]]:
    return [future for futures in waiting.values() for future in futures]
