"""Which allocation may speak for a user, and since which epoch. Only a pass that holds the lease moves it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, select, true, update
from sqlalchemy.dialects.postgresql import insert

from core.domain.actions import Placed
from core.store.direct import Direct, Prepared
from core.store.tables import placements


async def move(connection: Direct, user_id: str, placed: Placed) -> int:
    """Make `placed` the user's current placement with the next epoch, and return that.

    The row of the allocation before keeps its guard lease: the new one is granted nothing until that ends.
    An allocation that comes back (its node was only cut off) gets its row back with a new epoch. The
    container's row must be locked by the caller.
    """
    rows = (await connection.execute(_LOCK, {"whose": user_id})).all()
    epoch = max((int(row.epoch) for row in rows), default=0) + 1
    if any(row.is_current for row in rows):
        # First the old one: at no moment may two be current (partial unique index).
        await connection.execute(_NO_LONGER, {"whose": user_id})
    made = {
        "whose": user_id,
        "allocation_id": placed.allocation_id,
        "node_id": placed.node_id,
        "node_name": placed.node_name,
        "epoch": epoch,
    }
    await connection.execute(_MAKE_CURRENT, made)
    return epoch


def _make_current() -> Any:
    made = insert(placements).values(
        user_id=bindparam("whose"),
        allocation_id=bindparam("allocation_id"),
        node_id=bindparam("node_id"),
        node_name=bindparam("node_name"),
        epoch=bindparam("epoch"),
        is_current=true(),
    )
    return made.on_conflict_do_update(
        index_elements=[placements.c.allocation_id],
        set_={"epoch": made.excluded.epoch, "is_current": True},
        where=placements.c.user_id == made.excluded.user_id,
    )


_MINE: Final = placements.c.user_id == bindparam("whose")
# Batches of guards lock them in this order too.
_LOCK: Final = Prepared(
    select(placements.c.epoch, placements.c.is_current)
    .where(_MINE)
    .order_by(placements.c.id)
    .with_for_update()
)
_NO_LONGER: Final = Prepared(
    update(placements).where(_MINE, placements.c.is_current).values(is_current=False)
)
_MAKE_CURRENT: Final = Prepared(_make_current())
