"""The reconnect ladder, consent and the QR budget, walked through on the pure world."""

from __future__ import annotations

from typing import Any

import pytest

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.desired import Consent, Wanted
from core.domain.facts import NOT_ASKED, Group, Known, Peers, Unknown, WahaStatus
from core.domain.states import Reason
from tests.passes import CHIPS, POLICY, USERS, hosts, one_pass, settle
from tests.world import World
from tests.world_rows import START, Session

USER, CHIP = USERS[0], CHIPS[0]
ALONE = Known(Peers(Group(2, 0, 20), Group(40, 3, 900)), START)
TOGETHER = (
    Peers(host=Group(1, 1, 30)),
    Peers(engine=Group(9, 9, 100)),
    Peers(provider=Group(2, 2, 30)),
    Peers(host=Group(12, 0, 18)),
)


def connected() -> World:
    world = World(hosts(4))
    world.add_chip(USER, CHIP)
    settle(world, USER, passes=10)
    world.scan(USER, CHIP)
    settle(world, USER, passes=3)
    assert row(world).status == "CONNECTED"
    world.tick(900.0)
    return world


def row(world: World) -> Any:
    return world.desired[USER].chips[0]


def session(world: World) -> Session:
    return next(iter(world.sessions[USER].values()))


def walk(world: World, passes: int = 60) -> list[str]:
    """The names of the actions that were decided, in order."""
    names: list[str] = []
    for _ in range(passes):
        decision = one_pass(world, USER)
        assert decision is not None
        names += [type(action).__name__ for action in decision.actions]
        world.tick(2.0)
    return names


def fails_for_good(world: World) -> None:
    session(world).dead = True
    session(world).status = WahaStatus.FAILED


def press(world: World, *, fresh: bool = False) -> None:
    world.intend(USER, CHIP, Wanted.CONNECTED, fresh=fresh)


def test_a_failed_chip_climbs_restart_restart_rewrite_and_ends_with_its_button() -> None:
    world = connected()
    fails_for_good(world)
    assert walk(world) == ["RestartSession", "RestartSession", "RewriteSession"]
    assert (row(world).phase, row(world).status) == ("failed", "DISCONNECTED")
    assert row(world).reason == Reason.RECONNECT_FAILED
    assert session(world).me is not None
    settled = decide(world.desired[USER], world.observe(USER), world.now, POLICY)
    assert settled.requeue_after is None


def test_a_stopped_chip_is_started_first() -> None:
    world = connected()
    session(world).status = WahaStatus.STOPPED
    assert walk(world, 5) == ["StartSession"]
    assert row(world).status == "CONNECTED"


def test_a_stuck_chip_climbs_too() -> None:
    world = connected()
    world.stuck.add(USER)
    session(world).status = WahaStatus.STARTING
    assert walk(world, 400) == ["RestartSession", "RestartSession", "RewriteSession"]
    assert row(world).phase == "failed"


def test_a_press_gives_what_was_just_started_its_time_anew() -> None:
    world = connected()
    world.stuck.add(USER)
    session(world).status = WahaStatus.STARTING
    assert walk(world, 40) == []
    press(world)
    # The first look after a wish forgets what was started for the one before it.
    assert walk(world, 20) == []
    assert walk(world, 30)[0] == "RestartSession"


def test_a_press_whose_ladder_ends_with_nobody_else_failing_gives_a_qr_in_the_same_modal() -> None:
    world = connected()
    fails_for_good(world)
    walk(world)
    world.peers = ALONE
    press(world)
    began = world.now
    expected = ["RestartSession", "RestartSession", "RewriteSession", "LogoutSession"]
    assert walk(world, 40) == expected
    assert session(world).status is WahaStatus.SCAN_QR_CODE
    assert (row(world).phase, row(world).unlinked_generation) == ("qr", row(world).generation - 1)
    assert (world.now - began).total_seconds() < 90
    world.scan(USER, CHIP)
    assert walk(world, 5) == []
    assert row(world).status == "CONNECTED"


@pytest.mark.parametrize("peers", TOGETHER, ids=("host", "engine", "provider", "for hours"))
def test_a_press_in_an_outage_costs_nothing_and_says_so(peers: Peers) -> None:
    world = connected()
    fails_for_good(world)
    world.peers = Known(peers, START)
    press(world)
    assert "LogoutSession" not in walk(world)
    assert (row(world).phase, row(world).reason) == ("failed", Reason.OUTAGE)
    assert session(world).me is not None
    world.peers = ALONE  # the outage ends: what was said of that press stays; another press is another matter
    assert walk(world) == []
    press(world)
    assert walk(world)[-1] == "LogoutSession"


