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


async def in_time(call: Awaitable[T]) -> T:
    """The outcome of one call to the store. Raises Unavailable after `STORE_S` as well."""
    try:
        async with asyncio.timeout(STORE_S):
            return await call
    except TimeoutError as error:
        raise Unavailable("postgres", f"no answer within {STORE_S} s", code="timeout") from error
