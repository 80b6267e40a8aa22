"""One contract of what keeps orphans, on PostgreSQL and in memory."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text, update

from core.clock import SystemClock
from core.crypto import Sealer
from core.domain.actor import COMMAND_LINE
from core.domain.belongings import Found, Kind
from core.domain.names import session_name
from core.domain.orphans import Change, Forgot, Moved, Orphan, Saw, State
from core.errors import StaleWrite, Unavailable
from core.store.engine import engine_for, transaction
from core.store.interface import Lease, ReconcileStore
from core.store.orphans import HISTORY_S, OrphanStore, PostgresOrphans, Tried
from core.store.reconcile import PostgresReconcileStore
from core.store.tables import metadata
from core.store.tables import orphans as table
from tests.contract.store.harness import PostgresHarness
from tests.memory_orphans import MemoryOrphans
from tests.memory_store import MemoryStore

USER = str(uuid.UUID(int=1))
JOB = Found(Kind.JOB, "waha_plus_user_x", user_id=USER, fingerprint="7", costs={"port": 3101})
SESSION = Found(Kind.SESSION, session_name(str(uuid.UUID(int=9))), USER, user_id=USER, alive=True)


@dataclass
class Kit:
    orphans: OrphanStore
    store: ReconcileStore
    chip: Callable[[], Awaitable[tuple[str, str]]]
    age: Callable[[float], Awaitable[None]]

    async def lease(self, owner: str = "d1") -> Lease:
        lease = await self.store.claim("fleet", owner, 60)
        assert isinstance(lease, Lease)
        return lease

    async def one(self) -> Orphan:
        (row,) = (await self.orphans.book()).rows
        return row

    async def saw(self, *found: Found) -> Lease:
        lease = await self.lease()
        await self.orphans.apply(lease, [Saw(each) for each in found])
        return lease

    async def approved(self, *found: Found) -> Lease:
        """Found, ripe and with ana's yes."""
        await self.saw(*found)
        lease, row = await self.state(State.WAITING), await self.one()
        assert await self.orphans.decide([row.id], approve=True, by="ana", actor=COMMAND_LINE) == (row.id,)
        return lease

    async def state(self, state: State) -> Lease:
        """The one row, moved to `state`."""
        lease, row = await self.lease(), await self.one()
        await self.orphans.apply(lease, [Moved(row.id, row.state, state, "test")])
        return lease


@pytest.fixture(params=["postgres", "memory"])
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    if request.param == "memory":
        memory = MemoryStore(SystemClock())
        orphans = MemoryOrphans(memory)

        async def new_chip() -> tuple[str, str]:
            user, chip = str(uuid.uuid4()), str(uuid.uuid4())
            memory.add_user(user)
            memory.add_chip(user, chip)
            return user, chip

        async def grow_old(age_s: float) -> None:
            orphans.grow_old(age_s)

        yield Kit(orphans, memory, new_chip, grow_old)
        return
    engine = engine_for(request.getfixturevalue("contract_database_url"), pool_size=5)
    names = ", ".join(table.name for table in metadata.sorted_tables if table.name != "plans")
    async with transaction(engine) as connection:
        await connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    harness = PostgresHarness(engine)

    async def chip() -> tuple[str, str]:
        user = await harness.user()
        return user, await harness.chip(user)

    async def age(age_s: float) -> None:
        step = timedelta(seconds=age_s)
        async with transaction(engine) as connection:
            await connection.execute(
                update(table).values(
                    first_seen=table.c.first_seen - step,
                    last_seen=table.c.last_seen - step,
                    next_try_at=table.c.next_try_at - step,
                )
            )

    sealer = Sealer((Fernet.generate_key().decode(),))
    yield Kit(PostgresOrphans(engine), PostgresReconcileStore(engine, sealer), chip, age)
    await engine.dispose()


async def test_the_first_sight_begins_the_grace_and_later_ones_do_not_move_it(kit: Kit) -> None:
    await kit.saw(JOB)
    first = await kit.one()
    assert (first.found, first.state, first.attempts) == (JOB, State.SEEN, 0)
    await kit.age(100)
    newer = Found(Kind.JOB, JOB.name, user_id=USER, fingerprint="8", costs={"port": 3102})
    await kit.saw(newer, SESSION)
    book = await kit.orphans.book()
    again, session = book.rows
    assert again.found == newer
    assert again.id == first.id
    assert timedelta(seconds=99) < book.now - again.first_seen
    assert book.now - again.last_seen < timedelta(seconds=20)
    assert session.found == SESSION


async def test_after_the_yes_the_fingerprint_stays_what_was_approved(kit: Kit) -> None:
    await kit.saw(JOB)
    await kit.state(State.APPROVED)
    await kit.saw(Found(Kind.JOB, JOB.name, user_id=USER, fingerprint="8"))
    row = await kit.one()
    assert (row.state, row.found.fingerprint, row.decided_by) == (State.APPROVED, "7", "test")


async def test_a_move_or_a_forgetting_that_comes_too_late_does_nothing(kit: Kit) -> None:
    lease = await kit.saw(JOB)
    row = await kit.one()
    assert await kit.orphans.decide([row.id], approve=False, by="ana", actor=COMMAND_LINE) == (row.id,)
    late: list[Change] = [
        Moved(row.id, State.SEEN, State.APPROVED, "setting"),
        Forgot(row.id, State.SEEN, "gone"),
    ]
    await kit.orphans.apply(lease, late)
    row = await kit.one()
    assert (row.state, row.decided_by) == (State.KEPT, "ana")
    await kit.orphans.apply(lease, [Forgot(row.id, State.KEPT, "gone")])
    assert (await kit.orphans.book()).rows == ()


