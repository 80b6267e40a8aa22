"""Two users whose containers take over each other's port at the same moment, in PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actions import ContainerStatus, Placed
from core.domain.facts import Endpoint
from core.store.engine import transaction
from core.store.housekeeping import PostgresHousekeeping
from core.store.interface import Lease, PortTaken, Written
from core.store.tables import containers, port_ledger
from tests.contract.store.harness import PostgresHarness


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


def ready(allocation_id: str, port: int) -> ContainerStatus:
    return ContainerStatus(
        phase="ready",
        placed=Placed(allocation_id, str(uuid.UUID(int=2)), "host-1", "10.0.0.1", port),
        allocation_id=allocation_id,
        node_name="host-1",
        address="10.0.0.1",
        port=port,
        endpoint=Endpoint("10.0.0.1", port, allocation_id),
    )


class User:
    """A user with a ready container."""

    def __init__(self, harness: PostgresHarness, port: int) -> None:
        self.harness = harness
        self.port = port
        self.allocation_id = str(uuid.uuid4())

    async def begin(self) -> None:
        self.id = await self.harness.user()
        await self.harness.container(self.id)
        lease = await self.harness.store.claim(self.id, "one", 60)
        assert isinstance(lease, Lease)
        self.lease = lease
        assert isinstance(await self.write(ready(self.allocation_id, self.port)), Written)

    async def write(
        self, status: ContainerStatus, release_ports_of: tuple[str, ...] = ()
    ) -> Written | PortTaken:
        return await self.harness.store.write_status(
            self.lease, status, {}, {}, 1, release_ports_of=release_ports_of
        )

    async def endpoint(self) -> tuple[str, int] | None:
        columns = await self.harness.container_columns(self.id)
        assert columns is not None
        if columns["endpoint_allocation_id"] is None:
            return None
        return columns["endpoint_allocation_id"], columns["endpoint_port"]


@pytest.fixture
async def two(harness: PostgresHarness) -> tuple[User, User]:
    one, other = User(harness, 3100), User(harness, 3101)
    for user in (one, other):
        await user.begin()
    return one, other


async def test_two_passes_that_take_over_each_others_port_both_get_through(
    harness: PostgresHarness, two: tuple[User, User]
) -> None:
    one, other = two
    new, others_new = str(uuid.uuid4()), str(uuid.uuid4())
    async with transaction(harness.engine) as holding:
        # Whatever comes before the ledger has its locks by now; nothing of the ledger was changed yet.
        await holding.execute(select(port_ledger.c.id).with_for_update())
        writes = [
            asyncio.create_task(one.write(ready(new, 3101), (other.allocation_id,))),
            asyncio.create_task(other.write(ready(others_new, 3100), (one.allocation_id,))),
        ]
        done, _ = await asyncio.wait(writes, timeout=0.5)
        assert not done
    # PostgreSQL would have ended one of two that wait for each other, which is StaleWrite here.
    for written in await asyncio.gather(*writes):
        assert isinstance(written, Written)
    still_open = {entry.allocation_id: entry.port for entry in await harness.ledger() if entry.is_open}
    assert still_open == {new: 3101, others_new: 3100}
    last = [await one.endpoint(), await other.endpoint()]
    assert last == [(new, 3101), (others_new, 3100)]


async def test_housekeeping_takes_containers_before_entries_as_a_pass_does(
    harness: PostgresHarness, two: tuple[User, User]
) -> None:
    one, _ = two
    await harness.age(1000)
    fleet = await harness.store.claim("fleet", "one", 60)
    assert isinstance(fleet, Lease)
    keeping = PostgresHousekeeping(harness.engine)
    async with transaction(harness.engine) as passing:
        await passing.execute(
            select(containers.c.user_id).where(containers.c.user_id == one.id).with_for_update()
        )
        closing = asyncio.create_task(keeping.close_forgotten(fleet, (), listing_age_s=0.0))
        done, _ = await asyncio.wait({closing}, timeout=0.3)
        assert not done
        # It waits for the container and holds no entry: the pass is not in its way, nor it in the pass's.
        await asyncio.wait_for(
            passing.execute(
                select(port_ledger.c.id).where(port_ledger.c.user_id == one.id).with_for_update()
            ),
            2,
        )
    assert len(await closing) == 2
    assert await one.endpoint() is None
