"""Freeing the leases of a daemon that is known to be dead, by whoever saw it end.

A lease outlives its daemon by a minute, because nobody else can tell a dead daemon from a slow one. A parent
that has waited for its child can.
"""

from __future__ import annotations

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import transaction
from core.store.tables import leases


async def free_leases(engine: AsyncEngine, *, owner_prefix: str = "") -> int:
    """Free every lease whose owner's name begins with `owner_prefix` ("" = all); how many there were.

    Tokens stay, so a write that a dead daemon still has under way is refused as stale. Raises Unavailable.
    """
    dead = (
        update(leases)
        .where(leases.c.owner.startswith(owner_prefix, autoescape=True))
        .where(leases.c.expires_at > func.clock_timestamp())
        .values(owner="", expires_at=func.clock_timestamp())
    )
    async with transaction(engine) as connection:
        return int((await connection.execute(dead)).rowcount)
