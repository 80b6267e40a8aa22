"""Walks of chips that go out through the guard: each step before a start, and what makes it wait."""

from __future__ import annotations

import msgspec
import pytest

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.desired import DesiredChip, Wanted
from core.domain.egress_errors import OF_UPSTREAM, EgressError
from core.domain.facts import WahaStatus
from core.domain.routes import ChipRoute
from core.domain.states import Reason, reason_text
from core.domain.way_out import REASONS
from tests.passes import CHIPS, GUARDED, USERS, hosts, one_pass, settle
from tests.world import World
from tests.world_rows import Session

USER, CHIP = USERS[0], CHIPS[0]


def guarded() -> World:
    world = World(hosts(4))
    world.policy = GUARDED
    world.add_chip(USER, CHIP)
    return world


def connected() -> World:
    world = guarded()
    settle(world, USER, passes=12)
    world.scan(USER, CHIP)
    settle(world, USER, passes=3)
    assert chip_of(world).phase == "connected"
    return world


def chip_of(world: World) -> DesiredChip:
    return world.desired[USER].chips[0]


def route_of(world: World) -> ChipRoute:
    route = chip_of(world).route
    assert route is not None
    return route


def session_of(world: World) -> Session:
    return next(iter(world.sessions[USER].values()))


def chip_actions(world: World, passes: int, seconds: float = 2.0) -> list[str]:
    """Names of what was done about the chip; labels with their reason."""
    found = []
    for _ in range(passes):
        decision = one_pass(world, USER)
        assert decision is not None
        for action in decision.actions:
            if hasattr(action, "chip_id"):
                why = f":{action.why}" if isinstance(action, act.AssignLabel) else ""
                found.append(type(action).__name__ + why)
        world.tick(seconds)
    return found


def test_a_label_and_its_reading_come_while_the_container_boots_and_then_the_session() -> None:
    world = guarded()
    assert chip_actions(world, 12) == ["AssignLabel:first", "ReadExit", "CreateSession"]
    assert session_of(world).status is WahaStatus.SCAN_QR_CODE
    assert session_of(world).proxy == (world.speaking(USER), 1)
    assert chip_of(world).phase == "qr"


def test_in_another_allocation_the_config_is_written_before_the_start() -> None:
    world = connected()
    before = world.speaking(USER)
    world.replace(str(before))
    done = chip_actions(world, 12)
    assert done == ["RouteSession", "StartSession"]
    assert world.speaking(USER) != before
    assert session_of(world).proxy == (world.speaking(USER), 1)
    assert chip_of(world).phase == "connected"
    assert route_of(world).generation == 1


def test_a_connected_chip_gets_another_label_without_a_stop_and_its_config_at_the_next_start() -> None:
    world = connected()
    world.trouble(USER, CHIP, "asked")
    assert chip_actions(world, 5) == ["AssignLabel:requested", "ReadExit"]
    assert (chip_of(world).phase, route_of(world).generation) == ("connected", 2)
    assert session_of(world).proxy == (world.speaking(USER), 1)
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    settle(world, USER, passes=3)
    world.intend(USER, CHIP, Wanted.CONNECTED)
    assert chip_actions(world, 6) == ["AssignLabel:first", "RouteSession", "StartSession"]
    assert (route_of(world).generation, session_of(world).proxy) == (2, (world.speaking(USER), 2))


def test_a_disconnected_chip_gives_its_label_back_once() -> None:
    world = connected()
    world.intend(USER, CHIP, Wanted.DISCONNECTED)
    assert chip_actions(world, 6) == ["StopSession", "ReleaseLabel"]
    decision = decide(world.desired[USER], world.observe(USER), world.now, world.policy)
    assert (decision.actions, decision.requeue_after) == ((), None)


@pytest.mark.parametrize("trouble", ["exhausted", "gone"])
def test_trouble_keeps_a_stopped_chip_waiting_with_its_reason(trouble: str) -> None:
    world = connected()
    world.provider_gone = True
    world.trouble(USER, CHIP, trouble)
    world.kill_container(USER)
    done = chip_actions(world, 8)
    assert not {"StartSession", "RestartSession", "RouteSession"} & set(done)
    assert chip_of(world).phase == "queued"
    if trouble == "exhausted":
        assert chip_of(world).reason == Reason.TRAFFIC_EXHAUSTED
    world.provider_gone = False
    world.trouble(USER, CHIP, "well")
    assert "StartSession" in chip_actions(world, 8)
    assert (chip_of(world).phase, chip_of(world).reason) == ("connected", None)


def test_a_reading_that_fails_is_told_and_repeated_with_growing_pauses() -> None:
    world = guarded()
    world.reading_fails = EgressError.PROXY_UNREACHABLE
    done = chip_actions(world, 150)  # five minutes
    assert set(done) == {"AssignLabel:first", "ReadExit", "CreateSession"}
    assert 4 <= done.count("ReadExit") <= 6  # 0, 15, 45, 105, 225 s
    assert (chip_of(world).phase, chip_of(world).reason) == ("queued", Reason.PROXY_UNREACHABLE)
    assert session_of(world).starts == 0
    world.reading_fails = None
    settle(world, USER, passes=150)  # the pause that runs lasts four minutes
    assert (chip_of(world).phase, session_of(world).starts) == ("qr", 1)


