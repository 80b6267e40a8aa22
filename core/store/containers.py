"""Container rows: made by the API with a user's first chip, read by operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.crypto import Sealer, new_api_key, new_hook_key, new_namespace
from core.domain.actor import Actor
from core.domain.facts import Endpoint
from core.domain.names import container_name, job_id
from core.domain.states import ContainerPhase
from core.store.audit import record_change
from core.store.engine import reading, transaction
from core.store.interface import ContainerSecrets
from core.store.tables import chips, containers, placements

# What `docker ps` called the same situation; the predecessor's tools compare these words.
_DOCKER_STATUS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ContainerPhase.ABSENT: "created",
        ContainerPhase.REGISTERING: "created",
        ContainerPhase.PLACING: "created",
        ContainerPhase.WAITING: "created",
        ContainerPhase.BOOTING: "running",
        ContainerPhase.READY: "running",
        ContainerPhase.FAILING: "restarting",
        ContainerPhase.MOVING: "restarting",
        ContainerPhase.STOPPING: "removing",
    }
)


class ContainerView(msgspec.Struct, frozen=True):
    """What an operator sees of a container. Image and engine are settings and not kept per container.

    Attributes:
        container_id: the newest live allocation, None until placed.
        node, address, port: where that allocation is, from the moment it is placed.
        base_url: where WAHA answers; None while no endpoint counts, whatever address and port say.
        status: Docker's word for the phase.
        epoch: of the current placement, None before the first.
        chips: how many chips the user has, tombstones not counted.
    """

    user_id: str
    container_name: str
    container_id: str | None
    job: str
    node: str | None
    address: str | None
    port: int | None
    base_url: str | None
    status: str
    phase: str
    reason: str | None
    epoch: int | None
    chips: int
    created_at: datetime
    deleted: bool


async def ensure_container(
    connection: AsyncConnection, user_id: str, sealer: Sealer, storage_id: str
) -> None:
    """Make the user's container row if there is none, with random namespace and keys; revive a deleted one.

    Belongs at the start of the transaction that accepts a chip: afterwards the row is locked until its end,
    so that chips of one user are counted one create at a time and the reconciler cannot remove the row
    meanwhile.
    """
    made = insert(containers).values(
        user_id=user_id,
        namespace=new_namespace(),
        storage_id=storage_id,
        sealed_api_key=sealer.seal(new_api_key()),
        sealed_hook_key=sealer.seal(new_hook_key()),
    )
    # A row that the WHERE leaves alone is locked all the same (PostgreSQL manual, INSERT, ON CONFLICT).
    await connection.execute(
        made.on_conflict_do_update(
            index_elements=[containers.c.user_id],
            set_={"deleted_at": None, "generation": containers.c.generation + 1},
            where=containers.c.deleted_at.is_not(None),
        )
    )


async def next_generation(connection: AsyncConnection, user_id: str) -> int:
    """The generation of a new intent of this user, greater than any that the user ever had.

    One counter for the container and all its chips, so that a pass sees from one number whether anything
    was wished since it loaded. The container row must exist; it is locked until the transaction ends.
    """
    newest = select(func.coalesce(func.max(chips.c.generation), 0)).where(chips.c.user_id == user_id)
    raised = (
        update(containers)
        .where(containers.c.user_id == user_id)
        .values(generation=func.greatest(containers.c.generation, newest.scalar_subquery()) + 1)
        .returning(containers.c.generation)
    )
    return int((await connection.execute(raised)).scalar_one())


async def read_container(engine: AsyncEngine, user_id: str) -> ContainerView | None:
    """One container as operators see it; None when the user has none. Raises Unavailable."""
    async with reading(engine) as connection:
        row = (await connection.execute(_views().where(containers.c.user_id == user_id))).one_or_none()
    return None if row is None else _view(row)


async def read_containers(engine: AsyncEngine, user_ids: Sequence[str]) -> tuple[ContainerView, ...]:
    """Those of these users that there are. Raises Unavailable."""
    async with reading(engine) as connection:
        found = await connection.execute(_views().where(containers.c.user_id.in_(user_ids)))
        return tuple(_view(row) for row in found)


async def list_containers(
    engine: AsyncEngine,
    *,
    after: str | None = None,
    limit: int = 100,
    phase: str | None = None,
    node: str | None = None,
) -> tuple[ContainerView, ...]:
    """Containers that nobody deleted, by user id, those after `after`. Raises Unavailable.

    By an id that never changes: whatever comes and goes between two pages, none is shown twice and none that
    stays is left out.
    """
    query = _views().where(containers.c.deleted_at.is_(None)).order_by(containers.c.user_id).limit(limit)
    if after is not None:
        query = query.where(containers.c.user_id > after)
    if phase is not None:
        query = query.where(containers.c.phase == phase)
    if node is not None:
        query = query.where(containers.c.node_name == node)
    async with reading(engine) as connection:
        return tuple(_view(row) for row in await connection.execute(query))


async def hand_out_access(
    engine: AsyncEngine, user_id: str, sealer: Sealer, *, actor: Actor
) -> ContainerSecrets | None:
    """As `container_secrets`, for somebody who asked: it is on record before anybody has the key."""
    secrets = await container_secrets(engine, user_id, sealer)
    if secrets is not None:
        async with transaction(engine) as connection:
            await record_change(connection, actor, "container.access", user_id=user_id)
    return secrets


async def container_secrets(engine: AsyncEngine, user_id: str, sealer: Sealer) -> ContainerSecrets | None:
    """The container's keys in plain text; None when the user has no container.

    Raises Unavailable, or SecretUnreadable when no key in the settings opens them.
    """
    query = select(containers.c.sealed_api_key, containers.c.sealed_hook_key)
    async with reading(engine) as connection:
        row = (await connection.execute(query.where(containers.c.user_id == user_id))).one_or_none()
    if row is None:
        return None
    return ContainerSecrets(sealer.open(row.sealed_api_key), sealer.open(row.sealed_hook_key))


def _views() -> Any:
    alive = (
        select(func.count())
        .select_from(chips)
        .where(chips.c.user_id == containers.c.user_id, chips.c.deleted_at.is_(None))
        .scalar_subquery()
    )
    epoch = (
        select(placements.c.epoch)
        .where(placements.c.user_id == containers.c.user_id, placements.c.is_current)
        .scalar_subquery()
    )
    return select(containers, alive.label("chips"), epoch.label("epoch"))


def _view(row: Row[Any]) -> ContainerView:
    endpoint = None
    if row.endpoint_address is not None:
        endpoint = Endpoint(row.endpoint_address, row.endpoint_port, row.endpoint_allocation_id)
    return ContainerView(
        user_id=row.user_id,
        container_name=container_name(row.user_id),
        container_id=row.allocation_id,
        job=job_id(row.user_id),
        node=row.node_name,
        address=row.address,
        port=row.port,
        base_url=endpoint.base_url if endpoint else None,
        status=_DOCKER_STATUS[row.phase],
        phase=row.phase,
        reason=row.reason,
        epoch=row.epoch,
        chips=row.chips,
        created_at=row.created_at,
        deleted=row.deleted_at is not None,
    )
