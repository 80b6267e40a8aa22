"""What a sweep keeps of the hosts: the newest word, by the holder of the fleet's lease alone."""

from __future__ import annotations

import uuid

import pytest

from core.domain.facts import AllocationFact, ClientStatus, ListedAllocation
from core.domain.host_use import HostUse, host_uses
from core.errors import StaleWrite
from core.store.interface import Lease
from tests.contract.store.harness import Harness

NODE = str(uuid.UUID(int=9))
ONE = HostUse("host-1", NODE, "10.0.0.1", 2, 2, 600)
TWO = HostUse("host-2", NODE, None, 1, 0, None)


async def test_the_newest_sweep_is_what_stands(harness: Harness) -> None:
    lease = await harness.store.claim("fleet", "d1", 60)
    assert isinstance(lease, Lease)
    await harness.store.record_hosts(lease, (ONE, TWO))
    assert await harness.hosts() == [ONE, TWO]
    changed = HostUse("host-2", NODE, "10.0.0.2", 3, 3, 900)
    await harness.store.record_hosts(lease, (changed,))
    assert await harness.hosts() == [changed]
    await harness.store.record_hosts(lease, ())
    assert await harness.hosts() == []
    await harness.expire(lease)
    assert isinstance(await harness.store.claim("fleet", "d2", 60), Lease)
    with pytest.raises(StaleWrite):
        await harness.store.record_hosts(lease, (ONE,))


async def test_a_host_is_counted_with_what_may_still_run_there(harness: Harness) -> None:
    now = await harness.now()

    def listed(number: int, client: ClientStatus, host: int, memory: int | None = 300) -> ListedAllocation:
        allocation = AllocationFact(
            str(uuid.UUID(int=number)), str(uuid.UUID(int=host)), f"host-{host}", "run", client, number, now, now,
            f"10.0.0.{host}", 3100 + number,
        )  # fmt: skip
        return ListedAllocation("job", allocation, memory)

    found = host_uses(
        [
            listed(1, ClientStatus.RUNNING, 1),
            listed(2, ClientStatus.PENDING, 1),
            listed(3, ClientStatus.COMPLETE, 1),
            listed(4, ClientStatus.FAILED, 3),
            listed(5, ClientStatus.UNKNOWN, 2, None),
        ]
    )
    assert [(one.name, one.containers, one.ports_used, one.memory_mb) for one in found] == [
        ("host-1", 2, 2, 600),
        ("host-2", 1, 1, None),
    ]
    assert found[0].address == "10.0.0.1"
