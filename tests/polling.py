"""Waiting for what real servers do in their own time: always with a deadline, never by a fixed sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]], within_s: float = 60.0, every_s: float = 0.02) -> T:
    """Call `probe` until its result is true, and return that. Raises TimeoutError after `within_s`.

    The default is long, since a real Consul agent whose write to the catalog failed tries again after 15 s
    (measured on Consul 1.8.7) and a test that passes does not wait for it.
    """
    result = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                result = await probe()
                if result:
                    return result
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"nothing true within {within_s} s, the last result was {result!r}") from None
