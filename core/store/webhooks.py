"""The inbox of webhooks: each event once, kept as a hint to look again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.direct import Prepared, statements
from core.store.notify import INBOX
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
    async with statements(engine) as connection:
        row = (await connection.execute(_HOOK_KEY, {"user_id": user_id})).first()
    return None if row is None else row.sealed_hook_key


async def record(engine: AsyncEngine, user_id: str, event: InboxEvent) -> bool:
    """Keep the event; False when it was there already. On return it is committed. Raises Unavailable."""
    values = {
        "event_id": event.id,
        "user_id": user_id,
        "event": event.event,
        "session": event.session,
        "body": dict(event.body),
        "payload": user_id,
    }
    async with statements(engine) as connection:
        return bool((await connection.execute(_RECORD, values)).all())


_NEW: Final = (
    insert(webhook_inbox)
    .values({name: bindparam(name) for name in ("event_id", "user_id", "event", "session", "body")})
    .on_conflict_do_nothing()
    .returning(webhook_inbox.c.event_id)
    .cte("new")
)
# One statement, and so one transaction: whoever listens hears of what is committed, and of nothing else.
_RECORD: Final = Prepared(select(func.pg_notify(INBOX, bindparam("payload", type_=Text))).select_from(_NEW))
_HOOK_KEY: Final = Prepared(
    select(containers.c.sealed_hook_key).where(containers.c.user_id == bindparam("user_id"))
)
