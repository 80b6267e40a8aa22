"""Things that start side by side, and things that must be over before anything else is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run `work` side by side. The first failure cancels the rest, waits for its end and is raised itself."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            # Once is enough: those that are cancelled already may be waiting for what must not be lost.
            if not task.cancelling():
                task.cancel()
        for task in tasks:
            await over(task)


async def over(work: asyncio.Future[Any]) -> None:
    """Wait until `work` is done, for who is on the way out already: being cancelled changes nothing about it."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, except that a cancelled caller goes on only when the thread is done.

    A thread cannot be cancelled: `asyncio.to_thread` would leave it running, here on servers that are being
    ended meanwhile.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    # Nobody may be left to ask for its result; unread, it would be printed as an error.
    working.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await over(working)
        raise
