"""The inbox of webhooks: each event once, kept as a hint to look again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import reading, transaction
from core.store.notify import INBOX, notify
from core.store.tables import containers, webhook_inbox

SESSION_STATUS: Final = "session.status"


class InboxEvent(msgspec.Struct, frozen=True):
    """One webhook as it is kept.

    Attributes:
        id: the sender's event id, at most 80 characters.
        body: the envelope; message contents are not in it.
    """

    id: str
    event: str
    session: str
    body: Mapping[str, Any]


async def sealed_hook_key(engine: AsyncEngine, user_id: str) -> bytes | None:
    """What the user's container signs with, sealed; None for a user without container. Raises Unavailable."""
    async with reading(engine) as connection:
        key: bytes | None = await connection.scalar(
            select(containers.c.sealed_hook_key).where(containers.c.user_id == user_id)
        )
    return key


async def record(engine: AsyncEngine, user_id: str, event: InboxEvent) -> bool:
    """Keep the event; False when it was there already. On return it is committed. Raises Unavailable."""
    statement = (
        insert(webhook_inbox)
        .values(
            event_id=event.id,
            user_id=user_id,
            event=event.event,
            session=event.session,
            body=dict(event.body),
        )
        .on_conflict_do_nothing()
        .returning(webhook_inbox.c.event_id)
    )
    async with transaction(engine) as connection:
        new = (await connection.execute(statement)).scalar_one_or_none() is not None
        if new:
            await notify(connection, INBOX, user_id)
    return new
