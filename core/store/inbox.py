"""The daemon's side of the webhook inbox: who has mail, and forgetting what was read."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import reading, transaction
from core.store.tables import webhook_inbox


class Mail(msgspec.Struct, frozen=True):
    """A user's container sent something; `newest_at` is when the newest of it was recorded."""

    user_id: str
    newest_at: datetime


async def waiting(engine: AsyncEngine, limit: int = 1000) -> tuple[Mail, ...]:
    """Users with webhooks that no pass has taken into account, longest waiting first. Raises Unavailable."""
    query = (
        select(webhook_inbox.c.user_id, func.max(webhook_inbox.c.received_at).label("newest_at"))
        .where(webhook_inbox.c.processed_at.is_(None))
        .group_by(webhook_inbox.c.user_id)
        .order_by(func.min(webhook_inbox.c.received_at))
        .limit(limit)
    )
    async with reading(engine) as connection:
        return tuple(Mail(row.user_id, row.newest_at) for row in await connection.execute(query))


async def waiting_user_ids(engine: AsyncEngine, limit: int = 1000) -> tuple[str, ...]:
    """As `waiting`, the ids alone."""
    return tuple(mail.user_id for mail in await waiting(engine, limit))


async def mark_processed(engine: AsyncEngine, user_id: str, up_to: datetime) -> int:
    """Mark the user's webhooks recorded up to `up_to` as read, and tell how many were not before.

    `up_to` is a `Mail.newest_at` read before the pass began to look: what came later waits for the next.
    """
    statement = (
        update(webhook_inbox)
        .where(
            webhook_inbox.c.user_id == user_id,
            webhook_inbox.c.processed_at.is_(None),
            webhook_inbox.c.received_at <= up_to,
        )
        .values(processed_at=func.clock_timestamp())
    )
    async with reading(engine) as connection:
        return int((await connection.execute(statement)).rowcount)


async def purge(engine: AsyncEngine, older_than_s: float, *, limit: int = 5000) -> int:
    """Remove at most `limit` webhooks that were read longer ago than that; how many were removed.

    Keep it longer than WAHA retries a webhook, or a late repetition passes for a new one. Call it again
    while it removes `limit`.
    """
    age = func.make_interval(0, 0, 0, 0, 0, 0, older_than_s)
    key = (webhook_inbox.c.user_id, webhook_inbox.c.event_id)
    old = select(*key).where(webhook_inbox.c.processed_at < func.clock_timestamp() - age).limit(limit)
    async with transaction(engine) as connection:
        return int((await connection.execute(delete(webhook_inbox).where(tuple_(*key).in_(old)))).rowcount)
