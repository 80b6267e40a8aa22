"""What no row explains, as the janitor keeps it and operators decide on it.

All times are PostgreSQL's (`clock_timestamp()`): the grace must not depend on which daemon looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Row, case, cast, func, null, select, update
from sqlalchemy import delete as remove
from sqlalchemy.dialects.postgresql import ARRAY, UUID, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.domain.belongings import Found, Kind, Owner, Owners
from core.domain.orphans import GOING, Change, Forgot, Moved, Orphan, Saw, State
from core.store import leases
from core.store.audit import record_change
from core.store.engine import reading, transaction
from core.store.interface import Lease
from core.store.tables import chips, containers, orphans

_CLOCK: Final = func.clock_timestamp()
_NOTE_LIMIT: Final = 250
HISTORY_S: Final = 30 * 86_400.0


class Book(msgspec.Struct, frozen=True):
    """All rows, oldest first, and the store's clock when they were read."""

    now: datetime
    rows: tuple[Orphan, ...]


class Tried(msgspec.Struct, frozen=True):
    """How a step of a removal ended.

    Attributes:
        state: `removing`, `failed`, `waiting` (the yes is taken back) or `removed`.
        again_in_s: None = at the next round.
        attempts: failures in a row, 0 after a success.
    """

    state: State
    note: str | None = None
    again_in_s: float | None = None
    attempts: int = 0


class OrphanStore(Protocol):
    """What the janitor needs of a store. All methods raise Unavailable."""

    async def owners(self, chip_ids: Collection[str]) -> Owners:
        """All containers, and those of these chips that have a row; tombstones too."""

    async def book(self) -> Book:
        """Everything that is on record."""

    async def apply(self, lease: Lease, changes: Iterable[Change]) -> None:
        """Write what a round found, in one transaction. Raises StaleWrite when `lease` is lost."""

    async def saw_sessions(self, user_id: str, found: Iterable[Found]) -> None:
        """Note sessions that a pass saw and no chip explains."""

    async def tried(self, lease: Lease, orphan_id: int, tried: Tried) -> None:
        """Write how a step of its removal went, unless an operator kept it meanwhile. Raises StaleWrite."""

    async def decide(
        self, orphan_ids: Collection[int], *, approve: bool, by: str, actor: Actor
    ) -> tuple[int, ...]:
        """An operator's word; the ids that it changed.

        A yes is for what waits or is kept, not for what is younger than the grace; a no for all but what is
        removed already.
        """


