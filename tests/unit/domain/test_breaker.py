"""The circuit breaker, quarantine and bans."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.domain import actions as act
from core.domain.breaker import is_quarantined
from core.domain.decide import decide
from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.states import Reason
from tests.passes import CHIPS, POLICY, USERS, one_pass, settle
from tests.unit.domain.test_ladder import connected, fails_for_good, press, row, session, walk
from tests.world import World

USER, CHIP = USERS[0], CHIPS[0]
STARTS = (act.StartSession, act.RestartSession, act.RewriteSession, act.CreateSession, act.LogoutSession)


def falls_back(world: World, status: WahaStatus = WahaStatus.FAILED) -> int:
    """It falls once and has half a minute to come back; how many starts that cost."""
    session(world).status = status
    starts = 0
    for _ in range(10):
        decision = one_pass(world, USER)
        assert decision is not None
        starts += sum(isinstance(action, STARTS) for action in decision.actions)
        world.tick(3.0)
    return starts


def tripped(world: World) -> None:
    for _ in range(POLICY.breaker_starts):
        assert falls_back(world) == 1
    assert falls_back(world) == 0


def test_the_ninth_start_within_half_an_hour_waits_with_a_reason_and_an_end() -> None:
    world = connected()
    tripped(world)
    chip = row(world)
    assert (chip.phase, chip.reason, chip.status) == ("failed", Reason.BREAKER_OPEN, "DISCONNECTED")
    until = chip.memory.breaker.open_until
    decision = decide(world.desired[USER], world.observe(USER), world.now, POLICY)
    assert decision.chips[CHIP].until == until
    assert decision.requeue_after == pytest.approx((until - world.now).total_seconds())
    world.now = until - timedelta(seconds=1)
    assert walk(world, 1) == []
    assert walk(world, 8) == ["RestartSession"]
    assert row(world).status == "CONNECTED"


def test_one_try_when_it_closes_and_a_chip_that_stays_is_forgiven() -> None:
    world = connected()
    tripped(world)
    world.tick(POLICY.breaker_open_s)
    settle(world, USER, passes=8)
    assert row(world).status == "CONNECTED"
    assert falls_back(world) == 0  # fell back soon after its one try: open again
    assert row(world).reason == Reason.BREAKER_OPEN
    world.tick(POLICY.breaker_open_s)
    settle(world, USER, passes=8)
    world.tick(POLICY.breaker_forgiven_s)
    settle(world, USER, passes=2)
    breaker = row(world).memory.breaker
    assert (breaker.starts, breaker.open_until) == ((), None)
    assert len(breaker.trips) == 2
    assert falls_back(world) == 1


def test_a_press_passes_an_open_breaker_once() -> None:
    world = connected()
    tripped(world)
    press(world)
    assert falls_back(world) == 1
    assert falls_back(world) == 0
    assert row(world).reason == Reason.BREAKER_OPEN


def test_a_press_passes_an_open_breaker_with_its_whole_ladder() -> None:
    """Else one whose credentials died just then would never see a QR, and end in quarantine."""
    world = connected()
    tripped(world)
    fails_for_good(world)
    press(world)
    done = walk(world, 40)
    assert done == ["RestartSession", "RestartSession", "RewriteSession", "LogoutSession"]
    assert row(world).status == "WAITING_QR"


def test_slow_failing_never_opens_it() -> None:
    world = connected()
    for _ in range(30):
        world.tick(300.0)
        assert falls_back(world) == 1


def quarantined() -> World:
    world = connected()
    tripped(world)
    for _ in range(POLICY.breaker_trips - 1):
        world.tick(POLICY.breaker_open_s)
        assert falls_back(world) == 1
        assert falls_back(world) == 0
    return world


def test_the_third_opening_within_a_day_needs_an_operator() -> None:
    world = quarantined()
    assert (row(world).phase, row(world).reason, row(world).status) == ("quarantined", "quarantined", "ERROR")
    assert session(world).status is WahaStatus.STOPPED
    for fresh in (False, True):
        press(world, fresh=fresh)
        world.tick(3600.0)
        assert walk(world, 5) == []
    world.release(USER, CHIP)
    assert not is_quarantined(row(world))
    walk(world, 8)
    assert row(world).status in ("CONNECTED", "WAITING_QR")
    if row(world).status == "WAITING_QR":
        world.scan(USER, CHIP)
        walk(world, 4)
    assert row(world).memory.breaker.quarantined_generation is None


def test_a_second_quarantine_needs_a_second_release() -> None:
    world = quarantined()
    world.release(USER, CHIP)
    settle(world, USER, passes=8)
    for _ in range(POLICY.breaker_starts):
        falls_back(world)
    for _ in range(POLICY.breaker_trips - 1):
        world.tick(POLICY.breaker_open_s)
        falls_back(world)
        falls_back(world)
    assert row(world).phase == "quarantined"


def test_a_container_that_dies_again_and_again_pauses_its_chips_and_puts_none_in_quarantine() -> None:
    world = connected()
    for _ in range(60):
        falls_back(world, WahaStatus.STOPPED)
        world.tick(60.0)
    breaker = row(world).memory.breaker
    assert breaker.quarantined_generation is None
    assert breaker.trips == ()
    assert session(world).starts < 45


def test_a_banned_chip_is_stopped_once_and_left_alone_whatever_is_pressed() -> None:
    world = connected()
    world.ban(USER, CHIP)
    assert walk(world, 6) == ["StopSession"]
    assert (row(world).phase, row(world).status, row(world).reason) == ("banned", "BANNED", "banned")
    for fresh in (False, True):
        press(world, fresh=fresh)
        assert walk(world, 6) == []
        assert row(world).status == "BANNED"
    assert session(world).me is not None
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    settle(world, USER, passes=3)
    assert row(world).status == "DISCONNECTED"
    press(world)
    settle(world, USER, passes=3)
    world.ban(USER, CHIP, banned=False)
    assert walk(world, 6) == ["StartSession"]
    assert row(world).status == "CONNECTED"


def test_a_banned_chip_can_be_deleted() -> None:
    world = connected()
    world.ban(USER, CHIP)
    settle(world, USER, passes=4)
    world.intend(USER, CHIP, Wanted.DELETED)
    settle(world, USER, passes=60)
    assert USER not in world.desired