def test_nothing_is_logged_out_while_it_is_unknown_how_others_fare() -> None:
    world = connected()
    fails_for_good(world)
    world.peers = Unknown(NOT_ASKED)
    press(world)
    assert "LogoutSession" not in walk(world)
    assert row(world).phase == "retrying"
    world.peers = ALONE
    assert walk(world)[0] == "LogoutSession"


def test_an_old_press_is_no_consent_any_more() -> None:
    world = connected()
    press(world)
    settle(world, USER, passes=3)  # it connects, which ends the consent
    world.peers = ALONE
    fails_for_good(world)
    assert "LogoutSession" not in walk(world)
    assert row(world).reason == Reason.RECONNECT_FAILED
    press(world)
    world.hung.add(USER)  # nobody can do anything about it for an hour
    settle(world, USER, passes=3)
    world.tick(POLICY.consent_s + 1)
    world.hung.discard(USER)
    assert "LogoutSession" not in walk(world)


def test_fresh_logs_out_at_once_from_failed_and_from_stopped() -> None:
    world = connected()
    fails_for_good(world)
    walk(world)
    press(world, fresh=True)
    assert walk(world, 10) == ["LogoutSession"]
    assert session(world).status is WahaStatus.SCAN_QR_CODE
    world = connected()
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    settle(world, USER, passes=5)
    press(world, fresh=True)
    assert walk(world, 10) == ["LogoutSession", "StartSession"]
    assert session(world).status is WahaStatus.SCAN_QR_CODE


def test_fresh_leaves_what_works_alone_and_is_spent_by_it() -> None:
    world = connected()
    press(world, fresh=True)
    assert walk(world, 5) == []
    world.tick(60.0)
    fails_for_good(world)
    assert "LogoutSession" not in walk(world)


def test_a_disconnect_in_between_wins() -> None:
    world = connected()
    fails_for_good(world)
    press(world, fresh=True)
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    assert row(world).consent is Consent.NONE
    assert walk(world, 20) == ["StopSession"]
    assert session(world).me is not None


def test_dead_credentials_of_an_unlinked_chip_go_with_a_press_alone() -> None:
    """An engine that keeps them fails again and again; only logout and start give a QR (WAHA, NOWEB)."""
    world = connected()
    session(world).status, session(world).me = WahaStatus.FAILED, None
    walk(world, 20)
    assert row(world).phase == "unlinked"
    session(world).dead = True
    press(world)
    assert walk(world, 30) == ["StartSession", "LogoutSession"]
    assert session(world).status is WahaStatus.SCAN_QR_CODE
    assert row(world).tries.qr_rounds == POLICY.qr_rounds


def test_a_never_paired_chip_that_gives_no_qr_is_parked_and_a_press_logs_it_out() -> None:
    world = World(hosts(4))
    world.add_chip(USER, CHIP)
    settle(world, USER, passes=4)
    fails_for_good(world)
    assert "LogoutSession" not in walk(world, 40)
    assert (row(world).phase, row(world).status) == ("parked", "WAITING_QR")
    press(world)
    assert walk(world, 30) == ["StartSession", "LogoutSession"]


def test_each_press_buys_its_qr_sets_and_nothing_else_does() -> None:
    world = connected()
    session(world).status, session(world).me = WahaStatus.FAILED, None
    walk(world, 20)
    for _ in range(3):
        press(world)
        before = session(world).starts
        for _ in range(40):
            walk(world, 5)
            world.expire_qr(USER, CHIP)
            world.tick(30.0)
        assert session(world).starts - before == POLICY.qr_rounds
        assert (row(world).phase, row(world).reason) == ("parked", Reason.QR_SPENT)
        assert session(world).status is WahaStatus.STOPPED


def test_a_logout_whose_answer_got_lost_is_seen_by_the_next_look() -> None:
    world = connected()
    fails_for_good(world)
    press(world, fresh=True)
    decision = one_pass(world, USER, only=1)  # done, and nothing written
    assert decision is not None
    assert isinstance(decision.actions[0], act.LogoutSession)
    world.tick(2.0)
    assert walk(world, 10) == []
    assert session(world).status is WahaStatus.SCAN_QR_CODE
    assert row(world).phase == "qr"
