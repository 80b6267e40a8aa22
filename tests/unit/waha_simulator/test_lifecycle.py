"""Session states over virtual time: what follows what, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.waha.faults import Faults
from sandbox.waha.refusals import AlreadyExists, NotFound, WrongState
from sandbox.waha.session import PhoneRefused
from sandbox.waha.store import BANNED
from sandbox.waha.timers import SteppedTimers
from tests.scale import examples

from .conftest import PHONE, World

MakeWorld = Callable[..., World]


def test_create_without_start_is_stopped(world: World) -> None:
    assert world.create(start=False)["status"] == "STOPPED"
    assert world.simulator.list_sessions(all_sessions=False) == []
    assert [s["name"] for s in world.simulator.list_sessions(all_sessions=True)] == ["chip_1"]


def test_create_with_start_is_starting_then_shows_a_qr(world: World) -> None:
    created = world.create()
    assert created["status"] == "STARTING"
    assert created["assignedWorker"] == "u1"
    world.timers.advance(0.31)
    assert world.status() == "SCAN_QR_CODE"
    assert world.heard() == ["STARTING", "SCAN_QR_CODE"]


@pytest.mark.parametrize("start", [True, False])
def test_a_name_is_created_once(world: World, start: bool) -> None:
    world.create(start=start)
    with pytest.raises(AlreadyExists):
        world.create(start=start)


def test_a_name_is_made_up_when_left_out(world: World) -> None:
    name = world.create("", start=False)["name"]
    assert name.startswith("session_")
    assert len(name) == len("session_") + 32
    int(name.removeprefix("session_"), 16)


def test_qr_rotates_after_60_then_every_20_seconds_and_fails_at_160(world: World) -> None:
    world.create()
    world.timers.advance(0.3)
    values = [world.running().qr_value]
    for seconds in (60, 20, 20, 20, 20):
        world.timers.advance(seconds - 0.1)
        assert world.running().qr_value == values[-1]
        world.timers.advance(0.11)
        values.append(world.running().qr_value)
    assert len(set(values)) == 6
    world.timers.advance(19.8)
    assert world.status() == "SCAN_QR_CODE"
    world.timers.advance(0.2)
    assert world.status() == "FAILED"
    assert world.heard() == ["STARTING", *["SCAN_QR_CODE"] * 6, "FAILED"]
    world.timers.advance(10_000)
    assert world.status() == "FAILED"


def test_the_current_qr_pairs_and_me_is_known(world: World) -> None:
    world.paired()
    session = world.simulator.session("chip_1")
    assert session["me"]["id"] == f"{PHONE}@c.us"
    assert session["me"]["pushName"] == "Ana"
    assert session["timestamps"]["activity"] > 0
    assert world.heard()[-1] == "WORKING"
    world.timers.advance(1000)
    assert world.status() == "WORKING"


def test_a_rotated_qr_is_refused(world: World) -> None:
    world.create()
    world.timers.advance(1)
    old = world.running().qr_value
    assert old is not None
    world.timers.advance(60)
    with pytest.raises(PhoneRefused, match="expired"):
        world.running().scan(old, PHONE, "Ana")
    world.scan()
    assert world.status() == "WORKING"


def test_a_phone_finds_nothing_to_scan_before_and_after(world: World) -> None:
    world.create()
    with pytest.raises(PhoneRefused, match="STARTING"):
        world.running().scan("2@x", PHONE, "Ana")
    world.timers.advance(200)
    with pytest.raises(PhoneRefused, match="FAILED"):
        world.running().scan("2@x", PHONE, "Ana")


def test_start_of_a_running_session_changes_nothing(world: World) -> None:
    world.paired()
    assert world.run(world.simulator.start("chip_1"))["status"] == "WORKING"
    assert world.heard().count("STARTING") == 1


def test_start_of_a_failed_session_leaves_it_failed_and_restart_helps(world: World) -> None:
    world.create()
    world.timers.advance(200)
    assert world.run(world.simulator.start("chip_1"))["status"] == "FAILED"
    world.timers.advance(200)
    assert world.status() == "FAILED"
    assert world.run(world.simulator.restart("chip_1"))["status"] == "STARTING"
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


@pytest.mark.parametrize("call", ["start", "restart", "logout"])
def test_unknown_sessions_are_not_found(world: World, call: str) -> None:
    with pytest.raises(NotFound):
        world.run(getattr(world.simulator, call)("nobody"))
    with pytest.raises(NotFound):
        world.run(world.simulator.update("nobody", {}, None))


def test_stop_and_delete_of_unknown_sessions_are_fine(world: World) -> None:
    assert world.run(world.simulator.stop("nobody")) is None
    assert world.run(world.simulator.delete("nobody")) is None


@pytest.mark.parametrize("before", ["working", "stopped", "failed"])
def test_restart_keeps_credentials_and_needs_no_qr(world: World, before: str) -> None:
    world.paired()
    if before == "stopped":
        world.run(world.simulator.stop("chip_1"))
    if before == "failed":
        world.simulator.set_faults("chip_1", Faults(stuck_starting=True))
        world.run(world.simulator.restart("chip_1"))
        world.simulator.set_faults("chip_1", Faults())
    heard = len(world.heard())
    assert world.run(world.simulator.restart("chip_1"))["status"] == "STARTING"
    world.timers.advance(1)
    assert world.status() == "WORKING"
    assert "SCAN_QR_CODE" not in world.heard()[heard:]


def test_logout_of_a_running_session_asks_for_a_new_qr(world: World) -> None:
    world.paired(config={"metadata": {"a": "b"}})
    out = world.run(world.simulator.logout("chip_1"))
    assert out["status"] == "STARTING"
    assert out["me"] is None
    assert out["config"] == {"metadata": {"a": "b"}}
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


def test_logout_of_a_stopped_session_leaves_it_stopped(world: World) -> None:
    world.paired()
    world.run(world.simulator.stop("chip_1"))
    assert world.simulator.session("chip_1")["me"]["id"] == f"{PHONE}@c.us"
    out = world.run(world.simulator.logout("chip_1"))
    assert (out["status"], out["me"]) == ("STOPPED", None)
    world.run(world.simulator.start("chip_1"))
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


def test_update_replaces_the_config_and_bounces_a_running_session(world: World) -> None:
    world.paired(config={"metadata": {"a": "b"}, "debug": True})
    updated = world.run(world.simulator.update("chip_1", {"metadata": {"c": "d"}}, None))
    assert updated["config"] == {"metadata": {"c": "d"}}
    assert world.heard()[-2:] == ["STOPPED", "STARTING"]
    world.timers.advance(1)
    assert world.status() == "WORKING"


def test_update_of_a_stopped_session_leaves_it_stopped(world: World) -> None:
    world.create(start=False)
    assert world.run(world.simulator.update("chip_1", {}, None))["status"] == "STOPPED"


def test_delete_forgets_config_and_credentials(world: World) -> None:
    world.paired()
    world.run(world.simulator.delete("chip_1"))
    assert world.simulator.list_sessions(all_sessions=True) == []
    world.create()
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


def test_drop_reconnects_by_itself(world: World) -> None:
    world.paired()
    world.running().drop(2)
    assert world.status() == "STARTING"
    world.timers.advance(2.1)
    assert world.heard()[-3:] == ["WORKING", "STARTING", "WORKING"]


@pytest.mark.parametrize(("engine", "after_restart"), [("GOWS", "SCAN_QR_CODE"), ("NOWEB", "FAILED")])
def test_unlink_fails_the_session_and_only_a_logout_helps_everywhere(
    make_world: MakeWorld, engine: str, after_restart: str
) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE=engine)
    world.create()
    world.timers.advance(1)
    world.scan()
    world.timers.advance(3)
    assert world.status() == "WORKING"
    world.running().unlink()
    assert world.status() == "FAILED"
    world.run(world.simulator.restart("chip_1"))
    world.timers.advance(1)
    assert world.status() == after_restart
    world.run(world.simulator.logout("chip_1"))
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


def test_a_banned_number_fails_until_logout(world: World) -> None:
    world.paired()
    world.running().unlink(BANNED)
    for _ in range(2):
        world.run(world.simulator.restart("chip_1"))
        world.timers.advance(1)
        assert world.status() == "FAILED"
    world.run(world.simulator.logout("chip_1"))
    world.timers.advance(1)
    assert world.status() == "SCAN_QR_CODE"


def test_noweb_passes_through_starting_when_it_pairs(make_world: MakeWorld) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE="NOWEB")
    world.create()
    world.timers.advance(1)
    world.scan()
    assert world.status() == "STARTING"
    world.timers.advance(2)
    assert world.heard()[-3:] == ["SCAN_QR_CODE", "STARTING", "WORKING"]


def test_stuck_starting_shows_neither_qr_nor_failure(world: World) -> None:
    world.create(start=False)
    world.simulator.set_faults("chip_1", Faults(stuck_starting=True))
    world.run(world.simulator.start("chip_1"))
    world.timers.advance(10_000)
    assert world.status() == "STARTING"


def test_silent_working_shows_no_life(world: World) -> None:
    world.paired()
    before = world.simulator.session("chip_1")["timestamps"]["activity"]
    world.simulator.set_faults("chip_1", Faults(silent=True))
    assert world.running().show_life() is False
    assert world.status() == "WORKING"
    assert world.simulator.session("chip_1")["timestamps"]["activity"] == before


def test_pairing_code_is_bound_to_its_number(world: World) -> None:
    world.create()
    world.timers.advance(1)
    first = world.running().request_code(PHONE)
    second = world.running().request_code("5521988887777")
    with pytest.raises(PhoneRefused):
        world.running().enter_code(first, "Ana")
    world.running().enter_code(second, "Bia")
    world.timers.advance(0.2)
    assert world.simulator.session("chip_1")["me"]["id"] == "5521988887777@c.us"


@pytest.mark.parametrize("confirmation", [False, True])
def test_passkey_branch(world: World, confirmation: bool) -> None:
    world.create()
    world.timers.advance(1)
    world.running().require_passkey(confirmation=confirmation)
    assert world.status() == "PASSKEY_REQUIRED"
    assert world.poster.deliveries[-1].envelope["payload"]["data"]["passkey"]["rpId"] == "web.whatsapp.com"
    world.running().answer_passkey()
    if confirmation:
        assert world.status() == "PASSKEY_CONFIRMATION_REQUIRED"
        world.running().confirm_passkey()
    world.timers.advance(0.2)
    assert world.status() == "WORKING"


def test_an_unanswered_passkey_ends_with_the_qr_set(world: World) -> None:
    world.create()
    world.timers.advance(1)
    world.running().require_passkey(confirmation=False)
    world.timers.advance(161)
    assert world.status() == "FAILED"


# Waiting calls


def test_the_qr_gate_waits_5_s_for_a_session_that_does_not_run(world: World) -> None:
    world.create(start=False)
    with pytest.raises(WrongState) as caught:
        world.run(world.simulator.await_status("chip_1", "SCAN_QR_CODE"))
    assert world.timers.now() == pytest.approx(5)
    assert (caught.value.status, caught.value.expected) == ("STOPPED", ("SCAN_QR_CODE",))


def test_the_qr_gate_waits_10_s_for_the_status(world: World) -> None:
    world.paired()
    before = world.timers.now()
    with pytest.raises(WrongState) as caught:
        world.run(world.simulator.await_status("chip_1", "SCAN_QR_CODE"))
    assert world.timers.now() - before == pytest.approx(10)
    assert caught.value.status == "WORKING"


def test_the_qr_gate_of_an_unknown_session_has_no_status(world: World) -> None:
    with pytest.raises(WrongState) as caught:
        world.run(world.simulator.await_status("nobody", "SCAN_QR_CODE"))
    assert caught.value.status is None


def test_the_qr_gate_opens_while_it_waits(world: World) -> None:
    outcome = world.timers.spawn(world.simulator.await_status("chip_1", "SCAN_QR_CODE"))
    world.timers.advance(2)
    assert not outcome.done
    world.create()
    world.timers.advance(1)
    assert outcome.result().qr_value == world.running().qr_value


# Any sequence

ACTIONS = ("start", "stop", "restart", "logout", "scan", "unlink", "drop", "wait", "long wait", "update")
FOLLOWERS = {
    None: {"STARTING"},
    "STARTING": {"SCAN_QR_CODE", "WORKING", "FAILED", "STOPPED"},
    "SCAN_QR_CODE": {"SCAN_QR_CODE", "WORKING", "FAILED", "STOPPED"},
    "WORKING": {"STARTING", "FAILED", "STOPPED"},
    "FAILED": {"STOPPED"},
    "STOPPED": {"STARTING"},
}


@settings(max_examples=examples(150))
@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=25))
def test_any_sequence_follows_the_documented_transitions(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    world = World(tmp_path_factory.mktemp("store"))
    world.create(start=False)
    for action in actions:
        session = world.simulator.find_running("chip_1")
        if action in ("start", "stop", "restart", "logout"):
            world.run(getattr(world.simulator, action)("chip_1"))
        elif action == "update":
            world.run(world.simulator.update("chip_1", {}, None))
        elif action == "scan" and session is not None and session.qr_value is not None:
            world.scan()
        elif action == "unlink" and session is not None:
            session.unlink()
        elif action == "drop" and session is not None and session.status == "WORKING":
            session.drop(2)
        else:
            world.timers.advance(200 if action == "long wait" else 1)
        statuses = world.simulator.session("chip_1")
        paired = world.simulator.store.auth("chip_1") is not None
        assert statuses["status"] != "WORKING" or paired
    heard: list[str | None] = [None, *world.heard()]
    for before, after in itertools.pairwise(heard):
        assert after in FOLLOWERS[before], heard


def test_timers_run_in_order_and_in_their_own_time() -> None:
    timers = SteppedTimers()
    seen: list[tuple[str, float]] = []
    timers.call_later(2, lambda: seen.append(("b", timers.now())))
    timers.call_later(1, lambda: seen.append(("a", timers.now())))
    cancelled = timers.call_later(1.5, lambda: seen.append(("never", timers.now())))
    cancelled.cancel()
    timers.advance(5)
    assert seen == [("a", 1), ("b", 2)]
    assert timers.now() == 5