async def test_who_lost_the_lease_writes_nothing(kit: Kit) -> None:
    old = await kit.approved(JOB)
    row = await kit.one()
    await kit.store.release(old)
    await kit.lease("d2")
    with pytest.raises(StaleWrite):
        await kit.orphans.apply(old, [Saw(SESSION)])
    with pytest.raises(StaleWrite):
        await kit.orphans.tried(old, row.id, Tried(State.REMOVED))
    assert (await kit.one()).state is State.APPROVED


async def test_a_try_is_written_with_its_next_time_and_a_no_stops_it(kit: Kit) -> None:
    lease = await kit.approved(JOB)
    row = await kit.one()
    await kit.orphans.tried(lease, row.id, Tried(State.FAILED, "no answer", 30, 2))
    book = await kit.orphans.book()
    (failed,) = book.rows
    assert (failed.state, failed.note, failed.attempts) == (State.FAILED, "no answer", 2)
    assert failed.next_try_at is not None
    assert timedelta(seconds=25) < failed.next_try_at - book.now <= timedelta(seconds=30)
    assert await kit.orphans.decide([row.id], approve=False, by="bia", actor=COMMAND_LINE) == (row.id,)
    await kit.orphans.tried(lease, row.id, Tried(State.REMOVED))
    kept = await kit.one()
    assert (kept.state, kept.decided_by, kept.attempts, kept.note) == (State.KEPT, "bia", 0, None)


async def test_what_is_younger_than_the_grace_takes_no_yes(kit: Kit) -> None:
    await kit.saw(JOB)
    row = await kit.one()
    assert await kit.orphans.decide([row.id], approve=True, by="ana", actor=COMMAND_LINE) == ()
    assert (await kit.one()).state is State.SEEN
    assert await kit.orphans.decide([row.id], approve=False, by="ana", actor=COMMAND_LINE) == (row.id,)
    assert await kit.orphans.decide([row.id, 99], approve=True, by="bia", actor=COMMAND_LINE) == (row.id,)
    assert ((await kit.one()).state, (await kit.one()).decided_by) == (State.APPROVED, "bia")


async def test_a_yes_that_is_taken_back_names_nobody(kit: Kit) -> None:
    lease = await kit.approved(JOB)
    row = await kit.one()
    await kit.orphans.tried(lease, row.id, Tried(State.WAITING, "it changed"))
    row = await kit.one()
    assert (row.state, row.decided_by, row.note) == (State.WAITING, None, "it changed")


async def test_what_is_removed_stays_as_history_and_begins_anew_when_it_is_back(kit: Kit) -> None:
    lease = await kit.approved(JOB)
    await kit.age(5000)
    row = await kit.one()
    await kit.orphans.tried(lease, row.id, Tried(State.REMOVED))
    assert await kit.orphans.decide([row.id], approve=True, by="ana", actor=COMMAND_LINE) == ()
    assert await kit.orphans.decide([row.id], approve=False, by="ana", actor=COMMAND_LINE) == ()
    removed = await kit.one()
    assert (removed.state, removed.decided_by) == (State.REMOVED, "ana")
    await kit.saw(JOB)
    book = await kit.orphans.book()
    (back,) = book.rows
    assert (back.state, back.decided_by, back.attempts) == (State.SEEN, None, 0)
    assert book.now - back.first_seen < timedelta(seconds=20)


async def test_history_ends(kit: Kit) -> None:
    lease = await kit.approved(JOB)
    row = await kit.one()
    await kit.orphans.tried(lease, row.id, Tried(State.REMOVED))
    await kit.age(HISTORY_S - 60)
    await kit.orphans.apply(lease, [])
    assert await kit.one()
    await kit.age(120)
    await kit.orphans.apply(lease, [])
    assert (await kit.orphans.book()).rows == ()


async def test_a_pass_notes_sessions_of_its_own_user_alone(kit: Kit) -> None:
    await kit.orphans.saw_sessions(USER, [SESSION, JOB, Found(Kind.SESSION, "chip_x", "somebody else")])
    row = await kit.one()
    assert (row.found, row.state) == (SESSION, State.SEEN)


async def test_owners_are_all_containers_and_the_chips_that_were_asked_for(kit: Kit) -> None:
    user, chip = await kit.chip()
    other, other_chip = await kit.chip()
    found = await kit.orphans.owners([chip, str(uuid.uuid4())])
    assert found.containers.keys() == {user, other}
    assert found.chips == {chip: user}
    namespace = found.containers[user].namespace
    assert found.namespaces[namespace] == user
    assert found.containers[user].storage_id == "main"
    assert (await kit.orphans.owners([])).chips == {}
    assert (await kit.orphans.owners([other_chip, chip])).chips == {chip: user, other_chip: other}


async def test_a_store_that_is_away_is_our_error() -> None:
    memory = MemoryStore(SystemClock())
    memory.down = True
    away = engine_for("postgresql+asyncpg://nobody@/x?host=/nonexistent")
    stores: tuple[OrphanStore, ...] = (MemoryOrphans(memory), PostgresOrphans(away))
    for orphans in stores:
        with pytest.raises(Unavailable):
            await orphans.book()
        with pytest.raises(Unavailable):
            await orphans.owners([])
        with pytest.raises(Unavailable):
            await orphans.decide([1], approve=True, by="ana", actor=COMMAND_LINE)
    await away.dispose()
