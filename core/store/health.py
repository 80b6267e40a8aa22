"""Whether the store can be used."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import reading
from core.store.tables import plans


async def check(engine: AsyncEngine) -> None:
    """Raises Unavailable when the store cannot be read, or has no schema yet."""
    async with reading(engine) as connection:
        await connection.execute(select(plans.c.slug).limit(1))
