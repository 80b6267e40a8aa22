"""Things that start side by side, and things that must be over before anything else is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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
            task.cancel()
        await asyncio.wait(tasks)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, except that a cancelled caller goes on only when the thread is done.

    A thread cannot be cancelled: `asyncio.to_thread` would leave it running, here on servers that are being
    ended meanwhile.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # Nobody asks for its result any more; unread, it would be printed as an error.
        raise
