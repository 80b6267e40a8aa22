"""What operators and the sandbox ask about chips, whoever owns them."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.names import parse_id
from core.store.engine import reading
from core.store.tables import chips, users


class FoundChip(msgspec.Struct, frozen=True):
    """A chip that a text stands for, and whose it is."""

    id: str
    alias: str
    user_id: str
    email: str


async def find_chips(engine: AsyncEngine, text: str) -> tuple[FoundChip, ...]:
    """The chips whose id is `text` or whose alias it is in any letter case, of all users; tombstones not."""
    named = func.lower(chips.c.alias) == text.lower()
    chip_id = parse_id(text)
    query = (
        select(chips.c.id, chips.c.alias, chips.c.user_id, users.c.email)
        .join_from(chips, users, chips.c.user_id == users.c.id)
        .where(chips.c.deleted_at.is_(None))
        .where(named if chip_id is None else or_(named, chips.c.id == chip_id))
        .order_by(chips.c.created_at, chips.c.id)
    )
    async with reading(engine) as connection:
        rows = (await connection.execute(query)).all()
    return tuple(FoundChip(row.id, row.alias, row.user_id, row.email) for row in rows)


async def owner_of(engine: AsyncEngine, chip_id: str) -> str | None:
    """The id of the user whose chip this is; None for a deleted or an unknown one."""
    query = select(chips.c.user_id).where(chips.c.id == chip_id, chips.c.deleted_at.is_(None))
    async with reading(engine) as connection:
        found: str | None = await connection.scalar(query)
    return found