def test_a_label_that_fails_alone_is_replaced() -> None:
    world = guarded()
    world.reading_fails = EgressError.NO_PEER
    settle(world, USER, passes=320)
    assert route_of(world).generation == 1
    world.trouble(USER, CHIP, "alone")
    assert chip_actions(world, 1) == ["AssignLabel:failing"]
    assert route_of(world).generation == 2


def test_with_readings_off_a_start_waits_for_none() -> None:
    world = guarded()
    world.policy = msgspec.structs.replace(GUARDED, exit_readings=False)
    assert chip_actions(world, 12) == ["AssignLabel:first", "CreateSession"]


def test_a_session_that_must_start_anew_with_another_config_is_stopped_first() -> None:
    world = connected()
    session_of(world).status = WahaStatus.FAILED
    world.forget_proxies(USER)
    assert chip_actions(world, 6) == ["StopSession", "RouteSession", "StartSession"]
    assert chip_of(world).phase == "connected"


def test_a_session_stuck_in_its_start_without_a_way_out_is_stopped_and_waits() -> None:
    world = connected()
    session_of(world).status = WahaStatus.STARTING
    world.stuck.add(USER)
    world.trouble(USER, CHIP, "exhausted")
    assert "StopSession" in chip_actions(world, 60)
    assert (chip_of(world).phase, chip_of(world).reason) == ("queued", Reason.TRAFFIC_EXHAUSTED)
    assert chip_actions(world, 10) == []


def test_a_deaf_chip_without_a_way_out_is_left_as_it_is() -> None:
    world = connected()
    session_of(world).deaf = True
    world.trouble(USER, CHIP, "exhausted")
    world.tick(7200.0)
    assert chip_actions(world, 3) == []
    assert (chip_of(world).phase, chip_of(world).reason) == ("connected", Reason.DEAF)
    world.trouble(USER, CHIP, "well")
    assert chip_actions(world, 4)[:2] == ["ReadExit", "RestartSession"]


def test_nothing_is_logged_out_for_a_qr_that_could_not_be_shown() -> None:
    world = connected()
    world.trouble(USER, CHIP, "exhausted")
    session_of(world).status = WahaStatus.STOPPED
    world.intend(USER, CHIP, Wanted.CONNECTED, fresh=True)
    assert chip_actions(world, 3) == []
    assert chip_of(world).reason == Reason.TRAFFIC_EXHAUSTED
    assert session_of(world).me is not None
    world.trouble(USER, CHIP, "well")
    assert chip_actions(world, 4)[0] == "LogoutSession"


def test_nothing_is_logged_out_while_no_session_may_start() -> None:
    world = connected()
    session_of(world).status = WahaStatus.STOPPED
    world.policy = msgspec.structs.replace(world.policy, egress=None)
    world.intend(USER, CHIP, Wanted.CONNECTED, fresh=True)
    assert chip_actions(world, 3) == []
    assert (chip_of(world).phase, chip_of(world).reason) == ("queued", Reason.NO_EGRESS)
    assert session_of(world).me is not None
    world.policy = GUARDED
    assert "LogoutSession" in chip_actions(world, 4)


def test_every_failing_of_an_upstream_is_a_reason_with_a_text() -> None:
    assert {EgressError(reason) for reason in REASONS} == {
        *OF_UPSTREAM,
        EgressError.NO_UPSTREAM,
        EgressError.QUOTA,
    }
    assert all(reason_text(reason) for reason in REASONS)


def test_a_paused_fleet_s_labels_stay_as_they_are() -> None:
    world = connected()
    world.trouble(USER, CHIP, "asked")
    desired = msgspec.structs.replace(world.desired[USER], fleet_paused=True)
    decision = decide(desired, world.observe(USER), world.now, world.policy)
    assert decision.actions == ()
    assert (decision.chips[CHIP].phase, decision.chips[CHIP].reason) == ("connected", None)
    world.kill_container(USER)
    world.tick()
    decision = decide(desired, world.observe(USER), world.now, world.policy)
    assert decision.actions == ()
    assert (decision.chips[CHIP].phase, decision.chips[CHIP].reason) == ("queued", Reason.PAUSED)
    assert chip_actions(world, 1) == ["AssignLabel:requested"]


def test_a_session_that_runs_without_a_label_gets_one_beside() -> None:
    world = connected()
    world._edit(USER, CHIP, route=None)
    assert chip_actions(world, 3) == ["AssignLabel:first", "ReadExit"]
    assert chip_of(world).phase == "connected"


def test_in_a_move_an_old_reading_is_made_anew_while_the_container_comes_up() -> None:
    world = connected()
    world.tick(7200.0)
    world.replace(str(world.speaking(USER)))
    assert chip_actions(world, 16) == ["ReadExit", "RouteSession", "StartSession"]
    assert chip_of(world).phase == "connected"


def test_a_deaf_chip_whose_label_changed_is_stopped_and_comes_back_with_its_new_config() -> None:
    world = connected()
    world.trouble(USER, CHIP, "asked")
    chip_actions(world, 3)
    session_of(world).deaf = True
    world.tick(7200.0)
    assert chip_actions(world, 8) == ["ReadExit", "StopSession", "RouteSession", "StartSession"]
    assert (chip_of(world).phase, session_of(world).proxy) == ("connected", (world.speaking(USER), 2))
