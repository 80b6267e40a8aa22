"""What the plan is made of, in pages: users who are not at rest, with what their newest pass saw."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.desired import Desired
from core.domain.looks import Look, restored
from core.domain.seat import SeatState
from core.store import snapshots
from core.store.engine import reading
from core.store.tables import chips, containers, looks, rollout_seats
from core.wishes import NO_PRINTS, desired_of


class PlanRow(msgspec.Struct, frozen=True):
    """One user.

    Attributes:
        desired: with fingerprints of no job: those are in `look`.
        look, observed_at: what the newest pass saw, and since when it has been the same; None = nothing is kept.
        starts_at: by chip id, when its start token is expected.
    """

    desired: Desired
    look: Look | None
    observed_at: datetime | None
    starts_at: Mapping[str, datetime | None]


async def page(engine: AsyncEngine, *, after: str | None, limit: int) -> tuple[PlanRow, ...]:
    """At most `limit` users of whom a pass might want something, by id, those after `after`. Raises Unavailable.

    A user at rest without a new wish is of no concern: the last pass left nothing to do, nor a deadline.
    """
    seated = select(rollout_seats.c.user_id).where(
        rollout_seats.c.user_id == containers.c.user_id,
        rollout_seats.c.state.in_([SeatState.WAITING.value, SeatState.MOVING.value]),
    )
    moving = or_(
        containers.c.at_rest.is_(False),
        containers.c.generation > containers.c.observed_generation,
        seated.exists(),
    )
    ids = select(containers.c.user_id).where(moving).order_by(containers.c.user_id).limit(limit)
    if after is not None:
        ids = ids.where(containers.c.user_id > after)
    async with reading(engine) as connection:
        user_ids = list((await connection.execute(ids)).scalars())
        if not user_ids:
            return ()
        found = await snapshots.load_many(connection, user_ids)
        seen = {
            row.user_id: row
            for row in await connection.execute(select(looks).where(looks.c.user_id.in_(user_ids)))
        }
        due = {
            row.id: row.starts_at
            for row in await connection.execute(
                select(chips.c.id, chips.c.starts_at).where(
                    chips.c.user_id.in_(user_ids), chips.c.starts_at.is_not(None)
                )
            )
        }
    rows = []
    for snapshot in found:
        kept = seen.get(snapshot.container.user_id)
        rows.append(
            PlanRow(
                desired=desired_of(
                    snapshot, NO_PRINTS, release=snapshot.newest_release or "", superseded=False
                ),
                look=None if kept is None else restored(kept.body),
                observed_at=None if kept is None else kept.observed_at,
                starts_at={chip.id: due.get(chip.id) for chip in snapshot.chips},
            )
        )
    return tuple(rows)
