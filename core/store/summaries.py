"""One row per user, for the sweep: everything in one statement, whose cost is rows and not round trips."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.domain.desired import Registered, SpecHashes
from core.domain.facts import Endpoint
from core.domain.seat import SeatState
from core.store.interface import UserSummary
from core.store.tables import chips, containers, placements, rollout_seats


async def read(connection: AsyncConnection) -> tuple[UserSummary, ...]:
    """All containers, by user id."""
    return tuple(_summary(row) for row in await connection.execute(_SUMMARIES))


def _summaries() -> Select[Any]:
    # Read once and hashed: a subquery per container would look into the chips' index 10,000 times.
    alive = select(chips.c.user_id).where(chips.c.deleted_at.is_(None)).distinct().subquery()
    wanted = and_(containers.c.deleted_at.is_(None), or_(containers.c.pinned, alive.c.user_id.is_not(None)))
    return (
        select(
            containers.c.user_id,
            containers.c.namespace,
            containers.c.storage_id,
            containers.c.deleted_at.is_not(None).label("deleted"),
            func.coalesce(wanted, False).label("wanted"),
            containers.c.generation,
            containers.c.observed_generation,
            containers.c.phase,
            containers.c.reason,
            containers.c.status_since,
            containers.c.observed_at,
            containers.c.spec_hash,
            containers.c.spec_restart_hash,
            containers.c.spec_release,
            containers.c.job_modify_index,
            containers.c.variables_hash,
            placements.c.allocation_id.label("current_allocation"),
            containers.c.allocation_id,
            containers.c.endpoint_address,
            containers.c.endpoint_port,
            containers.c.endpoint_allocation_id,
            containers.c.empty_since,
            containers.c.at_rest,
            rollout_seats.c.release.label("seat_release"),
            func.extract("epoch", func.clock_timestamp() - containers.c.looked_at).label("looked_s"),
        )
        .outerjoin(alive, alive.c.user_id == containers.c.user_id)
        .outerjoin(placements, and_(placements.c.user_id == containers.c.user_id, placements.c.is_current))
        .outerjoin(
            rollout_seats,
            and_(
                rollout_seats.c.user_id == containers.c.user_id,
                rollout_seats.c.state.in_([state.value for state in (SeatState.WAITING, SeatState.MOVING)]),
            ),
        )
        .order_by(containers.c.user_id)
    )


_SUMMARIES: Final = _summaries()


def _summary(row: Row[Any]) -> UserSummary:
    registered = endpoint = None
    if row.job_modify_index is not None:
        hashes = SpecHashes(row.spec_hash, row.spec_restart_hash)
        registered = Registered(hashes, row.job_modify_index, row.spec_release or "")
    if row.endpoint_address is not None:
        endpoint = Endpoint(row.endpoint_address, row.endpoint_port, row.endpoint_allocation_id)
    return UserSummary(
        user_id=row.user_id,
        namespace=row.namespace,
        storage_id=row.storage_id,
        deleted=row.deleted,
        wanted=row.wanted,
        generation=row.generation,
        observed_generation=row.observed_generation,
        phase=row.phase,
        reason=row.reason,
        since=row.status_since,
        observed_at=row.observed_at,
        registered=registered,
        variables_hash=row.variables_hash,
        current_allocation=row.current_allocation,
        allocation_id=row.allocation_id,
        endpoint=endpoint,
        empty_since=row.empty_since,
        at_rest=row.at_rest,
        seat_release=row.seat_release,
        # Not a time: clocks of daemons may be off, this one is the store's.
        looked_s=None if row.looked_s is None else max(0.0, float(row.looked_s)),
    )
