"""Leases of guards: which allocation may speak to WhatsApp for its user, and until when.

At no time do two allocations of one user hold a lease that has not run out. What that rests on:

- A lease is given or renewed only while its placement is current, under a lock of that row; and `placements.
  move` locks the same rows. So while a batch looks at the user's other rows, none of them can gain a lease.
- A new one is given only when no other row of the user has one left, by `clock_timestamp()`, read after the
  lock: a snapshot from before it could miss what was given meanwhile.
- A close is confirmed by the number of the grant that was closed. A late or repeated confirmation says
  nothing about a later grant.
- Nothing else frees a lease before its time, not even the word of an allocation's own client that it ended:
  what it had sent may still lie with its guard. See docs/decisions/0008.
- A guard counts from the moment it sent its request, so it always ends before the row does.
- After doubt about the store's memory or clock (core/domain/guard_grants.py) nothing new is given for one
  life of a lease. A restarted or promoted server is noticed by its start time, a step of its clock by each
  process against its own monotonic clock. A process that has not watched the clock for one life of a lease
  yet takes no lease of another for run out: it must have been freed. What nobody could notice (a restore of a
  machine's snapshot) an operator tells: `hold`, before guards may reach the store again.
- The number of a grant is a new one in every history of the store: see docs/decisions/0008.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock, SystemClock
from core.domain.guard_grants import Doubt, Granting, Reading, ServerView, doubt, granting
from core.domain.guard_wire import Answer as Answer
from core.domain.guard_wire import Ask as Ask
from core.domain.guard_wire import Standing as Standing
from core.errors import StaleWrite
from core.store.engine import SYSTEM, reading, transaction
from core.store.tables import guard_grants, placements

TTL_S: Final = 90.0
# The stored clock is renewed no more often than this: it only has to show a clock that went back.
_NOTE_EVERY: Final = timedelta(seconds=5)
_ATTEMPTS: Final = 3
_log = structlog.get_logger(__name__)


class GuardLeases(Protocol):
    """The store's side of guards' leases. All methods raise Unavailable."""

    async def renew(self, node_id: str, asks: Sequence[Ask]) -> tuple[Answer, ...]:
        """One batch of one host's guard; answers in the order of `asks`. Raises StaleWrite: ask again."""

    async def confirm_closed(self, node_id: str, closed: Sequence[Ask]) -> int:
        """The guard has closed what it forwarded under these grants; how many leases that freed."""

    async def hold(self, seconds: float | None = None) -> datetime:
        """Give nothing new for `seconds` (one life of a lease); until when. Renewals go on."""


class PostgresGuardLeases:
    """`GuardLeases` on PostgreSQL. Keep one per process: it remembers how the server's clock runs."""

    def __init__(self, engine: AsyncEngine, *, ttl_s: float = TTL_S, clock: Clock | None = None) -> None:
        """`clock`: only its monotonic half is used, to notice steps of the server's."""
        self._engine = engine
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._last: Reading | None = None
        self.watches_since: datetime | None = None  # by the store's clock: of the first reading

    async def renew(self, node_id: str, asks: Sequence[Ask]) -> tuple[Answer, ...]:
        if not asks:
            return ()
        for _ in range(_ATTEMPTS):
            async with transaction(self._engine) as connection:
                granting = await self._may_grant(connection)
                if granting is not None:
                    return await _batch(connection, node_id, asks, self._ttl_s, granting)
            await self._note()
        raise StaleWrite(SYSTEM, "the store's clock does not stand still; ask again")

    async def confirm_closed(self, node_id: str, closed: Sequence[Ask]) -> int:
        pairs = [(ask.allocation_id, ask.grant) for ask in closed if ask.grant is not None]
        if not pairs:
            return 0
        freed = (
            update(placements)
            .where(
                placements.c.node_id == node_id,
                tuple_(placements.c.allocation_id, placements.c.grant_number).in_(sorted(pairs)),
                placements.c.lease_until.is_not(None),
            )
            .values(lease_until=None)
        )
        async with reading(self._engine) as connection:
            return int((await connection.execute(freed)).rowcount)

    async def hold(self, seconds: float | None = None) -> datetime:
        async with transaction(self._engine) as connection:
            until = await self._held(connection, self._ttl_s if seconds is None else seconds)
        _log.warning("guard_grants_held", until=until.isoformat(), why="operator")
        return until

    async def _may_grant(self, connection: AsyncConnection) -> Granting | None:
        """To whom new leases may be given; None = what was seen of the server has to be noted first."""
        sent_at = self._clock.monotonic()
        row = (await connection.execute(_STATE.with_for_update(read=True))).one_or_none()
        this = None
        if row is not None:
            this = Reading(row.now, sent_at, self._clock.monotonic())
        if row is None or this is None or self._doubt(row, this) or row.now - row.clock > _NOTE_EVERY:
            return None
        self._last = this
        self.watches_since = self.watches_since or row.now
        return granting(row.now, row.granted_after, self.watches_since, self._ttl_s)

    async def _note(self) -> None:
        sent_at = self._clock.monotonic()
        async with transaction(self._engine) as connection:
            await connection.execute(_FIRST)
            row = (await connection.execute(_STATE.with_for_update())).one()
            this = Reading(row.now, sent_at, self._clock.monotonic())
            why = self._doubt(row, this)
            if why is None:
                await connection.execute(update(guard_grants).values(clock=row.now))
            else:
                until = await self._held(connection, self._ttl_s)
                _log.warning("guard_grants_held", until=until.isoformat(), why=why.value)
        self._last = this

    def _doubt(self, row: Any, this: Reading) -> Doubt | None:
        stored = ServerView(row.server_started_at, row.clock)
        return doubt(stored=stored, seen=ServerView(row.started_at, row.now), last=self._last, this=this)

    async def _held(self, connection: AsyncConnection, seconds: float) -> datetime:
        await connection.execute(_FIRST)
        until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        changed = (
            update(guard_grants)
            .values(
                granted_after=func.greatest(guard_grants.c.granted_after, until),
                server_started_at=func.pg_postmaster_start_time(),
                clock=func.clock_timestamp(),
            )
            .returning(guard_grants.c.granted_after)
        )
        found: datetime = (await connection.execute(changed)).scalar_one()
        return found


