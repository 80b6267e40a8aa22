"""What operators wish of a whole container: keep it without chips, or take all of it down."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.crypto import Sealer
from core.domain.actor import Actor
from core.errors import Conflict, NotFound
from core.store.audit import record_change
from core.store.containers import ensure_container, next_generation
from core.store.engine import transaction
from core.store.intents import bury
from core.store.notify import INTENTS, notify
from core.store.tables import chips, containers, users

NO_SUCH_USER: Final = "Usuário não encontrado."
NOTHING_TO_RESTART: Final = (
    "O container não está em execução, então não há o que reiniciar. "
    "Ele inicia sozinho; tente novamente em instantes."
)


async def pin_container(
    engine: AsyncEngine, sealer: Sealer, storage_id: str, user_id: str, *, pinned: bool, actor: Actor
) -> bool:
    """Keep the user's container even without chips, or no longer; made when there is none to keep.

    Whether it was made, or brought back from its removal. Raises NotFound (`user_not_found`), Unavailable.
    """
    async with transaction(engine) as connection:
        known = select(users.c.id).where(users.c.id == user_id).with_for_update()
        if (await connection.execute(known)).one_or_none() is None:
            raise NotFound(NO_SUCH_USER, code="user_not_found")
        alive = select(containers.c.user_id).where(
            containers.c.user_id == user_id, containers.c.deleted_at.is_(None)
        )
        made = pinned and (await connection.execute(alive)).one_or_none() is None
        if pinned:
            await ensure_container(connection, user_id, sealer, storage_id)
        if await _switched(connection, user_id, containers.c.pinned, to=pinned):
            action = "container.create" if made else "container.pin" if pinned else "container.unpin"
            await record_change(connection, actor, action, user_id=user_id)
        return made


async def pause_container(engine: AsyncEngine, user_id: str, *, paused: bool, actor: Actor) -> bool:
    """Stop the user's sessions, or end that: they start again then.

    False when there is no container or it is so already. Raises Unavailable.
    """
    async with transaction(engine) as connection:
        # The order in which passes and wishes take these rows.
        await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
        changed = await _switched(connection, user_id, containers.c.paused, to=paused)
        if changed:
            action = "container.pause" if paused else "container.resume"
            await record_change(connection, actor, action, user_id=user_id)
        return changed


async def restart_container(engine: AsyncEngine, user_id: str, *, actor: Actor) -> int | None:
    """Have the container's process started again in place; the generation of the wish.

    A wish that is not answered yet stands for this one too. None when there is no container.
    Raises Conflict (`container_not_placed`) while nothing of it is placed anywhere, Unavailable.
    """
    async with transaction(engine) as connection:
        await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
        standing = (
            select(
                containers.c.restart_generation,
                containers.c.restarted_generation,
                containers.c.allocation_id,
            )
            .where(containers.c.user_id == user_id, containers.c.deleted_at.is_(None))
            .with_for_update()
        )
        row = (await connection.execute(standing)).one_or_none()
        if row is None:
            return None
        if row.restart_generation > row.restarted_generation:
            return int(row.restart_generation)
        if row.allocation_id is None:
            raise Conflict(NOTHING_TO_RESTART, code="container_not_placed")
        generation = await next_generation(connection, user_id)
        await connection.execute(
            update(containers)
            .where(containers.c.user_id == user_id)
            .values(restart_generation=generation, restart_allocation_id=row.allocation_id)
        )
        await record_change(connection, actor, "container.restart", user_id=user_id)
        await notify(connection, INTENTS, user_id)
        return generation


async def _switched(connection: AsyncConnection, user_id: str, switch: Column[bool], *, to: bool) -> bool:
    """Set a wish that is on or off; False when there is no container or it is so already."""
    changed = (
        update(containers).where(containers.c.user_id == user_id, switch != to).values({switch.name: to})
    )
    if not (await connection.execute(changed)).rowcount:
        return False
    await next_generation(connection, user_id)
    await notify(connection, INTENTS, user_id)
    return True


async def delete_container(engine: AsyncEngine, user_id: str, *, actor: Actor) -> tuple[str, ...] | None:
    """Take the user's container down with all its chips, pin or not; they become tombstones in one step.

    The chips that went with it; None when there is none or it is being removed already. A chip that the user
    creates later revives it.
    """
    async with transaction(engine) as connection:
        standing = select(containers.c.deleted_at).where(containers.c.user_id == user_id).with_for_update()
        row = (await connection.execute(standing)).one_or_none()
        if row is None or row.deleted_at is not None:
            return None
        await connection.execute(
            update(containers)
            .where(containers.c.user_id == user_id)
            .values(pinned=False, deleted_at=func.clock_timestamp())
        )
        generation = await next_generation(connection, user_id)
        live = (
            select(chips.c.id)
            .where(chips.c.user_id == user_id, chips.c.deleted_at.is_(None))
            .order_by(chips.c.id)
            .with_for_update()
        )
        gone = list((await connection.execute(live)).scalars())
        if gone:
            await bury(connection, user_id, gone, generation)
        await record_change(connection, actor, "container.delete", user_id=user_id, detail={"chips": gone})
        await notify(connection, INTENTS, user_id)
        return tuple(gone)
