"""Several daemons on one store: one look for one piece of news, and nobody is forgotten when one of them goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from core.domain.facts import WahaStatus
from core.errors import Unavailable
from daemon.main import hand_over
from daemon.metrics import Outcome
from tests.unit.daemon.system import C1, LOOP, U1, Daemon, World, scenario, user_number

RESTFUL = msgspec.structs.replace(LOOP, waha_look_s=1e5)


class Cuttable:
    """A system that one daemon alone can lose."""

    def __init__(self, real: Any, name: str) -> None:
        self._real = real
        self._name = name
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real) or name == "watch":
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.cut:
                raise Unavailable(self._name, "out of reach from here")
            return await real(*args, **kwargs)

        return call


def passes(daemon: Daemon, *outcomes: Outcome) -> int:
    counted = outcomes or (Outcome.AT_REST, Outcome.ON_THE_WAY, Outcome.INCOMPLETE)
    found = [
        daemon.metrics.registry.get_sample_value("wahafleet_passes_total", {"outcome": one.value})
        for one in counted
    ]
    return int(sum(one or 0 for one in found))


@asynccontextmanager
async def two(w: World, **more: Any) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Both hear all news of the world."""
    one, other = (Daemon(w, owner=owner, settings=RESTFUL, **more) for owner in ("d1", "d2"))
    async with one.running(), other.running():

        def tell(user_id: str, *_: Any) -> None:
            one.queue.put(user_id)
            other.queue.put(user_id)

        w.waha.tell = tell
        yield one, other


async def connected(w: World) -> None:
    await w.until(lambda: w.phase() == ("qr", None))
    session = w.waha.sessions[U1][f"chip_{C1}"]
    session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
    w.waha.tell(U1)
    await w.until(lambda: w.phase() == ("connected", None))
    await asyncio.sleep(5)


@scenario
async def test_news_that_all_hear_cost_one_pass_and_a_burst_no_more(w: World) -> None:
    async with two(w) as (one, other):
        w.store.add_chip(U1, C1)
        w.waha.tell(U1)
        await connected(w)
        before = passes(one) + passes(other)
        for round_ in range(1, 11):
            for _ in range(20):
                w.waha.tell(U1)
            await asyncio.sleep(20)
            assert passes(one) + passes(other) == before + round_
        answered = passes(one, Outcome.ANSWERED) + passes(other, Outcome.ANSWERED)
        assert answered >= 10


@scenario
async def test_who_looked_last_plans_the_next_look_and_the_others_timers_lapse(w: World) -> None:
    async with two(w) as (one, other):
        w.store.add_chip(U1, C1)
        w.waha.tell(U1)
        await w.until(lambda: w.phase() == ("qr", None))
        w.waha.sessions[U1][f"chip_{C1}"].status = WahaStatus.SCAN_QR_CODE
        before = passes(one) + passes(other)
        await asyncio.sleep(20)
        w.waha.tell(U1)
        await asyncio.sleep(280)
        # One look in 30 s, however many daemons there are.
        assert passes(one) + passes(other) - before <= 300 / 30 + 2


@scenario
async def test_news_that_came_while_another_looked_are_looked_at_when_it_is_done(w: World) -> None:
    one, other = Daemon(w, owner="d1", settings=RESTFUL), Daemon(w, owner="d2", settings=RESTFUL)
    w.store.add_chip(U1, C1)
    await one.one_pass()
    w.faults.slow_s["nomad.job"] = 8.0
    slow = asyncio.create_task(one.one_pass())
    await asyncio.sleep(3)
    working = asyncio.create_task(other.controller.run())
    other.queue.put(U1)  # d1 has begun before, so it may not see what this is about
    w.faults.slow_s.clear()
    began = w.clock.monotonic()
    await w.until(lambda: passes(other) > 0, 15)
    assert w.clock.monotonic() - began <= 5 + 1.1  # within a second after d1 was done
    other.queue.close()
    await asyncio.gather(slow, working)


@scenario
async def test_a_daemon_that_cannot_see_nomad_does_not_keep_users_from_one_that_can(w: World) -> None:
    async with two(w) as (one, _):
        nomad = Cuttable(w.nomad, "nomad")
        one.reconciler._observer._scheduler = nomad
        one.reconciler._actor._scheduler = nomad
        nomad.cut = True
        w.store.add_chip(U1, C1)
        w.waha.tell(U1)
        assert await w.until(lambda: w.phase() == ("qr", None)) <= 20


@pytest.mark.parametrize("holder", ["it", "the other"])
def test_a_daemon_that_dies_between_two_looks_is_replaced(holder: str) -> None:
    @scenario
    async def run(w: World) -> None:
        store = Cuttable(w.store, "postgres")
        victim = Daemon(w, owner="d1", settings=RESTFUL, store=store)
        survivor = Daemon(w, owner="d2", settings=RESTFUL)
        w.nomad.boot_s = 30.0
        first, second = (victim, survivor) if holder == "it" else (survivor, victim)
        async with first.running():
            await asyncio.sleep(2)
            async with second.running():
                w.store.add_chip(U1, C1)
                victim.queue.put(U1)  # it alone heard of this one
                await asyncio.sleep(5)
                assert w.container()[0] == "booting"
                store.cut = True  # from now on nothing that it does matters
                took_s = await w.until(lambda: w.phase() == ("qr", None), 200)
                # The lease runs out, or a sweep misses the look: a minute, and a bit more for a non-holder.
                assert took_s <= (75 if holder == "it" else 145)

    run()


@scenario
async def test_a_daemon_told_to_end_names_what_it_had_in_mind_and_another_goes_on_at_once(w: World) -> None:
    one, other = Daemon(w, owner="d1", settings=RESTFUL), Daemon(w, owner="d2", settings=RESTFUL)
    w.nomad.boot_s = 10.0
    async with other.running():
        async with one.running():
            for number in range(1, 6):
                w.store.add_chip(user_number(number), user_number(1000 + number))
                one.queue.put(user_number(number))
            await asyncio.sleep(5)
        told: list[str] = []

        async def tell(keys: Any) -> None:
            told.extend(keys)
            for key in keys:
                other.queue.put(key)

        await hand_over(one.queue, tell)
        # Both hear Nomad, so some may be the other's already; whoever is left out is not lost.
        assert set(told) <= {user_number(number) for number in range(1, 6)}
        assert len(told) >= 2
        all_shown = lambda: all(w.phase(user_number(1000 + n)) == ("qr", None) for n in range(1, 6))  # noqa: E731
        assert await w.until(all_shown, 200) <= 12


@scenario
async def test_a_daemon_that_ends_alone_ends_all_the_same(w: World) -> None:
    one = Daemon(w)
    one.queue.put(U1)

    async def nobody(_keys: Any) -> None:
        raise Unavailable("postgres", "away")

    await hand_over(one.queue, nobody)
