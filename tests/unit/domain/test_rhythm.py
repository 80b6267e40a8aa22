"""Deaf sessions: who is asked, what counts as deaf, and what is done about it."""

from __future__ import annotations

from core.domain.desired import Wanted
from core.domain.facts import Probe, WahaStatus
from core.domain.policy import Policy
from core.domain.rhythm import is_deaf, suspects
from core.domain.states import Reason
from tests.passes import CHIPS, POLICY, USERS, one_pass
from tests.unit.domain.test_ladder import connected, row, session, walk
from tests.world import World

USER, CHIP = USERS[0], CHIPS[0]


def looks(world: World, hours: float, every_s: float = 300.0) -> int:
    """Passes at rest; how many restarts they made."""
    restarts = 0
    for _ in range(int(hours * 3600 / every_s)):
        world.tick(every_s)
        decision = one_pass(world, USER)
        assert decision is not None
        restarts += len(decision.actions)
        if decision.actions:
            walk(world, 4)
    return restarts


def asked(world: World) -> tuple[str, ...]:
    return suspects(world.desired[USER], world.observe(USER).sessions, world.now, POLICY)


def goes_deaf(world: World) -> None:
    session(world).deaf = True


def test_what_counts_as_deaf() -> None:
    assert is_deaf(Probe(WahaStatus.WORKING, connected=False))
    assert not is_deaf(Probe(WahaStatus.WORKING, connected=True))
    assert not is_deaf(Probe(WahaStatus.WORKING, connected=None))
    assert not is_deaf(Probe(WahaStatus.STARTING, connected=False))


def test_a_busy_chip_is_never_asked() -> None:
    world = connected()
    for _ in range(200):
        world.tick(300.0)
        assert asked(world) == ()
        one_pass(world, USER)
    assert 300 <= row(world).memory.rhythm.gap_s < 700  # it began with 900 s of silence


def test_a_deaf_chip_is_restarted_alone_and_hears_again() -> None:
    world = connected()
    looks(world, 2)
    goes_deaf(world)
    assert looks(world, 2) == 1
    assert row(world).status == "CONNECTED"
    assert not session(world).deaf
    assert session(world).me is not None
    assert len(row(world).memory.rhythm.restarts) == 1


def test_its_restarts_have_a_budget_and_after_that_it_is_said() -> None:
    world = connected()
    restarts = 0
    for _ in range(8):
        goes_deaf(world)
        restarts += looks(world, 1.5)
    assert restarts == POLICY.deaf_restarts
    goes_deaf(world)
    looks(world, 1.5)
    assert (row(world).phase, row(world).status) == ("connected", "CONNECTED")
    assert asked(world) == ()
    looks(world, 24)
    assert row(world).status == "CONNECTED"


def test_a_quiet_chip_answers_and_is_asked_ever_less_often() -> None:
    world = connected()
    session(world).quiet = True
    times = 0
    for _ in range(24 * 12):
        world.tick(300.0)
        times += len(asked(world))
        decision = one_pass(world, USER)
        assert decision is not None
        assert decision.actions == ()
    assert 1 <= times <= 6


def test_a_probe_that_could_not_be_made_restarts_nothing() -> None:
    world = connected()
    goes_deaf(world)
    world.unprobed.add(USER)
    assert looks(world, 6) == 0
    assert (row(world).phase, row(world).reason) == ("connected", None)
    decision = one_pass(world, USER)
    assert decision is not None
    assert decision.requeue_after == Policy().resync_s
    world.unprobed.clear()
    assert looks(world, 0.5) == 1


def test_a_disconnected_chip_has_no_rhythm_to_keep() -> None:
    world = connected()
    looks(world, 1)
    gap_s = row(world).memory.rhythm.gap_s
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    walk(world, 3)
    world.tick(8 * 3600.0)
    world.intend(USER, CHIP, Wanted.CONNECTED)
    walk(world, 5)
    assert row(world).status == "CONNECTED"
    assert row(world).memory.rhythm.gap_s == gap_s


def test_the_reason_stands_while_its_restart_is_under_way() -> None:
    world = connected()
    goes_deaf(world)
    world.tick(3600.0)
    decision = one_pass(world, USER)
    assert decision is not None
    told = decision.chips[CHIP]
    assert (told.phase, told.reason, told.status) == ("reconnecting", Reason.DEAF, "CONNECTING")
