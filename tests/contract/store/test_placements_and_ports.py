"""Which allocation speaks for a user, and who holds which port."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from core.domain.actions import ContainerStatus, Placed
from core.store.interface import Lease, PortTaken, Written
from tests.contract.store.harness import Harness

NODE = str(uuid.UUID(int=99))


def allocation(number: int) -> str:
    return str(uuid.UUID(int=number))


def running(number: int, port: int = 3100, host: str = "10.0.0.1", **more: object) -> ContainerStatus:
    """A container whose allocation `number` runs on `host`."""
    id_ = allocation(number)
    return ContainerStatus(
        phase="booting",
        placed=Placed(id_, NODE, host, host, port),
        allocation_id=id_,
        node_name=host,
        address=host,
        port=port,
        **more,  # type: ignore[arg-type]
    )


class Passes:
    """Passes over several users, each under its lease."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.leases: dict[str, Lease] = {}

    async def user(self) -> str:
        user_id = await self.harness.user()
        await self.harness.container(user_id)
        lease = await self.harness.store.claim(user_id, "one", 60)
        assert isinstance(lease, Lease)
        self.leases[user_id] = lease
        return user_id

    async def see(
        self, user_id: str, status: ContainerStatus, release: tuple[str, ...] = ()
    ) -> Written | PortTaken:
        return await self.harness.store.write_status(
            self.leases[user_id], status, {}, {}, 1, release_ports_of=release
        )


@pytest.fixture
def passes(harness: Harness) -> Passes:
    return Passes(harness)


async def test_the_first_placement_has_epoch_one_and_each_move_the_next(passes: Passes) -> None:
    user_id = await passes.user()
    epochs = []
    for status in (
        running(1),
        running(1),
        running(2, 3101),
        ContainerStatus(phase="moving"),
        running(3, 3102),
    ):
        written = await passes.see(user_id, status)
        assert isinstance(written, Written)
        epochs.append(written.epoch)
    assert epochs == [1, 1, 2, 2, 3]
    placements = await passes.harness.placements(user_id)
    assert [(p.allocation_id, p.is_current) for p in placements] == [
        (allocation(1), False),
        (allocation(2), False),
        (allocation(3), True),
    ]
    snapshot = await passes.harness.store.load(user_id)
    assert snapshot is not None
    assert snapshot.container.current_allocation == allocation(3)


async def test_an_allocation_that_comes_back_speaks_with_a_new_epoch(passes: Passes) -> None:
    user_id = await passes.user()
    for number in (1, 2, 1):
        await passes.see(user_id, running(number, 3100 + number))
    placements = await passes.harness.placements(user_id)
    assert [(p.allocation_id, p.epoch, p.is_current) for p in placements] == [
        (allocation(2), 2, False),
        (allocation(1), 3, True),
    ]


async def test_a_live_allocation_has_one_open_entry(passes: Passes) -> None:
    user_id = await passes.user()
    await passes.see(user_id, running(1))
    await passes.see(user_id, running(1))
    entries = await passes.harness.ledger()
    assert [(e.user_id, e.allocation_id, e.address, e.port, e.is_open) for e in entries] == [
        (user_id, allocation(1), "10.0.0.1", 3100, True)
    ]


async def test_the_placed_allocation_and_a_newer_one_hold_a_port_each(passes: Passes) -> None:
    user_id = await passes.user()
    await passes.see(user_id, running(1))
    both = ContainerStatus(
        phase="moving",
        placed=Placed(allocation(1), NODE, "h", "10.0.0.1", 3100),
        allocation_id=allocation(2),
        address="10.0.0.2",
        port=3100,
    )
    await passes.see(user_id, both)
    assert {(e.allocation_id, e.address) for e in await passes.harness.ledger() if e.is_open} == {
        (allocation(1), "10.0.0.1"),
        (allocation(2), "10.0.0.2"),
    }


