"""Rollouts in the store: releases, seats, and what the duty and operators change of them.

A pass asks for a seat, leaves it, and settles it under its user's lease; the duty admits and tells who is late
under the lease `fleet`. Each changes only seats that are in the state from which its step leads on. Locks are
taken in one order: lease, release, seats by user id.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import ScalarSelect, and_, case, delete, func, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.domain.rollout import (
    Candidate,
    Control,
    Mover,
    Plan,
    RolloutState,
    Settled,
    View,
)
from core.domain.seat import Seat, SeatState, SeatWhy
from core.store import leases
from core.store.audit import record_change
from core.store.engine import reading, transaction
from core.store.fleet_control import resumed_at
from core.store.interface import Lease
from core.store.notify import INTENTS, notify
from core.store.tables import chips, containers, rollout_seats, rollouts

# Settled moves that a view holds: more than any rule looks at.
SETTLED_READ: Final = 200
_CLOCK: Final = func.clock_timestamp()
_OPEN: Final = (SeatState.WAITING.value, SeatState.MOVING.value)
_SETTLED: Final = (SeatState.OK.value, SeatState.FAILED.value)


class RolloutStore(Protocol):
    """What the duty needs of a store. All methods raise Unavailable."""

    async def rollout_view(self) -> View | None:
        """The newest release with those who wait, move and have moved; None before any was announced."""

    async def is_fleet_paused(self) -> bool:
        """Whether an operator has the whole fleet paused."""

    async def apply_rollout(self, fleet: Lease, before: Control, plan: Plan) -> tuple[str, ...]:
        """Write a plan that was made of `before`; who was admitted by it.

        Nothing is changed when the release or its state is another one by now. Raises StaleWrite when `fleet`
        is lost.
        """


class Standing(msgspec.Struct, frozen=True):
    """What a user's rollout looks like to a person.

    Attributes:
        seat: the user's.
        why: of a seat that failed.
        view: of the newest release; `core.domain.rollout.place` finds the place in the queue.
    """

    seat: Seat
    why: SeatWhy | None
    view: View


def newest_release() -> ScalarSelect[Any]:
    """Part of a statement: the release that rules now."""
    return select(rollouts.c.release).order_by(rollouts.c.announced_at.desc()).limit(1).scalar_subquery()


async def announce(engine: AsyncEngine, release: str) -> None:
    """A daemon with these settings starts its work; a release that is not the newest begins (anew)."""
    fresh: dict[str, Any] = {
        "announced_at": _CLOCK,
        "state": RolloutState.RUNNING.value,
        "why": null(),
        "decided_by": null(),
        "state_since": _CLOCK,
        "counted_from": _CLOCK,
    }
    rules = func.coalesce(newest_release() == release, False)
    row = select(literal(release).label("release")).where(~rules)
    made = insert(rollouts).from_select(["release"], row)
    made = made.on_conflict_do_update(index_elements=[rollouts.c.release], set_=fresh)
    async with reading(engine) as connection:
        await connection.execute(made)


async def newest(engine: AsyncEngine) -> str | None:
    async with reading(engine) as connection:
        found: str | None = await connection.scalar(select(newest_release()))
    return found


async def ask_seat(engine: AsyncEngine, lease: Lease, release: str, restart_hash: str) -> None:
    """See `ReconcileStore.ask_seat`."""
    seat = rollout_seats.c
    another = seat.restart_hash != restart_hash
    unfinished = seat.state.in_([SeatState.MOVING.value, SeatState.FAILED.value])
    broken = or_(and_(another, unfinished), and_(seat.broken, seat.state != SeatState.OK.value))
    made = insert(rollout_seats).from_select(
        ["user_id", "release", "restart_hash"],
        select(containers.c.user_id, literal(release), literal(restart_hash)).where(
            containers.c.user_id == lease.key, newest_release() == release
        ),
    )
    made = made.on_conflict_do_update(
        index_elements=[seat.user_id],
        set_={
            "release": release,
            "restart_hash": restart_hash,
            "state": SeatState.WAITING.value,
            "broken": broken,
            "connected": case((broken, seat.connected), else_=literal([], seat.connected.type)),
            "moved_from": null(),
            "asked_at": _CLOCK,
            "admitted_at": null(),
            "settled_at": null(),
            "why": null(),
        },
    )
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        await connection.execute(made)


async def leave_seat(engine: AsyncEngine, lease: Lease) -> None:
    """See `ReconcileStore.leave_seat`."""
    mine = and_(rollout_seats.c.user_id == lease.key, rollout_seats.c.state.in_(_OPEN))
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        await connection.execute(delete(rollout_seats).where(mine))


async def settle_seat(engine: AsyncEngine, lease: Lease, *, ok: bool, why: SeatWhy | None) -> None:
    """See `ReconcileStore.settle_seat`."""
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        await connection.execute(
            _settled([lease.key], SeatState.OK if ok else SeatState.FAILED, None if ok else why)
        )


def _settled(user_ids: list[str], state: SeatState, why: SeatWhy | None) -> Any:
    moving = rollout_seats.c.state == SeatState.MOVING.value
    return (
        update(rollout_seats)
        .where(rollout_seats.c.user_id.in_(user_ids), moving)
        .values(state=state.value, settled_at=_CLOCK, why=why.value if why else null())
    )


async def read_view(engine: AsyncEngine) -> View | None:
    """See `RolloutStore.rollout_view`."""
    async with reading(engine) as connection:
        row = (
            await connection.execute(select(rollouts).order_by(rollouts.c.announced_at.desc()).limit(1))
        ).one_or_none()
        if row is None:
            return None
        control = Control(row.release, RolloutState(row.state), row.state_since, row.why, row.decided_by)
        return View(
            control=control,
            waiting=await _waiting(connection, row.release),
            moving=await _moving(connection),
            settled=await _newest_settled(connection, row.release, row.counted_from),
        )


async def apply(engine: AsyncEngine, fleet: Lease, before: Control, plan: Plan) -> tuple[str, ...]:
    """See `RolloutStore.apply_rollout`."""
    async with transaction(engine) as connection:
        await leases.guard(connection, fleet)
        # Whoever pauses has the row too: what was admitted before that stays, nobody is admitted after it.
        still = select(rollouts.c.release).where(
            rollouts.c.release == before.release,
            rollouts.c.release == newest_release(),
            rollouts.c.state == before.state.value,
        )
        if (await connection.execute(still.with_for_update())).one_or_none() is None:
            return ()
        if plan.late:
            await connection.execute(_settled(sorted(plan.late), SeatState.FAILED, SeatWhy.LATE))
        if plan.state is not before.state:
            values: dict[str, Any] = {
                "state": plan.state.value,
                "why": plan.why.value if plan.why else null(),
                "decided_by": null(),
                "state_since": _CLOCK,
            }
            if before.state is RolloutState.DONE:
                values["counted_from"] = _CLOCK
            await connection.execute(
                update(rollouts).where(rollouts.c.release == before.release).values(values)
            )
        admitted = await _admit(connection, before.release, plan.admit)
        for user_id in admitted:
            await notify(connection, INTENTS, user_id)
        return admitted


class PostgresRollouts:
    """What people ask of rollouts, and say to them. All methods raise Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def view(self) -> View | None:
        """The newest release with those who wait, move and have moved; None before any was announced."""
        return await read_view(self._engine)

    async def set_paused(self, *, paused: bool, by: str, actor: Actor) -> Control | None:
        """An operator's word on the newest release; None when it stands so already, or none was announced."""
        open_to = (RolloutState.RUNNING, RolloutState.DONE) if paused else (RolloutState.PAUSED,)
        values: dict[str, Any] = {
            "state": (RolloutState.PAUSED if paused else RolloutState.RUNNING).value,
            "why": "operator" if paused else null(),
            "decided_by": by,
            "state_since": _CLOCK,
        }
        if not paused:
            values["counted_from"] = _CLOCK  # failures that the operator knows of do not pause it again
        changed = (
            update(rollouts)
            .where(rollouts.c.release == newest_release())
            .where(rollouts.c.state.in_([state.value for state in open_to]))
            .values(values)
            .returning(rollouts)
        )
        async with transaction(self._engine) as connection:
            row = (await connection.execute(changed)).one_or_none()
            if row is not None:
                action = "rollout.pause" if paused else "rollout.resume"
                await record_change(connection, actor, action, target=row.release, detail={"by": by})
        return row and Control(row.release, RolloutState(row.state), row.state_since, row.why, row.decided_by)

    async def counts(self, release: str) -> dict[str, int]:
        """Seats of a release by state."""
        query = (
            select(rollout_seats.c.state, func.count().label("number"))
            .where(rollout_seats.c.release == release)
            .group_by(rollout_seats.c.state)
        )
        async with reading(self._engine) as connection:
            return {row.state: int(row.number) for row in await connection.execute(query)}

    async def standing(self, user_id: str) -> Standing | None:
        """The user's seat and the rollout that it belongs to; None without a seat."""
        view = await self.view()
        async with reading(self._engine) as connection:
            query = select(rollout_seats).where(rollout_seats.c.user_id == user_id)
            row = (await connection.execute(query)).one_or_none()
        if row is None or view is None:
            return None
        return Standing(seat_of(row), SeatWhy(row.why) if row.why else None, view)

    async def durations(self) -> tuple[float, ...]:
        """Seconds that the newest moves took which went well, of any release."""
        query = (
            select(func.extract("epoch", rollout_seats.c.settled_at - rollout_seats.c.admitted_at))
            .where(rollout_seats.c.state == SeatState.OK.value)
            .order_by(rollout_seats.c.settled_at.desc())
            .limit(SETTLED_READ)
        )
        async with reading(self._engine) as connection:
            return tuple(float(one) for one in (await connection.execute(query)).scalars())


