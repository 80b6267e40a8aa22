"""The audit log: one line for every change that somebody asked for, written in the change's own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.domain.actor import Actor
from core.store.tables import audit_log


async def record_change(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    user_id: str | None = None,
    target: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Keep who did what; it is there exactly if the change is.

    `action`: `<thing>.<verb>`, such as `chip.create`. `user_id`: whose things were changed. `target`: id of the one
    thing. `detail`: what was asked for, never a secret.
    """
    await connection.execute(
        insert(audit_log).values(
            actor_kind=actor.kind.value,
            actor_id=actor.user_id,
            actor_key=actor.key_id,
            address=actor.address,
            request_id=actor.request_id,
            action=action,
            user_id=user_id,
            target=target,
            detail=dict(detail or {}),
        )
    )
