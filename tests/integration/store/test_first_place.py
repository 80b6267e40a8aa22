"""A user's first placement and its port are written with the status in one statement, or not at all."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actions import ContainerStatus, Placed
from core.store.engine import transaction
from core.store.interface import Lease, PortTaken, Written
from core.store.tables import placements, port_ledger
from tests.contract.store.harness import PostgresHarness

NODE = str(uuid.UUID(int=2))


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


def running(allocation_id: str, port: int | None = 3100) -> ContainerStatus:
    address = "10.0.0.1" if port else None
    return ContainerStatus(
        phase="booting",
        placed=Placed(allocation_id, NODE, "host-1", address, port),
        allocation_id=allocation_id,
        node_name="host-1",
        address=address,
        port=port,
    )


async def claimed(harness: PostgresHarness) -> Lease:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    return lease


async def write(harness: PostgresHarness, lease: Lease, status: ContainerStatus) -> Written | PortTaken:
    return await harness.store.write_status(lease, status, {}, {}, 1)


async def test_a_port_that_is_told_later_is_booked_for_the_same_placement(harness: PostgresHarness) -> None:
    lease, allocation_id = await claimed(harness), str(uuid.uuid4())
    first = await write(harness, lease, running(allocation_id, port=None))
    assert isinstance(first, Written)
    assert first.changed
    assert first.epoch == 1
    assert await harness.ledger() == []
    then = await write(harness, lease, running(allocation_id))
    assert isinstance(then, Written)
    assert then.epoch == 1
    assert [(one.allocation_id, one.port, one.is_open) for one in await harness.ledger()] == [
        (allocation_id, 3100, True)
    ]
    assert [one.epoch for one in await harness.placements(lease.key)] == [1]


async def test_who_took_the_port_meanwhile_is_told_and_nothing_is_written(harness: PostgresHarness) -> None:
    lease, others = await claimed(harness), await claimed(harness)
    theirs = str(uuid.uuid4())
    async with transaction(harness.engine) as holding:
        await holding.execute(
            insert(port_ledger).values(
                user_id=others.key, allocation_id=theirs, address="10.0.0.1", port=3100
            )
        )
        writing = asyncio.create_task(write(harness, lease, running(str(uuid.uuid4()))))
        done, _ = await asyncio.wait({writing}, timeout=0.5)
        assert not done  # it was planned while nobody held the port
    assert await writing == PortTaken("10.0.0.1", 3100, others.key, theirs)
    assert await harness.placements(lease.key) == []
    columns = await harness.container_columns(lease.key)
    assert columns is not None
    assert columns["phase"] == "absent"


async def test_an_allocation_that_spoke_before_gets_its_row_back(harness: PostgresHarness) -> None:
    lease, allocation_id = await claimed(harness), str(uuid.uuid4())
    await write(harness, lease, running(allocation_id))
    async with transaction(harness.engine) as connection:
        await connection.execute(update(placements).values(is_current=False))
    written = await write(harness, lease, running(allocation_id))
    assert isinstance(written, Written)
    assert written.epoch == 2
    assert [
        (one.allocation_id, one.epoch, one.is_current) for one in await harness.placements(lease.key)
    ] == [(allocation_id, 2, True)]


async def test_a_placement_of_an_earlier_life_counts_for_the_epoch(harness: PostgresHarness) -> None:
    lease = await claimed(harness)
    await write(harness, lease, running(str(uuid.uuid4())))
    async with transaction(harness.engine) as connection:
        await connection.execute(update(placements).values(is_current=False))
    written = await write(harness, lease, running(str(uuid.uuid4()), port=3101))
    assert isinstance(written, Written)
    assert written.epoch == 2
    assert [one.is_current for one in await harness.placements(lease.key)] == [False, True]
