"""The audit log: one line for every change that somebody asked for, written in the change's own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor, Claim
from core.errors import StaleWrite
from core.store.engine import reading
from core.store.tables import audit_log, idempotency_keys


class Change(msgspec.Struct, frozen=True):
    """One line, as it was written.

    Attributes:
        actor_id: the acting user. actor_name: who sat at the terminal. user_id: whose things were changed.
    """

    id: int
    at: datetime
    actor_kind: str
    actor_id: str | None
    actor_key: str | None
    actor_name: str
    address: str
    request_id: str
    action: str
    user_id: str | None
    target: str | None
    detail: Mapping[str, Any]


async def record_change(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    user_id: str | None = None,
    target: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Keep who did what; it is there exactly if the change is, and so is the mark on the request's claim.

    `action`: `<thing>.<verb>`, such as `chip.create`. `user_id`: whose things were changed. `target`: id of the one
    thing. `detail`: what was asked for, never a secret. Raises StaleWrite when another request has taken the claim
    over: the change must not be.
    """
    if actor.claim is not None:
        await _mark(connection, actor.claim)
    await connection.execute(
        insert(audit_log).values(
            actor_kind=actor.kind.value,
            actor_id=actor.user_id,
            actor_key=actor.key_id,
            address=actor.address,
            actor_name=actor.name,
            request_id=actor.request_id,
            action=action,
            user_id=user_id,
            target=target,
            detail=dict(detail or {}),
        )
    )


async def _mark(connection: AsyncConnection, claim: Claim) -> None:
    mine = (idempotency_keys.c.id == claim.id, idempotency_keys.c.token == claim.token)
    marked = update(idempotency_keys).where(*mine).values(took_effect=True)
    if not (await connection.execute(marked)).rowcount:
        raise StaleWrite("postgres", "another request answers this Idempotency-Key by now")


async def list_changes(
    engine: AsyncEngine,
    *,
    user_id: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> tuple[Change, ...]:
    """The newest `limit` lines, newest first. Raises Unavailable.

    `user_id`: lines that the user wrote or that are about the user's things. `action`: that one, or with a trailing
    dot all of a thing (`chip.`).
    """
    query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
    if user_id is not None:
        query = query.where(or_(audit_log.c.user_id == user_id, audit_log.c.actor_id == user_id))
    if action is not None and action.endswith("."):
        query = query.where(audit_log.c.action.startswith(action, autoescape=True))
    elif action is not None:
        query = query.where(audit_log.c.action == action)
    if since is not None:
        query = query.where(audit_log.c.at >= since)
    async with reading(engine) as connection:
        return tuple(Change(**row._mapping) for row in await connection.execute(query))
