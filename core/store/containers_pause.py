"""An operator's pause of one user: its sessions are stopped, and started again when it ends."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.containers import next_generation
from core.store.engine import transaction
from core.store.notify import INTENTS, notify
from core.store.tables import containers, users


async def pause_container(engine: AsyncEngine, user_id: str, *, paused: bool) -> bool:
    """Pause the user's sessions, or end the pause; False when there is no container or it is so already.

    Raises Unavailable.
    """
    async with transaction(engine) as connection:
        # The order in which passes and wishes take these rows.
        await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
        changed = (
            update(containers)
            .where(containers.c.user_id == user_id, containers.c.paused != paused)
            .values(paused=paused)
        )
        if not (await connection.execute(changed)).rowcount:
            return False
        await next_generation(connection, user_id)
        await notify(connection, INTENTS, user_id)
        return True
