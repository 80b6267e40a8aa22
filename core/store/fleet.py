"""The fleet in figures, from the store alone: a fixed number of statements whatever the number of users."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.states import ContainerPhase
from core.store import fleet_control
from core.store.engine import reading
from core.store.fleet_control import FleetControl
from core.store.proxy_views import SharedExitChip, shared_exits_on
from core.store.rollouts import newest_release
from core.store.tables import chips, containers, hosts, port_ledger, rollout_seats, rollouts, start_queue

_CLOCK: Final = func.clock_timestamp()
_ALIVE: Final = chips.c.deleted_at.is_(None)


class HostFigures(msgspec.Struct, frozen=True):
    """A host; `observed_at` of the sweep that saw it, None where only rows of containers name it."""

    name: str
    address: str | None
    containers: int
    ports_used: int
    memory_mb: int | None
    observed_at: datetime | None
    chips: int = 0
    connected: int = 0


class RolloutFigures(msgspec.Struct, frozen=True):
    release: str
    state: str
    since: datetime
    why: str | None
    waiting: int = 0
    moving: int = 0
    ok: int = 0
    failed: int = 0


class FleetFigures(msgspec.Struct, frozen=True):
    """See `api.schemas_operators.FleetSummary`; `now` is the store's clock."""

    containers: dict[str, int]
    reasons: dict[str, int]
    chips: dict[str, int]
    users: int
    at_rest: int
    users_unseen: int
    chips_waiting: int
    oldest_wait_s: float | None
    capacity_waiting: int
    hosts: tuple[HostFigures, ...]
    control: FleetControl
    rollout: RolloutFigures | None
    shared_exits: tuple[SharedExitChip, ...]
    swept_at: datetime | None
    oldest_look_at: datetime | None
    now: datetime


async def read(engine: AsyncEngine) -> FleetFigures:
    """Everything. Raises Unavailable."""
    async with reading(engine) as connection:
        grouped = (
            await connection.execute(
                select(
                    containers.c.phase,
                    containers.c.reason,
                    func.count().label("users"),
                    func.count().filter(containers.c.at_rest).label("at_rest"),
                    func.count()
                    .filter(containers.c.generation > containers.c.observed_generation)
                    .label("unseen"),
                    func.min(containers.c.looked_at).label("oldest"),
                ).group_by(containers.c.phase, containers.c.reason)
            )
        ).all()
        words = select(chips.c.status, func.count()).where(_ALIVE).group_by(chips.c.status)
        by_status = {status: int(number) for status, number in await connection.execute(words)}
        line = (
            await connection.execute(
                select(
                    func.count().label("number"),
                    func.extract("epoch", _CLOCK - func.min(start_queue.c.waiting_since)).label("oldest"),
                    _CLOCK.label("now"),
                ).where(start_queue.c.expires_at > _CLOCK)
            )
        ).one()
        phases, reasons = Counter[str](), Counter[str]()
        for row in grouped:
            phases[row.phase] += row.users
            if row.reason is not None:
                reasons[row.reason] += row.users
        found = await _hosts(connection)
        return FleetFigures(
            containers=dict(sorted(phases.items())),
            reasons=dict(sorted(reasons.items())),
            chips=dict(sorted(by_status.items())),
            users=sum(phases.values()),
            at_rest=sum(row.at_rest for row in grouped),
            users_unseen=sum(row.unseen for row in grouped),
            chips_waiting=line.number,
            oldest_wait_s=None if line.oldest is None else round(max(0.0, float(line.oldest)), 3),
            capacity_waiting=phases[ContainerPhase.WAITING],
            hosts=found,
            control=await fleet_control.read_on(connection),
            rollout=await _rollout(connection),
            shared_exits=await shared_exits_on(connection),
            swept_at=max((one.observed_at for one in found if one.observed_at is not None), default=None),
            oldest_look_at=min((row.oldest for row in grouped if row.oldest is not None), default=None),
            now=line.now,
        )


async def _hosts(connection: AsyncConnection) -> tuple[HostFigures, ...]:
    """What the newest sweep saw, with the chips that the store has there; hosts that it did not see yet, too."""
    there = (
        select(
            containers.c.node_name,
            func.count(func.distinct(containers.c.user_id)).label("users"),
            func.count(chips.c.id).label("chips"),
            func.count(chips.c.id).filter(chips.c.phase == "connected").label("connected"),
            func.min(containers.c.address).label("address"),
        )
        .outerjoin(chips, and_(chips.c.user_id == containers.c.user_id, _ALIVE))
        .where(containers.c.node_name.is_not(None))
        .group_by(containers.c.node_name)
    )
    stored = {row.node_name: row for row in await connection.execute(there)}
    booked = (
        select(port_ledger.c.address, func.count().label("ports"))
        .where(port_ledger.c.closed_at.is_(None))
        .group_by(port_ledger.c.address)
    )
    ports = {row.address: int(row.ports) for row in await connection.execute(booked)}
    swept = {row.name: row for row in await connection.execute(select(hosts))}
    found = []
    for name in sorted({*stored, *swept}):
        mine, seen = stored.get(name), swept.get(name)
        address = seen.address if seen is not None else mine.address if mine is not None else None
        found.append(
            HostFigures(
                name=name,
                address=address,
                containers=seen.containers if seen is not None else mine.users if mine is not None else 0,
                ports_used=seen.ports_used if seen is not None else ports.get(address or "", 0),
                memory_mb=None if seen is None else seen.memory_mb,
                observed_at=None if seen is None else seen.observed_at,
                chips=0 if mine is None else mine.chips,
                connected=0 if mine is None else mine.connected,
            )
        )
    return tuple(found)


async def _rollout(connection: AsyncConnection) -> RolloutFigures | None:
    query = (
        select(rollouts.c.release, rollouts.c.state, rollouts.c.state_since, rollouts.c.why)
        .add_columns(rollout_seats.c.state.label("seat"), func.count(rollout_seats.c.user_id).label("number"))
        .outerjoin(rollout_seats, rollout_seats.c.release == rollouts.c.release)
        .where(rollouts.c.release == newest_release())
        .group_by(
            *(rollouts.c[name] for name in ("release", "state", "state_since", "why")), rollout_seats.c.state
        )
    )
    rows = (await connection.execute(query)).all()
    if not rows:
        return None
    seats = {row.seat: int(row.number) for row in rows if row.seat is not None}
    first = rows[0]
    return RolloutFigures(first.release, first.state, first.state_since, first.why, **seats)


class ChipFigures(msgspec.Struct, frozen=True):
    """A chip as an operator's stream tells of it; `status` in upper case."""

    id: str
    user_id: str
    alias: str
    status: str
    phase: str
    reason: str | None


async def chips_of(engine: AsyncEngine, user_ids: list[str]) -> tuple[ChipFigures, ...]:
    """The living chips of these users, by user and age. Raises Unavailable."""
    names = ChipFigures.__struct_fields__
    query = (
        select(*(chips.c[name] for name in names))
        .where(chips.c.user_id.in_(user_ids), _ALIVE)
        .order_by(chips.c.user_id, chips.c.created_at, chips.c.id)
    )
    async with reading(engine) as connection:
        return tuple(ChipFigures(*row) for row in await connection.execute(query))
