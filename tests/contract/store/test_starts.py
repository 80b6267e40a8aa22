"""Start tokens: one line and one set of buckets for everybody who asks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Tries
from core.domain.pacing import Ask, Limit, Pace, Turns
from core.domain.routes import LabelWhy
from core.errors import StaleWrite
from core.store.interface import Lease, Written
from tests.contract.store.harness import Harness

# So slow that nothing flows in while a test runs, unless time is moved on.
PACE = Pace(fleet=Limit(0.01, 4), host=Limit(0.01, 3), provider=Limit(0.01, 2))


class Asker:
    """One user's pass."""

    def __init__(self, harness: Harness, lease: Lease, chip_ids: list[str], order: int) -> None:
        self._harness = harness
        self._order = order
        self.lease = lease
        self.chip_ids = chip_ids
        self.tries: dict[str, Tries] = {}

    async def ask(
        self, *chips: int, host: str = "h1", provider: str | None = None, down_s: float = 0, pace: Pace = PACE
    ) -> Turns:
        since = await self._harness.now() - timedelta(seconds=down_s)
        asks = [Ask(self.chip_ids[n], host, provider, self._order, since) for n in chips]
        turns = await self._harness.store.take_starts(self.lease, asks, pace, self.tries)
        assert turns is not None
        return turns


async def asker(harness: Harness, chips: int = 5, order: int = 20) -> Asker:
    user_id = await harness.user()
    chip_ids = [await harness.chip(user_id) for _ in range(chips)]
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    return Asker(harness, lease, sorted(chip_ids), order)


async def test_full_buckets_give_their_burst_and_no_more(harness: Harness) -> None:
    one = await asker(harness)
    turns = await one.ask(0, 1, 2, 3, 4)
    assert list(turns.waited_s.items()) == [(chip_id, 0.0) for chip_id in one.chip_ids[:3]]
    assert [turns.waits[chip_id].position for chip_id in one.chip_ids[3:]] == [1, 2]
    assert turns.line == 2
    assert turns.fleet_tokens == pytest.approx(1, abs=0.1)
    elsewhere = await asker(harness)
    turns = await elsewhere.ask(0, 1, host="h2")
    assert list(turns.waited_s) == elsewhere.chip_ids[:1]
    assert turns.line == 3


async def test_a_provider_has_a_bucket_of_its_own(harness: Harness) -> None:
    one = await asker(harness)
    assert len((await one.ask(0, 1, 2, provider="x")).waited_s) == 2
    assert len((await one.ask(3, provider="y")).waited_s) == 1


async def test_tokens_flow_in_with_time(harness: Harness) -> None:
    one = await asker(harness)
    await one.ask(0, 1, 2)
    told = (await one.ask(3)).waits[one.chip_ids[3]].wait_s
    assert 95 < told <= 100
    await harness.age(told + 1)
    turns = await one.ask(3)
    assert turns.waited_s == {one.chip_ids[3]: pytest.approx(told + 1, abs=2)}
    assert turns.fleet_tokens == pytest.approx(1, abs=0.2)


async def test_how_long_it_stood_in_line_is_told(harness: Harness) -> None:
    quick = Pace(fleet=Limit(0.1, 1), host=Limit(0.1, 1))
    one = await asker(harness)
    await one.ask(0, pace=quick)
    for _ in range(2):  # asked again in time, it keeps the moment when it came
        assert (await one.ask(1, pace=quick)).waits
        await harness.age(4)
    await harness.age(4)
    assert (await one.ask(1, pace=quick)).waited_s == {one.chip_ids[1]: pytest.approx(12, abs=2)}


async def test_the_better_plan_goes_first_and_then_who_waits_longest(harness: Harness) -> None:
    free, late, business = await asker(harness), await asker(harness), await asker(harness, order=10)
    await free.ask(0, 1, 2)
    await late.ask(0, host="h2", down_s=500)
    assert (await free.ask(3, down_s=100)).waits[free.chip_ids[3]].position == 1
    assert (await late.ask(1, down_s=200)).waits[late.chip_ids[1]].position == 1
    assert (await business.ask(0)).waits[business.chip_ids[0]].position == 1
    assert (await late.ask(1, down_s=200)).waits[late.chip_ids[1]].position == 2
    assert (await free.ask(3, down_s=100)).waits[free.chip_ids[3]].position == 3
    await harness.age(10)
    more = Pace(fleet=Limit(0.1, 4), host=Limit(0.1, 3), provider=PACE.provider)
    assert (await late.ask(1, down_s=200, pace=more)).waits, "the one token is for the better plan"
    assert (await business.ask(0, pace=more)).waited_s


async def test_who_waits_for_a_busy_host_holds_up_nobody_else(harness: Harness) -> None:
    busy, other = await asker(harness), await asker(harness)
    await busy.ask(0, 1, 2)
    assert len((await busy.ask(3, 4, down_s=900)).waits) == 2
    assert (await other.ask(0, host="h2")).waited_s


