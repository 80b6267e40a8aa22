"""What people read of their chips, one statement a call, outside any transaction."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.desired import Tries
from core.domain.evidence import restored
from core.domain.facts import Endpoint
from core.domain.states import ContainerPhase
from core.domain.story import ContainerStory, Story, Waits
from core.domain.views import StoredChip, StoredContainer
from core.store.direct import Prepared, statements
from core.store.engine import reading
from core.store.snapshots import memory_of
from core.store.tables import chips, containers, evidence, plans, users


class SealedAccess(msgspec.Struct, frozen=True):
    """How a user's container is reached; the key still sealed.

    Attributes:
        endpoint: None while no endpoint counts.
    """

    endpoint: Endpoint | None
    sealed_api_key: bytes


async def list_chips(engine: AsyncEngine, user_id: str) -> tuple[StoredChip, ...]:
    """A user's chips, oldest first, without deleted ones. Raises Unavailable."""
    query = _chips().where(chips.c.user_id == user_id).order_by(chips.c.created_at, chips.c.id)
    async with reading(engine) as connection:
        return tuple(_chip(row) for row in await connection.execute(query))


async def read_chip(engine: AsyncEngine, user_id: str, chip_id: str) -> StoredChip | None:
    """One chip of the user; None for another user's, a deleted or an unknown one. Raises Unavailable."""
    async with reading(engine) as connection:
        return await chip_of(connection, user_id, chip_id)


async def chip_of(
    connection: AsyncConnection, user_id: str, chip_id: str, *, lock: bool = False
) -> StoredChip | None:
    """As `read_chip`, on a connection of the caller's; `lock` keeps the row until its transaction ends."""
    query = _chips().where(chips.c.user_id == user_id, chips.c.id == chip_id)
    if lock:
        query = query.with_for_update(of=chips)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _chip(row)


async def read_story(engine: AsyncEngine, user_id: str, chip_id: str) -> Story | None:
    """Everything that explains one chip of the user; None as in `read_chip`. Raises Unavailable."""
    query = _STORIES.where(chips.c.user_id == user_id, chips.c.id == chip_id)
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else _story(row)


_ACCESS: Final = Prepared(
    select(
        containers.c.endpoint_address,
        containers.c.endpoint_port,
        containers.c.endpoint_allocation_id,
        containers.c.sealed_api_key,
    ).where(containers.c.user_id == bindparam("user_id"))
)


async def sealed_access(engine: AsyncEngine, user_id: str) -> SealedAccess | None:
    """Endpoint and sealed key of the user's container; None when there is none. Raises Unavailable."""
    async with statements(engine) as connection:
        row = (await connection.execute(_ACCESS, {"user_id": user_id})).first()
    if row is None:
        return None
    endpoint = None
    if row.endpoint_address is not None:
        endpoint = Endpoint(row.endpoint_address, row.endpoint_port, row.endpoint_allocation_id)
    return SealedAccess(endpoint, row.sealed_api_key)


def _chips() -> Select[Any]:
    return (
        select(
            chips,
            containers.c.phase.label("container_phase"),
            containers.c.reason.label("container_reason"),
            containers.c.port.label("container_port"),
            containers.c.node_name.label("container_node"),
        )
        .join_from(chips, containers, chips.c.user_id == containers.c.user_id, isouter=True)
        .where(chips.c.deleted_at.is_(None))
    )


def _stories() -> Select[Any]:
    named = ("status_since", "looked_at", "at_rest", "allocation_id", "key_renewed_for", "endpoint_address")
    return (
        _chips()
        .add_columns(
            plans.c.max_chips,
            evidence.c.body.label("evidence"),
            *(containers.c[name].label(f"container_{name}") for name in named),
        )
        .join(users, users.c.id == chips.c.user_id)
        .join(plans, plans.c.slug == users.c.plan_slug)
        .outerjoin(evidence, evidence.c.user_id == chips.c.user_id)
    )


_STORIES: Final = _stories()


def _story(row: Row[Any]) -> Story:
    container = None
    if row.container_phase is not None:
        container = ContainerStory(
            phase=row.container_phase,
            reason=row.container_reason,
            since=row.container_status_since,
            looked_at=row.container_looked_at,
            at_rest=row.container_at_rest,
            answers=row.container_endpoint_address is not None,
            allocation_id=row.container_allocation_id,
            key_renewed_for=row.container_key_renewed_for,
        )
    return Story(
        chip=_chip(row),
        tries=Tries(row.tries_generation, row.tries_failures, row.tries_qr_rounds, row.tries_last_at),
        max_chips=row.max_chips,
        container=container,
        evidence=restored(row.evidence),
        waits=Waits(starts_at=row.starts_at, breaker_until=memory_of(row.memory).breaker.open_until),
    )


def _chip(row: Row[Any]) -> StoredChip:
    return StoredChip(
        id=row.id,
        user_id=row.user_id,
        alias=row.alias,
        wanted=row.wanted,
        generation=row.generation,
        observed_generation=row.observed_generation,
        phase=row.phase,
        reason=row.reason,
        status=row.status,
        waha_status=row.waha_status,
        since=row.status_since,
        started_at=row.tries_last_at,
        starts_at=row.starts_at,
        phone_number=row.phone_number,
        health_score=row.health_score,
        unlinked=row.unlinked_generation is not None,
        annotations=row.annotations,
        created_at=row.created_at,
        updated_at=row.updated_at,
        connected_at=row.connected_at,
        last_activity_at=row.last_activity_at,
        container=StoredContainer(
            phase=row.container_phase or ContainerPhase.ABSENT,
            reason=row.container_reason,
            port=row.container_port,
            node=row.container_node,
        ),
    )