async def test_an_ended_allocation_frees_its_port_for_another_user(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    ended = ContainerStatus(phase="failing", closed_allocations=(allocation(1),))
    written = await passes.see(one, ended)
    assert isinstance(written, Written)
    assert written.closed == (allocation(1),)
    assert isinstance(await passes.see(two, running(2)), Written)
    again = await passes.see(one, ended)
    assert isinstance(again, Written)
    assert again.closed == ()


async def test_a_taken_port_is_told_and_nothing_is_written(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    await passes.see(two, running(2, 3101))
    before = await passes.harness.container_columns(two)
    conflict = running(3, closed_allocations=(allocation(2),))
    taken = await passes.see(two, conflict)
    assert taken == PortTaken("10.0.0.1", 3100, one, allocation(1))
    assert await passes.harness.container_columns(two) == before
    assert [p.allocation_id for p in await passes.harness.placements(two)] == [allocation(2)]
    assert [e.is_open for e in await passes.harness.ledger()] == [True, True]


async def test_a_holder_that_is_gone_is_closed_in_the_same_write(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    assert isinstance(await passes.see(two, running(2)), PortTaken)
    written = await passes.see(two, running(2), release=(allocation(1),))
    assert isinstance(written, Written)
    assert written.closed == (allocation(1),)
    assert [(e.user_id, e.is_open) for e in await passes.harness.ledger()] == [(one, False), (two, True)]


async def test_release_of_one_holder_does_not_help_against_another(passes: Passes) -> None:
    one, two, three = await passes.user(), await passes.user(), await passes.user()
    await passes.see(one, running(1))
    await passes.see(three, running(3, 3101))
    taken = await passes.see(two, running(2), release=(allocation(3),))
    assert isinstance(taken, PortTaken)
    assert [e.is_open for e in await passes.harness.ledger()] == [True, True]  # the release is undone too


async def test_own_older_allocation_holds_its_port_as_a_strangers_would(passes: Passes) -> None:
    user_id = await passes.user()
    await passes.see(user_id, running(1))
    assert await passes.see(user_id, running(2)) == PortTaken("10.0.0.1", 3100, user_id, allocation(1))
    assert isinstance(await passes.see(user_id, running(2, closed_allocations=(allocation(1),))), Written)


async def test_an_entry_closed_too_early_is_opened_again(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    await passes.see(two, running(2, 3101), release=(allocation(1),))
    assert isinstance(await passes.see(one, running(1)), Written)
    assert [(e.user_id, e.is_open) for e in await passes.harness.ledger()] == [(one, True), (two, True)]


async def test_an_entry_closed_too_early_whose_port_went_to_another(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    await passes.see(two, running(2), release=(allocation(1),))
    assert await passes.see(one, running(1)) == PortTaken("10.0.0.1", 3100, two, allocation(2))


async def test_one_strangers_close_list_cannot_close_anothers_entry(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1))
    await passes.see(two, ContainerStatus(phase="placing", closed_allocations=(allocation(1),)))
    assert [e.is_open for e in await passes.harness.ledger()] == [True]


async def test_the_same_port_on_two_hosts_is_no_conflict(passes: Passes) -> None:
    one, two = await passes.user(), await passes.user()
    await passes.see(one, running(1, host="10.0.0.1"))
    assert isinstance(await passes.see(two, running(2, host="10.0.0.2")), Written)


async def test_of_many_users_who_claim_one_port_at_once_one_gets_it(passes: Passes) -> None:
    users = [await passes.user() for _ in range(6)]
    answers = await asyncio.gather(*(passes.see(u, running(n + 1)) for n, u in enumerate(users)))
    assert sum(isinstance(answer, Written) for answer in answers) == 1
    winner = next(e for e in await passes.harness.ledger() if e.is_open)
    for answer in answers:
        if isinstance(answer, PortTaken):
            assert answer.holder_user_id == winner.user_id
    for user_id in users:
        current = [p.allocation_id for p in await passes.harness.placements(user_id) if p.is_current]
        assert bool(current) == (user_id == winner.user_id)
