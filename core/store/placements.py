"""Which allocation may speak for a user, and since which epoch. Only a pass that holds the lease moves it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.domain.actions import Placed
from core.store.tables import placements


async def move(connection: AsyncConnection, user_id: str, placed: Placed) -> int:
    """Make `placed` the user's current placement with the next epoch, and return that.

    The row of the allocation before keeps its guard lease: the new one is granted nothing until that ends.
    An allocation that comes back (its node was only cut off) gets its row back with a new epoch. The
    container's row must be locked by the caller.
    """
    # Batches of guards lock them in this order too.
    mine = select(placements.c.id).where(placements.c.user_id == user_id).order_by(placements.c.id)
    await connection.execute(mine.with_for_update())
    newest = select(func.coalesce(func.max(placements.c.epoch), 0)).where(placements.c.user_id == user_id)
    epoch = int((await connection.execute(newest)).scalar_one()) + 1
    # First the old one: at no moment may two be current (partial unique index).
    await connection.execute(
        update(placements)
        .where(placements.c.user_id == user_id, placements.c.is_current)
        .values(is_current=False)
    )
    made = insert(placements).values(
        user_id=user_id,
        allocation_id=placed.allocation_id,
        node_id=placed.node_id,
        node_name=placed.node_name,
        epoch=epoch,
        is_current=True,
    )
    back = made.on_conflict_do_update(
        index_elements=[placements.c.allocation_id],
        set_={"epoch": epoch, "is_current": True},
        where=placements.c.user_id == user_id,
    )
    await connection.execute(back.returning(placements.c.epoch))
    return epoch


async def free_leases(connection: AsyncConnection, user_id: str, allocation_ids: Collection[str]) -> None:
    """The allocations' own client reported their end: no guard can forward anything for them any more."""
    mine = (placements.c.user_id == user_id, placements.c.allocation_id.in_(sorted(allocation_ids)))
    await connection.execute(select(placements.c.id).where(*mine).order_by(placements.c.id).with_for_update())
    await connection.execute(update(placements).where(*mine).values(lease_until=None))