class PostgresOrphans:
    """`OrphanStore` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def owners(self, chip_ids: Collection[str]) -> Owners:
        async with reading(self._engine) as connection:
            return await _owners(connection, chip_ids)

    async def book(self) -> Book:
        async with reading(self._engine) as connection:
            now = (await connection.execute(select(_CLOCK))).scalar_one()
            found = await connection.execute(select(orphans).order_by(orphans.c.first_seen, orphans.c.id))
            return Book(now, tuple(_orphan(row) for row in found))

    async def apply(self, lease: Lease, changes: Iterable[Change]) -> None:
        changes = tuple(changes)
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            for change in changes:
                match change:
                    case Saw(found=found):
                        await _saw(connection, found)
                    case Moved():
                        await connection.execute(_moved(change))
                    case Forgot(orphan_id=id_, before=before):
                        await connection.execute(
                            remove(orphans).where(orphans.c.id == id_, orphans.c.state == before.value)
                        )
            age = func.extract("epoch", _CLOCK - orphans.c.last_seen)
            old = (orphans.c.state == State.REMOVED.value, age > HISTORY_S)
            await connection.execute(remove(orphans).where(*old))

    async def saw_sessions(self, user_id: str, found: Iterable[Found]) -> None:
        async with transaction(self._engine) as connection:
            for one in found:
                if one.kind is Kind.SESSION and one.place == user_id:
                    await _saw(connection, one)

    async def tried(self, lease: Lease, orphan_id: int, tried: Tried) -> None:
        values: dict[str, Any] = {
            "state": tried.state.value,
            "attempts": tried.attempts,
            "note": tried.note[:_NOTE_LIMIT] if tried.note else None,
            "next_try_at": null(),
        }
        if tried.again_in_s is not None:
            values["next_try_at"] = _CLOCK + func.make_interval(0, 0, 0, 0, 0, 0, tried.again_in_s)
        if tried.state is State.REMOVED:
            values["last_seen"] = _CLOCK  # when it was seen gone: its time as history counts from here
        if tried.state is State.WAITING:
            values |= {"decided_by": null(), "decided_at": null()}
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            going = orphans.c.state.in_([state.value for state in GOING])
            await connection.execute(update(orphans).where(orphans.c.id == orphan_id, going).values(values))

    async def decide(
        self, orphan_ids: Collection[int], *, approve: bool, by: str, actor: Actor
    ) -> tuple[int, ...]:
        after = State.APPROVED if approve else State.KEPT
        # A no still stops what is on its way; what was removed is removed.
        open_to = {State.WAITING, State.KEPT} if approve else {*State} - {State.REMOVED, after}
        changed = (
            update(orphans)
            .where(orphans.c.id.in_(list(orphan_ids)))
            .where(orphans.c.state.in_([state.value for state in open_to]))
            .values(
                state=after.value,
                decided_by=by,
                decided_at=_CLOCK,
                attempts=0,
                next_try_at=null(),
                note=null(),
            )
            .returning(orphans.c.id, orphans.c.kind, orphans.c.name, orphans.c.user_id)
        )
        action = "orphan.approve" if approve else "orphan.keep"
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(changed)).all()
            for row in rows:
                what = {"kind": row.kind, "name": row.name, "by": by}
                await record_change(
                    connection, actor, action, user_id=row.user_id, target=str(row.id), detail=what
                )
            return tuple(sorted(row.id for row in rows))


async def _owners(connection: AsyncConnection, chip_ids: Collection[str]) -> Owners:
    rows = select(containers.c.user_id, containers.c.namespace, containers.c.storage_id)
    found = [Owner(*row) for row in await connection.execute(rows)]
    known: dict[str, str] = {}
    if chip_ids:
        wanted = select(chips.c.id, chips.c.user_id).where(chips.c.id == func.any(_ids(chip_ids)))
        known = {row.id: row.user_id for row in await connection.execute(wanted)}
    return Owners.of(found, known)


def _ids(chip_ids: Collection[str]) -> Any:
    return cast(list(chip_ids), ARRAY(UUID(as_uuid=False)))


async def _saw(connection: AsyncConnection, found: Found) -> None:
    """Touch the row, or make one; one that was removed and is back begins anew."""
    key = (
        orphans.c.kind == found.kind.value,
        orphans.c.name == found.name,
        orphans.c.place == found.place,
    )
    costs = {**found.costs, **({"alive": 1} if found.alive else {})}
    back = orphans.c.state == State.REMOVED.value
    # After the yes its fingerprint is what the operator saw: the removal compares with that one.
    decided = orphans.c.state.in_([state.value for state in GOING])
    touched = (
        update(orphans)
        .where(*key)
        .values(
            last_seen=_CLOCK,
            costs=costs,
            fingerprint=case((decided, orphans.c.fingerprint), else_=found.fingerprint),
            first_seen=case((back, _CLOCK), else_=orphans.c.first_seen),
            state=case((back, State.SEEN.value), else_=orphans.c.state),
            decided_by=case((back, null()), else_=orphans.c.decided_by),
            decided_at=case((back, null()), else_=orphans.c.decided_at),
            note=case((back, null()), else_=orphans.c.note),
            attempts=case((back, 0), else_=orphans.c.attempts),
        )
    )
    # Tried first, and not as the other half of an insert: that would use up a number each time, and
    # operators type these numbers.
    if (await connection.execute(touched)).rowcount:
        return
    made = insert(orphans).values(
        kind=found.kind.value,
        name=found.name,
        place=found.place,
        user_id=found.user_id,
        fingerprint=found.fingerprint,
        costs=costs,
        first_seen=_CLOCK,
        last_seen=_CLOCK,
    )
    await connection.execute(made.on_conflict_do_nothing())


def _moved(change: Moved) -> Any:
    values: dict[str, Any] = {"state": change.after.value, "next_try_at": null(), "note": null()}
    if change.decided_by is not None:
        values |= {"decided_by": change.decided_by, "decided_at": _CLOCK}
    still = (orphans.c.id == change.orphan_id, orphans.c.state == change.before.value)
    return update(orphans).where(*still).values(values)


def _orphan(row: Row[Any]) -> Orphan:
    costs = dict(row.costs)
    alive = bool(costs.pop("alive", 0))
    found = Found(Kind(row.kind), row.name, row.place, row.user_id, row.fingerprint, costs, alive)
    return Orphan(
        id=row.id,
        found=found,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        state=State(row.state),
        decided_by=row.decided_by,
        attempts=row.attempts,
        next_try_at=row.next_try_at,
        note=row.note,
    )