_STATE: Final = select(
    guard_grants,
    func.clock_timestamp().label("now"),
    func.pg_postmaster_start_time().label("started_at"),
)
# A store that never gave a lease has none to forget.
_FIRST: Final = (
    insert(guard_grants)
    .values(
        id=1,
        granted_after=func.clock_timestamp(),
        server_started_at=func.pg_postmaster_start_time(),
        clock=func.clock_timestamp(),
    )
    .on_conflict_do_nothing()
)


async def _batch(
    connection: AsyncConnection, node_id: str, asks: Sequence[Ask], ttl_s: float, giving: Granting
) -> tuple[Answer, ...]:
    asked = {ask.allocation_id: ask for ask in asks}
    locked = (
        select(placements.c.id, placements.c.allocation_id)
        .where(
            placements.c.allocation_id.in_(sorted(asked)),
            placements.c.node_id == node_id,
            placements.c.is_current,
        )
        .order_by(placements.c.id)
        .with_for_update()
    )
    current = {row.allocation_id: row.id for row in await connection.execute(locked)}
    given: dict[str, Any] = {}
    if current:
        # Another statement, so another snapshot: it sees everything that was committed before the locks.
        rows = await connection.execute(
            _GRANT,
            {
                "ids": list(current.values()),
                "allocations": list(current),
                "grants": [asked[id_].grant or 0 for id_ in current],
                "ttl_s": ttl_s,
                "granting": giving is not Granting.NONE,
                "trusting": giving is Granting.ALL,
            },
        )
        given = {row.allocation_id: row for row in rows}
        new = sorted({row.user_id for id_, row in given.items() if row.grant_number != asked[id_].grant})
        if new:
            await connection.execute(_RAN_OUT, {"users": new})
    return tuple(_answer(ask.allocation_id, given, current, ttl_s) for ask in asks)


def _answer(allocation_id: str, given: dict[str, Any], current: Collection[str], ttl_s: float) -> Answer:
    row = given.get(allocation_id)
    if row is not None:
        return Answer(allocation_id, Standing.GRANTED, row.grant_number, row.epoch, ttl_s)
    return Answer(allocation_id, Standing.WAITING if allocation_id in current else Standing.REVOKED)


# Never counted up: a server that lost its last writes would give the same number again, and a late confirmation of
# the first would free the second. JSON's numbers are exact so far.
_NEW_NUMBER: Final = 1 + cast(func.floor(func.random() * 2**52), BigInteger)


def _grant() -> Any:
    # Numbers of grants begin at 1, so 0 is a guard that holds none.
    asks = (
        func.unnest(
            bindparam("allocations", type_=ARRAY(placements.c.allocation_id.type)),
            bindparam("grants", type_=ARRAY(BigInteger)),
        )
        .table_valued(
            column("allocation_id", placements.c.allocation_id.type), column("grant_number", BigInteger)
        )
        .render_derived("asks")
    )
    other = placements.alias("other")
    now = func.clock_timestamp()
    holds = and_(placements.c.lease_until > now, asks.c.grant_number == placements.c.grant_number)
    others_hold = exists(
        select(other.c.id).where(
            other.c.user_id == placements.c.user_id,
            other.c.id != placements.c.id,
            or_(
                other.c.lease_until > now,
                and_(~bindparam("trusting", type_=Boolean), other.c.lease_until.is_not(None)),
            ),
        )
    )
    renews = func.coalesce(holds, False)
    return (
        update(placements)
        .where(
            placements.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))),
            placements.c.is_current,
            asks.c.allocation_id == placements.c.allocation_id,
            or_(renews, and_(bindparam("granting", type_=Boolean), ~others_hold)),
        )
        .values(
            lease_until=now + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("ttl_s")),
            grant_number=case((renews, placements.c.grant_number), else_=_NEW_NUMBER),
        )
        .returning(
            placements.c.allocation_id, placements.c.grant_number, placements.c.epoch, placements.c.user_id
        )
    )


_GRANT: Final = _grant()
# Others of a user who is given a new lease have none left; written down, it needs no clock to be believed later. What
# a move has locked is left to the next time: it locks its rows in their order, and this one comes last.
_RAN_OUT: Final = (
    update(placements)
    .where(
        placements.c.id.in_(
            select(placements.c.id)
            .where(
                placements.c.user_id == any_(bindparam("users", type_=ARRAY(placements.c.user_id.type))),
                ~placements.c.is_current,
                placements.c.lease_until.is_not(None),
            )
            .with_for_update(skip_locked=True)
        )
    )
    .values(lease_until=None)
)
