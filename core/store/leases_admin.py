"""Freeing the leases of daemons and guards that are known to be dead, by whoever saw them end.

A lease outlives its daemon by a minute, because nobody else can tell a dead daemon from a slow one. A parent
that has waited for its child can.
"""

from __future__ import annotations

from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import transaction
from core.store.tables import guard_grants, leases, placements


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


async def free_guard_leases(engine: AsyncEngine) -> int:
    """Free every lease of every guard; how many there were. Only for who has seen all guards end.

    What the store remembers of its own clock and server goes too: it speaks of leases that may be out there, and none
    is. Raises Unavailable.
    """
    held = update(placements).where(placements.c.lease_until.is_not(None)).values(lease_until=None)
    async with transaction(engine) as connection:
        freed = int((await connection.execute(held)).rowcount)
        await connection.execute(delete(guard_grants))
    return freed
