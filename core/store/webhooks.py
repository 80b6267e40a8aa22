"""The inbox of webhooks: each event once, kept as a hint to look again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, Text, bindparam, case, cast, column, exists, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.names import chip_of_session
from core.domain.qr_view import is_next_code, status_told
from core.domain.states import ChipPhase
from core.store.direct import Prepared, statements
from core.store.notify import INBOX
from core.store.tables import chips, containers, webhook_inbox

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


async def record(engine: AsyncEngine, user_id: str, events: Sequence[InboxEvent]) -> list[bool]:
    """Keep what came together; for each event whether it is new. On return it is committed. Raises Unavailable.

    One that says no more than the store knows, that a chip still shows QR codes, is kept as answered and wakes
    nobody: a look reads from it what the last one read.
    """
    rows = [
        {
            "event_id": event.id,
            "event": event.event,
            "session": event.session,
            "body": event.body,
            "shows_qr": _chip_that_shows_qr(event),
        }
        for event in events
    ]
    values = {"user_id": user_id, "events": msgspec.json.encode(rows).decode()}
    async with statements(engine) as connection:
        kept = {row.event_id for row in await connection.execute(_RECORD, values)}
    found = []
    for event in events:
        found.append(event.id in kept)
        kept.discard(event.id)  # the same one again, in the same breath
    return found


def _chip_that_shows_qr(event: InboxEvent) -> str | None:
    told = event.event == SESSION_STATUS and is_next_code(status_told(event.body.get("payload")))
    return chip_of_session(event.session) if told else None


def _record() -> Select[Any]:
    user_id = bindparam("user_id", type_=containers.c.user_id.type)
    names = ("event_id", "event", "session", "body")
    columns = [column(name, webhook_inbox.c[name].type) for name in names]
    listed = func.jsonb_to_recordset(cast(bindparam("events", type_=Text), JSONB))
    told = listed.table_valued(*columns, column("shows_qr", chips.c.id.type)).render_derived(
        name="told", with_types=True
    )
    known = exists().where(
        chips.c.id == told.c.shows_qr,
        chips.c.user_id == user_id,
        chips.c.wanted == Wanted.CONNECTED,
        chips.c.observed_generation == chips.c.generation,
        chips.c.phase == ChipPhase.QR,
        chips.c.waha_status == WahaStatus.SCAN_QR_CODE,
    )
    answered = case((known, func.clock_timestamp()))
    new = (
        insert(webhook_inbox)
        .from_select(
            ("user_id", *names, "processed_at"), select(user_id, *(told.c[name] for name in names), answered)
        )
        .on_conflict_do_nothing()
        .returning(webhook_inbox.c.event_id, webhook_inbox.c.processed_at)
        .cte("new")
    )
    news = func.pg_notify(INBOX, cast(user_id, Text))
    return select(new.c.event_id, case((new.c.processed_at.is_(None), cast(news, Text))).label("told"))


# One statement, and so one transaction: whoever listens hears of what is committed, and of nothing else.
_RECORD: Final = Prepared(_record())
_HOOK_KEY: Final = Prepared(
    select(containers.c.sealed_hook_key).where(containers.c.user_id == bindparam("user_id"))
)
