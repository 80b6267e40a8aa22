"""How long a request waits for the store.

One statement is given up after 1.5 to 1.8 s by the engine. Under a store that is silent a request may first
wait for a connection that others hold just as long; together that must still be told in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from core.errors import Unavailable

T = TypeVar("T")

STORE_S: Final = 1.9


async def in_time(call: Awaitable[T], *, spent_s: float = 0.0) -> T:
    """The outcome of one call to the store. Raises Unavailable after `STORE_S` as well.

    `spent_s`: how much of that was waited before.
    """
    try:
        async with asyncio.timeout(STORE_S - spent_s):
            return await call
    except TimeoutError as error:
        raise too_late(STORE_S) from error


def too_late(waited_s: float) -> Unavailable:
    """What is said of a store that did not answer."""
    return Unavailable("postgres", f"no answer within {waited_s:g} s", code="timeout")
