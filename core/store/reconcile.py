"""The reconciler's store on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, exists, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock, SystemClock
from core.crypto import Sealer
from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Registered, Tries
from core.domain.evidence import Evidence
from core.domain.facts import Peers
from core.domain.guard_wire import Upstream
from core.domain.host_use import HostUse
from core.domain.looks import Look
from core.domain.names import parse_id
from core.domain.pacing import Ask, Pace, Turns
from core.domain.rollout import Control, Plan, View
from core.domain.routes import ChipRoute, LabelWhy, NoRoute, Reading
from core.domain.seat import SeatWhy
from core.errors import StaleWrite
from core.store import (
    direct,
    fleet_control,
    hosts,
    labels,
    leases,
    peers,
    rollouts,
    snapshots,
    starts,
    status,
    summaries,
    upstreams,
)
from core.store.begin import Begun, begin
from core.store.direct import Prepared
from core.store.engine import SYSTEM, reading, transaction
from core.store.housekeeping import forget_placements
from core.store.interface import (
    VARIABLES_LOST,
    Answered,
    Busy,
    Lease,
    PortTaken,
    Release,
    UserSnapshot,
    UserSummary,
    Written,
)
from core.store.notify import OBSERVED, notify
from core.store.tables import chip_events, chips, containers, port_ledger, rollout_seats
from core.store.tables import evidence as evidence_rows


class PostgresReconcileStore:
    """`ReconcileStore` and `RolloutStore` on PostgreSQL. Safe for any number of passes at once; owns no connection.

    `load` raises core.crypto.SecretUnreadable as well, when no key in the settings opens the container's.
    """

    def __init__(
        self, engine: AsyncEngine, sealer: Sealer, clock: Clock | None = None, *, label_secret: bytes = b""
    ) -> None:
        """`clock`: only its monotonic half is used, to say from when on a lease counts for its owner.

        `label_secret`: what labels are made from; without one none can be given.
        """
        self._engine = engine
        self._opened = snapshots.opening(sealer)
        self._password = upstreams.opening(sealer)
        self._label_secret = label_secret
        self._clock = clock or SystemClock()
        self._begun: dict[str, Begun] = {}  # between a user's claim and its load

    async def claim(
        self, key: str, owner: str, ttl_s: float, *, news_age_s: float | None = None
    ) -> Lease | Busy | Answered:
        sent_at = self._clock.monotonic()
        self._begun.pop(key, None)
        answer: int | Begun | Busy | Answered
        async with direct.statements(self._engine) as connection:
            if parse_id(key) is None:
                answer = await leases.claim(connection, key, owner, ttl_s, news_age_s)
            else:
                answer = await begin(connection, key, owner, ttl_s, news_age_s)
        if isinstance(answer, Begun):
            self._begun[key] = answer
            answer = answer.token
        if isinstance(answer, int):
            return Lease(key=key, owner=owner, token=answer, sent_at=sent_at, ttl_s=ttl_s)
        return answer

    async def extend(self, lease: Lease) -> Lease | None:
        sent_at = self._clock.monotonic()
        async with direct.statements(self._engine) as connection:
            extended = await leases.extend(connection, lease)
        if not extended:
            return None
        return Lease(lease.key, lease.owner, lease.token, sent_at, lease.ttl_s)

    async def release(self, lease: Lease, *, looked: bool = False) -> int | None:
        user_id = parse_id(lease.key)  # of a lease of the fleet: none
        values = leases.as_parameters(lease) | {"user_id": user_id}
        async with direct.statements(self._engine) as connection:
            row = (await connection.execute(_RELEASE_LOOKED if looked else _RELEASE, values)).one()
        return int(row.newest) if row.released else None

    async def load(self, user_id: str, lease: Lease | None = None) -> UserSnapshot | None:
        begun = self._begun.pop(user_id, None) if lease is not None else None
        if lease is not None and begun is not None and begun.token == lease.token and begun.rows is not None:
            return snapshots.opened_snapshot(begun.rows, self._opened)
        async with direct.statements(self._engine) as connection:
            return await snapshots.load(connection, user_id, self._opened)

    async def is_fleet_paused(self) -> bool:
        return await fleet_control.paused_now(self._engine)

    async def user_ids(self) -> tuple[str, ...]:
        query = select(containers.c.user_id).order_by(containers.c.user_id)
        async with reading(self._engine) as connection:
            return tuple((await connection.execute(query)).scalars())

    async def summaries(self) -> tuple[UserSummary, ...]:
        async with reading(self._engine) as connection:
            return await summaries.read(connection)

    async def peers(self, user_id: str, window_s: float) -> Peers:
        async with reading(self._engine) as connection:
            return await peers.read(connection, user_id, window_s)

    async def record_registered(self, lease: Lease, registered: Registered | None) -> None:
        await self._record(
            lease,
            _RECORD_REGISTERED,
            spec_hash=registered.hashes.spec if registered else None,
            spec_restart_hash=registered.hashes.restart if registered else None,
            job_modify_index=registered.modify_index if registered else None,
            spec_release=registered.release or None if registered else None,
        )

    async def record_variables(self, lease: Lease, hash_: str | None) -> None:
        await self._record(lease, _RECORD_VARIABLES, variables_hash=hash_)

    async def variables_lost(self, fleet: Lease, user_ids: Collection[str]) -> None:
        whose = and_(containers.c.user_id.in_(sorted(user_ids)), containers.c.variables_hash.is_not(None))
        lock = select(containers.c.user_id).where(whose).order_by(containers.c.user_id)
        async with transaction(self._engine) as connection:
            await leases.guard(connection, fleet)
            await connection.execute(lock.with_for_update(key_share=True))
            await connection.execute(update(containers).where(whose).values(variables_hash=VARIABLES_LOST))

    async def record_hosts(self, fleet: Lease, uses: Sequence[HostUse]) -> None:
        await hosts.record(self._engine, fleet, uses)

    async def record_renewal(self, lease: Lease, allocation_id: str) -> None:
        await self._record(lease, _RECORD_RENEWAL, key_renewed_for=allocation_id)

    async def record_restart_begun(self, lease: Lease, restarts: int) -> None:
        await self._record(lease, _RECORD_RESTART_BEGUN, restart_mark=restarts)

    async def record_restarted(self, lease: Lease, generation: int) -> None:
        await self._record(lease, _RECORD_RESTARTED, answered=generation)

    async def _record(self, lease: Lease, statement: Prepared, **values: object) -> None:
        async with direct.statements(self._engine) as connection:
            done = await connection.execute(
                statement, values | {"whose": lease.key} | leases.as_parameters(lease)
            )
        if done.first() is None:
            raise leases.stale(lease)

    async def take_starts(
        self, lease: Lease, asks: Sequence[Ask], pace: Pace, tries: Mapping[str, Tries]
    ) -> Turns | None:
        return await starts.take(self._engine, lease, asks, pace, tries)

    async def assign_label(self, lease: Lease, chip_id: str, why: LabelWhy) -> ChipRoute | NoRoute:
        return await labels.assign(self._engine, lease, chip_id, why, self._label_secret)

    async def release_label(self, lease: Lease, chip_id: str) -> None:
        await labels.release(self._engine, lease, chip_id)

    async def upstream(self, chip_id: str) -> Upstream | NoRoute:
        return await labels.upstream(self._engine, chip_id, self._password)

    async def record_reading(self, lease: Lease, chip_id: str, generation: int, reading: Reading) -> None:
        await labels.record_reading(self._engine, lease, chip_id, generation, reading)

    async def announce_release(self, release: str) -> None:
        await rollouts.announce(self._engine, release)

    async def newest_release(self) -> str | None:
        return await rollouts.newest(self._engine)

    async def ask_seat(self, lease: Lease, release: str, restart_hash: str) -> None:
        await rollouts.ask_seat(self._engine, lease, release, restart_hash)

    async def leave_seat(self, lease: Lease) -> None:
        await rollouts.leave_seat(self._engine, lease)

    async def settle_seat(self, lease: Lease, *, ok: bool, why: SeatWhy | None = None) -> None:
        await rollouts.settle_seat(self._engine, lease, ok=ok, why=why)

    async def rollout_view(self) -> View | None:
        return await rollouts.read_view(self._engine)

    async def apply_rollout(self, fleet: Lease, before: Control, plan: Plan) -> tuple[str, ...]:
        return await rollouts.apply(self._engine, fleet, before, plan)

    async def write_status(
        self,
        lease: Lease,
        container: ContainerStatus,
        chips: Mapping[str, ChipStatus],
        generations: Mapping[str, int],
        container_generation: int,
        *,
        release_ports_of: tuple[str, ...] = (),
        evidence: Evidence | None = None,
        look: Look | None = None,
        release: Release | None = None,
    ) -> Written | PortTaken:
        seen = status.Seen(
            container=container,
            chips=chips,
            generations=generations,
            container_generation=container_generation,
            release_ports_of=release_ports_of,
            evidence=evidence,
            look=look,
            release=release,
        )
        return await status.write_status(self._engine, lease, seen)

    async def remove_chip(self, lease: Lease, chip_id: str, generation: int) -> None:
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            # The order of wishes: each of them moves this row first.
            known = select(containers.c.generation).where(containers.c.user_id == lease.key)
            newest = (await connection.execute(known.with_for_update(read=True))).scalar_one_or_none()
            if newest is not None and newest > generation:
                raise StaleWrite(SYSTEM, f"a wish came since generation {generation}: look again")
            owned = select(chips.c.deleted_at).where(chips.c.id == chip_id, chips.c.user_id == lease.key)
            row = (await connection.execute(owned.with_for_update())).one_or_none()
            if row is None:
                return  # removed by an earlier pass that was stopped before it could say so
            if row.deleted_at is None:
                raise StaleWrite(SYSTEM, f"chip {chip_id} is wanted: only a deleted one is removed")
            await connection.execute(delete(chip_events).where(chip_events.c.chip_id == chip_id))
            await connection.execute(delete(chips).where(chips.c.id == chip_id))

    async def remove_container(self, lease: Lease) -> bool:
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            # The order of wishes: whoever accepts a chip holds this row until the chip is there.
            locked = select(containers.c.pinned, containers.c.deleted_at)
            row = (
                await connection.execute(locked.where(containers.c.user_id == lease.key).with_for_update())
            ).one_or_none()
            if row is None:
                return True
            if await _is_wanted(connection, lease.key, pinned=row.pinned and row.deleted_at is None):
                return False
            await connection.execute(delete(port_ledger).where(port_ledger.c.user_id == lease.key))
            await connection.execute(delete(evidence_rows).where(evidence_rows.c.user_id == lease.key))
            await connection.execute(delete(rollout_seats).where(rollout_seats.c.user_id == lease.key))
            await forget_placements(connection, lease.key)
            await connection.execute(delete(containers).where(containers.c.user_id == lease.key))
            await notify(connection, OBSERVED, lease.key)
            return True


def _release(*, looked: bool) -> Prepared:
    mine = bindparam("user_id", type_=containers.c.user_id.type)
    freed = leases.freed(looked=looked)
    newest = func.greatest(
        0,
        select(containers.c.generation).where(containers.c.user_id == mine).scalar_subquery(),
        select(func.max(chips.c.generation)).where(chips.c.user_id == mine).scalar_subquery(),
    )
    released = select(func.count()).select_from(freed).scalar_subquery()
    return Prepared(select(released.label("released"), newest.label("newest")))


def _recording(*names: str, **others: Any) -> Prepared:
    """Sets these columns to parameters of their names, and `others` to what they say."""
    ours = exists(select(leases.held().c.key))
    return Prepared(
        update(containers)
        .where(containers.c.user_id == bindparam("whose"), ours)
        .values({name: bindparam(name) for name in names} | others)
        .returning(containers.c.user_id)
    )


_RELEASE: Final = _release(looked=False)
_RELEASE_LOOKED: Final = _release(looked=True)
_RECORD_REGISTERED: Final = _recording("spec_hash", "spec_restart_hash", "job_modify_index", "spec_release")
_RECORD_VARIABLES: Final = _recording("variables_hash")
_RECORD_RENEWAL: Final = _recording("key_renewed_for")
_RECORD_RESTART_BEGUN: Final = _recording("restart_mark")
_RECORD_RESTARTED: Final = _recording(
    restarted_generation=func.greatest(containers.c.restarted_generation, bindparam("answered")),
    restart_mark=null(),
)


async def _is_wanted(connection: AsyncConnection, user_id: str, *, pinned: bool) -> bool:
    return pinned or bool(await connection.scalar(select(exists().where(chips.c.user_id == user_id))))