def seat_of(row: Any, prefix: str = "") -> Seat:
    """From the columns of `rollout_seats`, each named with `prefix` before it."""

    def column(name: str) -> Any:
        return getattr(row, prefix + name)

    return Seat(
        release=column("release"),
        restart_hash=column("restart_hash"),
        state=SeatState(column("state")),
        broken=column("broken"),
        connected=tuple(column("connected")),
        moved_from=column("moved_from"),
        admitted_at=column("admitted_at"),
    )


async def _waiting(connection: AsyncConnection, release: str) -> tuple[Candidate, ...]:
    seats = rollout_seats.c
    of_chips = (
        select(
            chips.c.user_id,
            func.count().label("chips"),
            func.count().filter(chips.c.phase == "connected").label("connected"),
            func.max(chips.c.last_activity_at).label("activity_at"),
        )
        .where(chips.c.deleted_at.is_(None))
        .group_by(chips.c.user_id)
        .subquery()
    )
    query = (
        select(seats.user_id, seats.broken, of_chips.c.chips, of_chips.c.connected, of_chips.c.activity_at)
        .join_from(rollout_seats, containers, containers.c.user_id == seats.user_id)
        .outerjoin(of_chips, of_chips.c.user_id == seats.user_id)
        .where(
            seats.release == release,
            seats.state == SeatState.WAITING.value,
            containers.c.deleted_at.is_(None),
        )
        .order_by(seats.user_id)
    )
    return tuple(
        Candidate(row.user_id, row.broken, row.connected or 0, row.chips or 0, row.activity_at)
        for row in await connection.execute(query)
    )


