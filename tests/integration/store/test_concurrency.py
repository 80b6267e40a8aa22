"""What holds when passes, wishes and readers meet in PostgreSQL at the same moment."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.errors import StaleWrite
from core.store.containers import ensure_container, next_generation
from core.store.engine import reading, transaction
from core.store.interface import Lease, Written
from core.store.notify import OBSERVED, Item, Listener, News
from core.store.tables import chip_events, chips, containers
from tests.contract.store.harness import PostgresHarness
from tests.polling import eventually

QR = ChipStatus(phase="qr", status="WAITING_QR", waha_status="SCAN_QR_CODE")
STARTING = ChipStatus(phase="starting", status="WAITING_QR", waha_status="STARTING")
READY = ContainerStatus(
    phase="ready",
    placed=Placed(str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), "host-1", "10.0.0.1", 3100),
    allocation_id=str(uuid.UUID(int=1)),
    node_name="host-1",
    address="10.0.0.1",
    port=3100,
)


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


async def claimed(harness: PostgresHarness, user_id: str, owner: str = "one") -> Lease:
    lease = await harness.store.claim(user_id, owner, 60)
    assert isinstance(lease, Lease)
    return lease


async def test_a_claim_does_not_wait_for_a_wish_that_is_being_written(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    async with transaction(harness.engine) as writing:
        await next_generation(writing, user_id)
        await writing.execute(update(chips).where(chips.c.id == chip_id).values(wanted="disconnected"))
        lease = await asyncio.wait_for(claimed(harness, user_id), 1)
        snapshot = await asyncio.wait_for(harness.store.load(user_id), 1)
        assert snapshot is not None
        assert snapshot.chips[0].wanted == "connected"  # what is not committed is not seen
    assert lease.token == 1


async def test_a_wish_that_commits_while_a_status_write_waits_for_it_is_seen(
    harness: PostgresHarness,
) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    async with transaction(harness.engine) as writing:
        generation = await next_generation(writing, user_id)
        await writing.execute(
            update(chips).where(chips.c.id == chip_id).values(wanted="disconnected", generation=generation)
        )
        write = asyncio.create_task(harness.store.write_status(lease, READY, {chip_id: QR}, {chip_id: 2}, 1))
        done, _ = await asyncio.wait({write}, timeout=0.2)
        assert not done
    written = await write
    assert isinstance(written, Written)
    assert written.generation == generation
    columns = await harness.chip_columns(chip_id)
    assert columns is not None
    assert (columns["phase"], columns["waha_status"]) == ("queued", "SCAN_QR_CODE")


async def test_a_takeover_waits_for_a_write_under_way_and_a_late_write_is_dropped(
    harness: PostgresHarness,
) -> None:
    """The guard cannot race: either the write is there when the next owner loads, or it is refused."""
    for attempt in range(15):
        user_id = await harness.user()
        chip_id = await harness.chip(user_id)
        old = await claimed(harness, user_id, "old")
        await harness.expire(old)

        async def take_over(user_id: str = user_id, wait_s: float = attempt / 2000) -> str:
            await asyncio.sleep(wait_s)
            await claimed(harness, user_id, "new")
            snapshot = await harness.store.load(user_id)
            assert snapshot is not None
            return snapshot.chips[0].phase

        write = harness.store.write_status(old, READY, {chip_id: QR}, {chip_id: 2}, 1)
        outcome, loaded = await asyncio.gather(write, take_over(), return_exceptions=True)
        columns = await harness.chip_columns(chip_id)
        assert columns is not None
        if isinstance(outcome, StaleWrite):
            assert columns["phase"] == loaded == "queued"
        else:
            assert isinstance(outcome, Written)
            assert columns["phase"] == loaded == "qr"
        await harness.store.remove_container(await claimed(harness, user_id, "new"))
        async with transaction(harness.engine) as connection:
            await connection.execute(text("UPDATE port_ledger SET closed_at = clock_timestamp()"))
            await connection.execute(text("DELETE FROM placements"))
            await connection.execute(text("DELETE FROM port_ledger"))


async def test_event_ids_of_one_chip_commit_in_order(harness: PostgresHarness) -> None:
    """Passes and wishes write events of one chip at once; a reader that resumes by id loses none."""
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    dice = random.Random(5)
    finished = asyncio.Event()
    read: list[int] = []

    async def wishes() -> None:
        for _ in range(25):
            async with transaction(harness.engine) as connection:
                generation = await next_generation(connection, user_id)
                await connection.execute(
                    update(chips).where(chips.c.id == chip_id).values(generation=generation)
                )
                await connection.execute(
                    insert(chip_events).values(
                        chip_id=chip_id,
                        user_id=user_id,
                        generation=generation,
                        type="info",
                        code="x",
                        description="x",
                    )
                )
                await asyncio.sleep(dice.random() / 200)

    async def passes() -> None:
        for number in range(25):
            columns = await harness.chip_columns(chip_id)
            assert columns is not None
            seen = STARTING if number % 2 else QR
            await harness.store.write_status(
                lease, READY, {chip_id: seen}, {chip_id: columns["generation"]}, 1
            )

    async def reader() -> None:
        last = 0
        while True:
            stop = finished.is_set()
            query = select(chip_events.c.id).where(chip_events.c.id > last).order_by(chip_events.c.id)
            async with reading(harness.engine) as connection:
                found = [int(id_) for id_ in (await connection.execute(query)).scalars()]
            read.extend(found)
            last = max(found, default=last)
            if stop:
                return

    watching = asyncio.create_task(reader())
    await asyncio.gather(wishes(), wishes(), passes())
    finished.set()
    await watching
    events = await harness.events(chip_id)
    assert len(events) > 50
    assert read == [event.id for event in events]


async def test_wishes_and_passes_of_one_user_never_lock_each_other_out(harness: PostgresHarness) -> None:
    """The order of locks is the same on both sides; a deadlock would show as StaleWrite."""
    user_id = await harness.user()
    chip_ids = [await harness.chip(user_id) for _ in range(4)]
    lease = await claimed(harness, user_id)
    dice = random.Random(7)

    async def wish() -> None:
        for _ in range(20):
            await harness.wish(dice.choice(chip_ids), dice.choice(["connected", "disconnected"]))

    async def create() -> None:
        for _ in range(5):
            async with transaction(harness.engine) as connection:
                # As the API does: the user's row, then the container's, then the chip.
                await connection.execute(
                    text("SELECT 1 FROM users WHERE id = CAST(:id AS uuid) FOR UPDATE"), {"id": user_id}
                )
                await ensure_container(connection, user_id, harness.sealer, "main")
                generation = await next_generation(connection, user_id)
                new = str(uuid.uuid4())
                await connection.execute(
                    insert(chips).values(id=new, user_id=user_id, alias=new, generation=generation)
                )

    async def look() -> None:
        for number in range(20):
            snapshot = await harness.store.load(user_id)
            assert snapshot is not None
            placed = Placed(
                str(uuid.UUID(int=number + 1)), str(uuid.UUID(int=2)), "h", "10.0.0.1", 3100 + number
            )
            status = ContainerStatus(
                phase="ready",
                placed=placed,
                allocation_id=placed.allocation_id,
                address=placed.address,
                port=placed.port,
            )
            seen = {chip.id: dice.choice([QR, STARTING]) for chip in snapshot.chips}
            await harness.store.write_status(
                lease, status, seen, {chip.id: chip.generation for chip in snapshot.chips}, 1
            )

    await asyncio.gather(look(), create(), wish(), wish(), wish())
    placements = await harness.placements(user_id)
    assert [placement.epoch for placement in placements] == list(range(1, 21))


async def test_two_creates_at_once_make_one_container(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    await asyncio.gather(*(harness.chip(user_id) for _ in range(5)))
    snapshot = await harness.store.load(user_id)
    assert snapshot is not None
    assert sorted(chip.generation for chip in snapshot.chips) == [2, 3, 4, 5, 6]
    assert snapshot.container.generation == 6


async def test_a_chip_accepted_while_its_container_goes_is_never_left_without_one(
    harness: PostgresHarness,
) -> None:
    for _ in range(10):
        user_id = await harness.user()
        await harness.container(user_id)
        lease = await claimed(harness, user_id)
        removed, chip_id = await asyncio.gather(harness.store.remove_container(lease), harness.chip(user_id))
        snapshot = await harness.store.load(user_id)
        assert snapshot is not None, removed
        assert [chip.id for chip in snapshot.chips] == [chip_id]


async def test_news_is_told_to_listeners_and_a_pass_without_news_is_silent(
    harness: PostgresHarness, database_url: str
) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    items: list[Item] = []
    listener = Listener(database_url, [OBSERVED])
    task = asyncio.create_task(listener.run(items.append))

    async def listening() -> bool:
        return listener.is_listening

    async def heard() -> int:
        return items.count(News(OBSERVED, user_id)) == 2

    try:
        await eventually(listening)
        for seen in (QR, QR, QR, STARTING):
            await harness.store.write_status(lease, READY, {chip_id: seen}, {chip_id: 2}, 1)
        await eventually(heard)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert items.count(News(OBSERVED, user_id)) == 2


async def test_a_pass_that_sees_nothing_new_writes_and_locks_nothing(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    await harness.store.write_status(lease, READY, {chip_id: QR}, {chip_id: 2}, 1)
    before = await _versions(harness.engine)
    assert len(before) == 6
    for _ in range(3):
        await harness.store.write_status(lease, READY, {chip_id: QR}, {chip_id: 2}, 1)
    assert await _versions(harness.engine) == before


async def test_times_of_looks_move_when_they_are_old_and_nothing_else_then(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    await harness.store.write_status(lease, READY, {chip_id: QR}, {chip_id: 2}, 1)
    async with transaction(harness.engine) as connection:
        old = func.clock_timestamp() - text("interval '31 seconds'")
        await connection.execute(update(containers).values(observed_at=old, looked_at=old))
    container, chip = await harness.container_columns(user_id), await harness.chip_columns(chip_id)
    written = await harness.store.write_status(lease, READY, {chip_id: QR}, {chip_id: 2}, 1)
    assert isinstance(written, Written)
    assert not written.changed
    assert await harness.chip_columns(chip_id) == chip
    now = await harness.container_columns(user_id)
    assert container is not None
    assert now is not None
    for name in ("observed_at", "looked_at"):
        assert now.pop(name) > container.pop(name)
    assert now == container


async def _versions(engine: AsyncEngine) -> list[Any]:
    """Version and lock of every row: an update moves ctid and xmin, a lock xmax."""
    found: list[Any] = []
    async with reading(engine) as connection:
        for table in ("containers", "chips", "placements", "port_ledger", "chip_events", "leases"):
            query = text(f"SELECT ctid::text, xmin::text, xmax::text FROM {table} ORDER BY ctid")
            found.extend((table, *row) for row in await connection.execute(query))
    return found
