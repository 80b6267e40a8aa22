"""Annotations of chips. A trusted service acts for all users, so here a chip is found by its id alone.

No other query of the API does that; `requires_service` stands in front of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.domain.annotations import with_annotation
from core.store.audit import record_change
from core.store.engine import transaction
from core.store.intents import unknown_chip
from core.store.notify import OBSERVED, notify
from core.store.tables import chips


async def annotate_chip_of_anybody(
    engine: AsyncEngine, chip_id: str, key: str, value: Any, *, actor: Actor
) -> None:
    """Keep `value`, which the rules of `core.domain.annotations` accepted, under `key`.

    Raises NotFound, Conflict (`annotations_full`), Unavailable.
    """
    async with transaction(engine) as connection:
        await _change(
            connection, chip_id, key, "chip.annotate", actor, lambda kept: with_annotation(kept, key, value)
        )


async def remove_annotation_of_anybody(engine: AsyncEngine, chip_id: str, key: str, *, actor: Actor) -> None:
    """Forget `key`; one that is not there is no error. Raises NotFound, Unavailable."""
    async with transaction(engine) as connection:
        await _change(
            connection,
            chip_id,
            key,
            "chip.annotation_delete",
            actor,
            lambda kept: {name: value for name, value in kept.items() if name != key},
        )


async def _change(
    connection: AsyncConnection,
    chip_id: str,
    key: str,
    action: str,
    actor: Actor,
    change: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    # Nothing else of the user is touched, so this row alone is locked; nobody takes one before it who holds it.
    query = (
        select(chips.c.user_id, chips.c.annotations)
        .where(chips.c.id == chip_id, chips.c.deleted_at.is_(None))
        .with_for_update()
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise unknown_chip()
    after = change(row.annotations)
    if after == row.annotations:
        return
    await connection.execute(
        update(chips)
        .where(chips.c.id == chip_id)
        .values(annotations=after, revision=chips.c.revision + 1, updated_at=func.clock_timestamp())
    )
    # The key alone: what services keep there may name people.
    await record_change(connection, actor, action, user_id=row.user_id, target=chip_id, detail={"key": key})
    await notify(connection, OBSERVED, row.user_id)
