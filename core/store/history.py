"""Reading a chip's history: pages for people, and what came since for those who watch.

Ids of one chip's events commit in their order, since whoever writes one holds the chip's row: who goes on behind
the last id that was read misses none and reads none twice.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.history import StoredEvent
from core.domain.views import StoredChip
from core.store.engine import reading
from core.store.queries import chip_of
from core.store.tables import chip_events, chips

# What one look takes at most; the next one follows at once.
LOOK_LIMIT = 100


class HistoryLook(msgspec.Struct, frozen=True):
    """A chip and what happened to it.

    Attributes:
        chip: None for another user's, a deleted or an unknown one.
        events: oldest first, at most `LOOK_LIMIT`.
        last: number of the newest event that was read by now.
    """

    chip: StoredChip | None
    events: tuple[StoredEvent, ...]
    last: int


async def list_events(
    engine: AsyncEngine, user_id: str, chip_id: str, *, before: int | None, limit: int
) -> tuple[StoredEvent, ...] | None:
    """The user's chip's events, newest first, those older than number `before`.

    None for another user's, a deleted or an unknown chip. Raises Unavailable.
    """
    owned = select(chips.c.id).where(
        chips.c.user_id == user_id, chips.c.id == chip_id, chips.c.deleted_at.is_(None)
    )
    query = _events(user_id, chip_id).order_by(chip_events.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(chip_events.c.id < before)
    async with reading(engine) as connection:
        if await connection.scalar(owned) is None:
            return None
        return tuple(_event(row) for row in await connection.execute(query))


async def look(engine: AsyncEngine, user_id: str, chip_id: str, after: int | None) -> HistoryLook:
    """The user's chip and its events since number `after`; with None, only the number of the newest one.

    The chip is read last: it is at least as new as the events. Raises Unavailable.
    """
    async with reading(engine) as connection:
        events: tuple[StoredEvent, ...] = ()
        if after is None:
            newest = select(func.coalesce(func.max(chip_events.c.id), 0)).where(
                chip_events.c.chip_id == chip_id, chip_events.c.user_id == user_id
            )
            last = int(await connection.scalar(newest) or 0)
        else:
            query = _events(user_id, chip_id).where(chip_events.c.id > after).order_by(chip_events.c.id)
            rows = await connection.execute(query.limit(LOOK_LIMIT))
            events = tuple(_event(row) for row in rows)
            last = events[-1].number if events else after
        return HistoryLook(await chip_of(connection, user_id, chip_id), events, last)


def _events(user_id: str, chip_id: str) -> Any:
    return select(chip_events).where(chip_events.c.chip_id == chip_id, chip_events.c.user_id == user_id)


def _event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        number=row.id,
        type=row.type,
        code=row.code,
        description=row.description,
        extra_data=row.extra_data,
        created_at=row.created_at,
    )
