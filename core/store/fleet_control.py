"""An operator's word on the whole fleet: paused or not, by whom, since when and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, case, func, null, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.store import direct
from core.store.audit import record_change
from core.store.direct import Prepared
from core.store.engine import reading, transaction
from core.store.notify import FLEET, INTENTS, notify
from core.store.tables import fleet_control

# The payload on `intents` that has the holder of the lease `fleet` send everybody on the way to a pass.
EVERYBODY: Final = "fleet"


class FleetControl(msgspec.Struct, frozen=True):
    """Attributes:
    reason: in the operator's words, None when none was given.
    by, since: of the newest change; None before the first.
    """

    paused: bool
    reason: str | None = None
    by: str | None = None
    since: datetime | None = None


def is_paused() -> ColumnElement[bool]:
    """Part of a statement: whether the fleet is paused."""
    return func.coalesce(select(fleet_control.c.paused).scalar_subquery(), False)


_PAUSED: Final = Prepared(select(is_paused()))


def resumed_at() -> ColumnElement[Any]:
    """Part of a statement: when the newest pause ended, null while one lasts or before any."""
    since = case((fleet_control.c.paused, null()), else_=fleet_control.c.since)
    return select(since).scalar_subquery()


async def read(engine: AsyncEngine) -> FleetControl:
    """How it stands. Raises Unavailable."""
    async with reading(engine) as connection:
        return await read_on(connection)


async def read_on(connection: AsyncConnection) -> FleetControl:
    """As `read`, on a connection of the caller's."""
    row = (await connection.execute(select(fleet_control))).one_or_none()
    if row is None:
        return FleetControl(paused=False)
    return FleetControl(row.paused, row.reason, row.decided_by, row.since)


async def paused_now(engine: AsyncEngine) -> bool:
    """Whether the fleet is paused at this moment. Raises Unavailable."""
    async with direct.statements(engine) as connection:
        return bool((await connection.execute(_PAUSED)).one()[0])


async def set_paused(
    engine: AsyncEngine, *, paused: bool, reason: str | None, by: str, actor: Actor
) -> tuple[FleetControl, bool]:
    """Pause the fleet or let it go on; how it stands now, and whether that is a change. Raises Unavailable.

    Who pauses a fleet that is paused changes nothing, not even its reason: the first word stands.
    """
    made = insert(fleet_control).values(
        id=1, paused=paused, reason=reason, decided_by=by, since=func.clock_timestamp()
    )
    changed = made.on_conflict_do_update(
        index_elements=[fleet_control.c.id],
        set_={name: made.excluded[name] for name in ("paused", "reason", "decided_by", "since")},
        where=fleet_control.c.paused != paused,
    ).returning(fleet_control.c.id)
    async with transaction(engine) as connection:
        before = await read_on(connection)
        if before.paused is paused:
            return before, False
        if (await connection.execute(changed)).one_or_none() is None:
            return await read_on(connection), False  # somebody else said so in the same moment
        detail = {"reason": reason} if reason else {}
        await record_change(connection, actor, "fleet.pause" if paused else "fleet.resume", detail=detail)
        await notify(connection, INTENTS, EVERYBODY)
        await notify(connection, FLEET, EVERYBODY)
        return await read_on(connection), True
