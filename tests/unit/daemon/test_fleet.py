"""The lease `fleet` and the sweep under it: who sweeps, when, and what it costs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from core.domain.facts import Unknown, WahaStatus
from core.domain.sweep import Listing
from core.errors import Unavailable
from daemon.fleet import Fleet, Lister
from daemon.lease import HeldLease
from daemon.sources.supervisor import Supervisor
from tests.unit.daemon.system import LOOP, Daemon, World, scenario, user_number

READS = ("nomad.jobs", "nomad.all_allocations", "nomad.variable_paths", "consul.instances")


class Counted:
    """A duty that remembers its runs."""

    name = "counted"
    every_s = 30.0

    def __init__(self) -> None:
        self.listings: list[Listing] = []
        self.held: list[HeldLease] = []
        self.trouble: BaseException | None = None
        self.takes_s = 0.0

    def begin(self) -> None:
        return

    def end(self) -> None:
        return

    async def run(self, held: HeldLease, listing: Listing, /) -> None:
        self.listings.append(listing)
        self.held.append(held)
        await asyncio.sleep(self.takes_s)
        if self.trouble is not None:
            raise self.trouble


def fleet(w: World, owner: str, duty: Counted, **more: Any) -> Fleet:
    daemon = Daemon(w, owner=owner)
    return Fleet(
        owner=owner,
        store=w.store,
        lister=Lister(w.nomad, w.consul, w.store, w.clock, daemon.outages),
        sweep=duty,
        clock=w.clock,
        random=Random(1),
        ttl_s=LOOP.lease_ttl_s,
        heartbeat_s=LOOP.lease_heartbeat_s,
        **more,
    )


@asynccontextmanager
async def run(w: World, one: Fleet) -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.create_task(Supervisor(one, w.clock, Random(1)).run())
    try:
        yield task
    finally:
        await end(task)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@scenario
async def test_one_of_two_holds_the_lease_and_runs_the_duties_at_their_times(w: World) -> None:
    first, second = Counted(), Counted()
    async with run(w, fleet(w, "d1", first)), run(w, fleet(w, "d2", second)):
        await asyncio.sleep(301)
    assert sorted((len(first.listings), len(second.listings))) == [0, 11]


@scenario
async def test_told_to_end_it_gives_the_lease_back_and_another_goes_on_at_once(w: World) -> None:
    first, second = Counted(), Counted()
    one = asyncio.create_task(Supervisor(fleet(w, "d1", first), w.clock, Random(1)).run())
    await asyncio.sleep(100)
    async with run(w, fleet(w, "d2", second)):
        await asyncio.sleep(10)
        assert not second.listings
        await end(one)
        await asyncio.sleep(4)
        assert len(second.listings) == 1
    assert len(first.listings) == 4


@scenario
async def test_a_dead_holder_is_replaced_when_its_lease_runs_out(w: World) -> None:
    await w.store.claim("fleet", "dead", LOOP.lease_ttl_s)
    duty = Counted()
    async with run(w, fleet(w, "d1", duty)):
        await asyncio.sleep(59)
        assert not duty.listings
        await asyncio.sleep(5)
        assert duty.listings


@scenario
async def test_a_holder_that_lost_the_lease_stops_and_may_do_nothing_more(w: World) -> None:
    duty = Counted()
    async with run(w, fleet(w, "d1", duty)):
        await asyncio.sleep(5)
        assert duty.held[0].allows(10.0)
        w.store.steal("fleet")
        await asyncio.sleep(50)
        assert duty.held[0].lost
        assert not duty.held[0].allows(0.0)
        assert len(duty.listings) == 1
        await asyncio.sleep(60)  # the thief's lease ran out
        assert len(duty.listings) > 1


@scenario
async def test_no_effect_may_begin_that_the_lease_does_not_outlive(w: World) -> None:
    duty = Counted()
    async with run(w, fleet(w, "d1", duty)):
        await asyncio.sleep(5)
        w.store.down = True  # heartbeats fail from now on
        await asyncio.sleep(40)
        (held,) = duty.held
        assert held.allows(10.0)
        assert not held.allows(30.0)
        await asyncio.sleep(20)
        assert not held.allows(0.0)
        w.store.down = False


@scenario
async def test_a_lease_with_an_effect_that_was_cut_off_runs_out_instead_of_being_given_back(w: World) -> None:
    class Cut(Counted):
        async def run(self, held: HeldLease, listing: Listing, /) -> None:
            self.listings.append(listing)
            async with held.effect():
                await asyncio.sleep(1e6)

    first, second = Cut(), Counted()
    one = asyncio.create_task(Supervisor(fleet(w, "d1", first), w.clock, Random(1)).run())
    await asyncio.sleep(5)
    await end(one)
    async with run(w, fleet(w, "d2", second)):
        await asyncio.sleep(50)
        assert not second.listings
        await asyncio.sleep(15)
        assert second.listings


@scenario
async def test_a_burst_of_reconnects_costs_one_listing_more_and_one_during_a_listing_another(
    w: World,
) -> None:
    duty = Counted()
    one = fleet(w, "d1", duty)
    async with run(w, one):
        await asyncio.sleep(5)
        for _ in range(100):
            one.relist()
        await asyncio.sleep(3)
        assert len(duty.listings) == 2
        w.faults.slow_s["nomad.jobs"] = 2.0
        one.relist()
        await asyncio.sleep(1)
        one.relist()
        one.relist()
        await asyncio.sleep(20)
        assert len(duty.listings) == 4


@scenario
async def test_a_stream_that_is_cut_over_and_over_has_everything_read_for_a_tenth_of_the_time_at_most(
    w: World,
) -> None:
    duty = Counted()
    duty.every_s = 600.0
    one = fleet(w, "d1", duty)
    w.faults.slow_s["nomad.jobs"] = 0.5
    async with run(w, one):
        for _ in range(200):
            one.relist()
            await asyncio.sleep(0.5)
        assert 15 <= len(duty.listings) <= 20
        one.relist()
        last = len(duty.listings)
        await asyncio.sleep(6)
        assert last < len(duty.listings)  # none is forgotten


@scenario
async def test_a_list_that_fails_is_unknown_and_read_again_soon(w: World) -> None:
    duty = Counted()
    duty.every_s = 600.0
    async with run(w, fleet(w, "d1", duty)):
        await asyncio.sleep(2)
        w.faults.before["nomad.all_allocations"] = Unavailable("nomad", "away")
        await asyncio.sleep(600)
        w.faults.up("nomad")
        blind = duty.listings[1]
        assert isinstance(blind.allocations, Unknown)
        assert not isinstance(blind.jobs, Unknown)
        seen = len(duty.listings)
        await asyncio.sleep(30)
        assert len(duty.listings) > seen
        assert not isinstance(duty.listings[-1].allocations, Unknown)


@scenario
async def test_a_holder_that_sees_nothing_lets_another_try(w: World) -> None:
    class Partitioned:
        """The same world, and Nomad out of reach."""

        def __getattr__(self, name: str) -> Any:
            async def away() -> Any:
                raise Unavailable("nomad", "unreachable from here")

            return away

    blind, seeing = Counted(), Counted()
    one = fleet(w, "d1", blind)
    one._lister._scheduler = Partitioned()
    async with run(w, one):
        await asyncio.sleep(1)
        async with run(w, fleet(w, "d2", seeing)):
            with capture_logs() as logs:
                await asyncio.sleep(60)
            assert [line["event"] for line in logs].count("fleet_yielded") == 1
            assert seeing.listings
            assert not isinstance(seeing.listings[0].jobs, Unknown)
    assert all(isinstance(listing.jobs, Unknown) for listing in blind.listings)


@scenario
async def test_a_duty_that_breaks_or_hangs_keeps_no_other_from_its_work(w: World) -> None:
    sweep, broken, last = Counted(), Counted(), Counted()
    broken.name, broken.trouble = "broken", RuntimeError("bug")
    one = fleet(w, "d1", sweep, duties=(broken, last))
    alive: list[float] = []
    with capture_logs() as logs:
        task = asyncio.create_task(one.listen(lambda: alive.append(w.clock.monotonic())))
        await asyncio.sleep(70)
        assert len(sweep.listings) == len(broken.listings) == len(last.listings) == 3
        broken.trouble, broken.takes_s = None, 1e6
        await asyncio.sleep(350)
        assert len(last.listings) == 4
        await end(task)
    events = [line["event"] for line in logs]
    assert events.count("duty_broke") == 3
    assert events.count("duty_late") == 1
    pauses = [b - a for a, b in itertools.pairwise(alive)]
    assert max(pauses) <= one.quiet_s / 2  # a long duty is no silence


@scenario
async def test_a_daemon_that_starts_beside_a_holder_says_so_once(w: World) -> None:
    hails: list[float] = []

    async def hail() -> None:
        hails.append(w.clock.monotonic())

    await w.store.claim("fleet", "other", 1000)
    async with run(w, fleet(w, "d1", Counted(), hail=hail)):
        await asyncio.sleep(100)
    assert len(hails) == 1


# --- with the real sweep --------------------------------------------------------------------------------


async def resting(w: World, users: int) -> None:
    """`users` users with one connected chip each; those that there are already stay."""
    for number in range(len(w.store.containers) + 1, users + 1):
        w.store.add_chip(user_number(number), user_number(1000 + number))
    await w.until(
        lambda: all(
            w.phase(user_number(1000 + n)) in (("qr", None), ("connected", None)) for n in range(1, users + 1)
        )
    )
    for sessions in w.waha.sessions.values():
        for session in sessions.values():
            session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
            w.waha.tell(next(user for user, found in w.waha.sessions.items() if found is sessions))
    await w.until(
        lambda: all(w.phase(user_number(1000 + n)) == ("connected", None) for n in range(1, users + 1))
    )
    await asyncio.sleep(1)


@scenario
async def test_at_rest_only_the_sweep_asks_anything_and_its_requests_do_not_grow_with_users(w: World) -> None:
    daemon = Daemon(w, settings=msgspec.structs.replace(LOOP, waha_look_s=1e5))
    async with daemon.running():
        for users in (3, 12):
            await resting(w, users)
            w.faults.calls.clear()
            await asyncio.sleep(600)
            asked = {call: w.faults.count(call) for call in set(w.faults.calls)}
            assert asked == dict.fromkeys(READS, 10), users
            assert len(daemon.queue) == 0


@scenario
async def test_each_user_at_rest_has_its_waha_looked_at_once_in_the_period(w: World) -> None:
    async with Daemon(w).running():
        await resting(w, 10)
        w.faults.calls.clear()
        await asyncio.sleep(300 * 4)
        assert w.faults.count("waha.sessions") == pytest.approx(40, abs=6)


@scenario
async def test_a_burst_of_lost_news_costs_one_pass_a_user(w: World) -> None:
    daemon = Daemon(w, settings=msgspec.structs.replace(LOOP, waha_look_s=1e5))
    async with daemon.running():
        await resting(w, 8)
        await asyncio.sleep(30)
        claims: list[str] = []
        real = daemon.reconciler.run

        async def counted(key: str, news_at: float | None = None) -> Any:
            claims.append(key)
            return await real(key, news_at)

        daemon.reconciler.run = counted  # type: ignore[method-assign]
        # Every container vanished while no source heard anything; then all sources come back at once.
        streams, w.nomad.streams = w.nomad.streams, []
        for number in range(1, 9):
            del w.nomad.held[w.job(user_number(number))]
        w.nomad.streams = streams
        for _ in range(50):
            daemon.fleet.relist()
            w.nomad.cut_streams()
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)
        first = claims[:8]
        assert sorted(first) == [user_number(n) for n in range(1, 9)]
