"""When the double looks at checks, and what it makes of what it sees."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox.consul_double.definitions import Probe
from sandbox.consul_double.double import ConsulDouble, Knobs
from sandbox.consul_double.poller import Poller
from tests.unit.consul_double.conftest import FakeClock


class World:
    """What checks see, and what the poller says of it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.status = "passing"
        self.looks: list[float] = []
        self.reports: list[str] = []

    async def look(self, probe: Probe) -> tuple[str, str]:
        self.looks.append(self.clock.t)
        return self.status, "seen"

    def report(self, check_id: str, status: str, output: str) -> None:
        self.reports.append(status)


@pytest.fixture
def world(clock: FakeClock) -> World:
    return World(clock)


@pytest.fixture
async def poller(world: World) -> AsyncIterator[Poller]:
    made = Poller(world.clock, world.look, world.report)
    yield made
    await made.close()


def probe(*, failures_needed: int = 0, successes_needed: int = 0) -> Probe:
    return Probe(
        "http",
        "http://x/",
        interval_s=10,
        failures_needed=failures_needed,
        successes_needed=successes_needed,
    )


async def test_the_first_look_comes_within_the_interval_and_then_one_each(
    poller: Poller, world: World, clock: FakeClock
) -> None:
    for number in range(20):
        poller.watch(str(number), probe(), "critical")
    await clock.advance(10)
    assert len(world.looks) == 20
    assert len(set(world.looks)) > 10  # not all at once
    await clock.advance(30)
    assert len(world.looks) == 80


async def test_without_stagger_the_first_look_comes_at_once(
    poller: Poller, world: World, clock: FakeClock
) -> None:
    poller.stagger = False
    poller.watch("c", probe(), "critical")
    await clock.settle()
    assert world.reports == ["passing"]


async def test_a_check_that_is_forgotten_is_not_looked_at(
    poller: Poller, world: World, clock: FakeClock
) -> None:
    poller.watch("c", probe(), "critical")
    poller.forget("c")
    await clock.advance(100)
    assert world.looks == []


async def test_several_failures_may_be_needed(poller: Poller, world: World, clock: FakeClock) -> None:
    poller.stagger = False
    poller.watch("c", probe(failures_needed=3, successes_needed=2), "critical")
    await clock.settle()
    await clock.advance(10)
    world.status = "critical"
    await clock.advance(30)
    world.status = "passing"
    await clock.advance(20)
    assert world.reports == [
        "critical",  # one success is not enough
        "passing",
        "passing",  # one failure is not enough, nor are two
        "passing",
        "critical",
        "critical",
        "passing",
    ]


async def test_short_intervals_are_stretched(clock: FakeClock) -> None:
    world = World(clock)
    double = ConsulDouble(clock=clock, knobs=Knobs(stagger=False))
    double.poller = Poller(clock, world.look, double.report, stagger=False)
    try:
        double.register({"Name": "web", "Check": {"HTTP": "http://x/", "Interval": "10ms"}})
        await clock.advance(10)
        assert len(world.looks) == 11
        # The same registration again goes on as before; another one starts afresh.
        double.register({"Name": "web", "Check": {"HTTP": "http://x/", "Interval": "10ms"}})
        await clock.settle()
        assert len(world.looks) == 11
        double.register({"Name": "web", "Check": {"HTTP": "http://y/", "Interval": "10ms"}})
        await clock.settle()
        assert len(world.looks) == 12
        double.deregister("web")
        await clock.advance(10)
        assert len(world.looks) == 12
    finally:
        await double.close()