async def _moving(connection: AsyncConnection) -> tuple[Mover, ...]:
    seats = rollout_seats.c
    query = (
        select(
            seats.user_id,
            seats.release,
            # The time of a pause is nobody's failing.
            func.extract("epoch", _CLOCK - func.greatest(seats.admitted_at, resumed_at())).label("for_s"),
            (func.jsonb_array_length(seats.connected) > 0).label("connected"),
        )
        .where(seats.state == SeatState.MOVING.value)
        .order_by(seats.user_id)
    )
    return tuple(
        Mover(row.user_id, row.release, float(row.for_s), row.connected)
        for row in await connection.execute(query)
    )


async def _newest_settled(
    connection: AsyncConnection, release: str, counted_from: Any
) -> tuple[Settled, ...]:
    seats = rollout_seats.c
    query = (
        select(
            seats.state,
            (func.jsonb_array_length(seats.connected) > 0).label("connected"),
            func.extract("epoch", seats.settled_at - seats.admitted_at).label("took_s"),
        )
        .where(seats.release == release, seats.state.in_(_SETTLED), seats.settled_at >= counted_from)
        .order_by(seats.settled_at.desc(), seats.user_id)
        .limit(SETTLED_READ)
    )
    return tuple(
        Settled(row.state == SeatState.OK.value, row.connected, float(row.took_s))
        for row in await connection.execute(query)
    )


async def _admit(connection: AsyncConnection, release: str, user_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Seats that still wait begin to move, with what is connected and where the container runs."""
    seats = rollout_seats.c
    oldest_first = aggregate_order_by(chips.c.id, chips.c.created_at, chips.c.id)
    now_connected = (
        select(func.coalesce(func.jsonb_agg(oldest_first), literal([], seats.connected.type)))
        .where(
            chips.c.user_id == seats.user_id,
            chips.c.phase == "connected",
            chips.c.deleted_at.is_(None),
            ~seats.connected.has_key(chips.c.id.cast(seats.release.type)),
        )
        .scalar_subquery()
    )
    runs = select(containers.c.allocation_id).where(containers.c.user_id == seats.user_id).scalar_subquery()
    moved = (
        update(rollout_seats)
        .where(
            seats.user_id.in_(sorted(user_ids)),
            seats.state == SeatState.WAITING.value,
            seats.release == release,
        )
        .values(
            state=SeatState.MOVING.value,
            admitted_at=_CLOCK,
            connected=seats.connected.op("||")(now_connected),
            moved_from=runs,
        )
        .returning(seats.user_id)
    )
    if not user_ids:
        return ()
    moving = set((await connection.execute(moved)).scalars())
    return tuple(user_id for user_id in user_ids if user_id in moving)