async def test_who_does_not_ask_again_counts_no_more(harness: Harness) -> None:
    gone, other = await asker(harness), await asker(harness)
    two = Pace(fleet=Limit(0.01, 2), host=Limit(0.01, 2))
    await gone.ask(0, 1, pace=two)
    assert (await gone.ask(2, pace=two, down_s=900)).line == 1
    await harness.age(59)
    assert (await other.ask(0, pace=two)).waits[other.chip_ids[0]].position == 2
    await harness.age(2)
    turns = await other.ask(0, pace=two)
    assert (turns.waits[other.chip_ids[0]].position, turns.line) == (1, 1)


async def test_who_is_about_to_ask_is_part_of_the_estimate_alone(harness: Harness) -> None:
    one, coming = await asker(harness, order=0), await asker(harness, chips=2)
    status = ContainerStatus(phase="booting", node_name="h1", address="10.0.0.1", port=3100)
    chips = {chip_id: ChipStatus("queued", "WAITING_QR") for chip_id in coming.chip_ids}
    generations = dict.fromkeys(chips, 9)
    written = await harness.store.write_status(coming.lease, status, chips, generations, 9)
    assert isinstance(written, Written)
    await one.ask(0, 1, 2)
    before = (await one.ask(3, down_s=900)).waits[one.chip_ids[3]]
    after = (await one.ask(4)).waits[one.chip_ids[4]]
    assert (before.position, after.position) == (1, 2)
    assert before.wait_s == pytest.approx(100, abs=5)
    assert after.wait_s == pytest.approx(400, abs=5)  # one in line and two that come
    assert (await one.ask(4, host="h2")).waited_s, "they take nobody's token before they come"


async def test_who_comes_through_a_provider_is_waited_for_there(harness: Harness) -> None:
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    one, coming = await asker(harness, order=0), await asker(harness, chips=2)
    for chip_id in coming.chip_ids:
        await harness.store.assign_label(coming.lease, chip_id, LabelWhy.FIRST)
    status = ContainerStatus(phase="booting", node_name="h2", address="10.0.0.2", port=3100)
    chips = {chip_id: ChipStatus("queued", "WAITING_QR") for chip_id in coming.chip_ids}
    generations = dict.fromkeys(chips, 9)
    await harness.store.write_status(coming.lease, status, chips, generations, 9)
    wide = Pace(fleet=Limit(10, 100), host=Limit(10, 100), provider=Limit(0.01, 2))
    await one.ask(0, 1, provider="local", pace=wide)
    waits = (await one.ask(2, provider="local", pace=wide)).waits[one.chip_ids[2]]
    assert waits.wait_s == pytest.approx(300, abs=5)  # two that come through it were there before
    assert (await one.ask(3, provider="another", pace=wide)).waited_s


async def test_a_lease_that_is_lost_takes_nothing(harness: Harness) -> None:
    one = await asker(harness)
    await harness.expire(one.lease)
    await harness.store.claim(one.lease.key, "two", 60)
    with pytest.raises(StaleWrite):
        await one.ask(0)
    other = await asker(harness)
    assert (await other.ask(0)).fleet_tokens == pytest.approx(3, abs=0.1)


async def test_daemons_that_ask_at_once_overdraw_no_bucket(harness: Harness) -> None:
    """Each pass on a connection of its own, all at one moment, from the very first ask on."""
    askers = [await asker(harness, chips=3) for _ in range(8)]
    pace = Pace(fleet=Limit(0.01, 9), host=Limit(0.01, 3))
    for round_ in range(3):
        answers = await asyncio.gather(
            *(one.ask(0, 1, 2, host=f"h{n % 4}", pace=pace) for n, one in enumerate(askers))
        )
        granted = [sum(len(turns.waited_s) for turns in answers[host::4]) for host in range(4)]
        assert sum(granted) == (9 if round_ == 0 else 0), granted
        assert max(granted) <= 3
    assert answers[-1].line == 24


async def test_who_gets_its_tokens_has_its_tries_kept_and_nobody_else(harness: Harness) -> None:
    one, other = await asker(harness), await asker(harness, 1)
    spent = Tries(3, 1, 2, datetime(2026, 1, 2, tzinfo=UTC))
    one.tries = dict.fromkeys([*one.chip_ids, *other.chip_ids], spent)
    turns = await one.ask(0, 1, 2, 3, 4)
    assert list(turns.waited_s) == one.chip_ids[:3]
    stored: dict[str, Tries] = {}
    for asking in (one, other):
        snapshot = await harness.store.load(asking.lease.key)
        assert snapshot is not None
        stored |= {chip.id: chip.tries for chip in snapshot.chips}
    assert {chip_id for chip_id, tries in stored.items() if tries == spent} == set(one.chip_ids[:3])


async def test_a_paused_fleet_gives_no_tokens_and_has_no_line(harness: Harness) -> None:
    one = await asker(harness)
    asks = [Ask(chip_id, "h1", None, 20, None) for chip_id in one.chip_ids]
    spent = dict.fromkeys(one.chip_ids, Tries(3, 1))
    await harness.pause_fleet()
    assert await harness.store.take_starts(one.lease, asks, PACE, spent) is None
    snapshot = await harness.store.load(one.lease.key)
    assert snapshot is not None
    assert {chip.tries.generation for chip in snapshot.chips} == {0}
    await harness.pause_fleet(paused=False)
    turns = await one.ask(0, 1, 2, 3)
    assert (len(turns.waited_s), turns.line) == (3, 1)
