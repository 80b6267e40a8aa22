"""Locks of sessions, how long a stop takes, and sessions that are told to go wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox.waha.faults import Faults
from sandbox.waha.refusals import AlreadyExists, EngineError, LockTimeout, NotFound, Unprocessable

from .conftest import World

MakeWorld = Callable[..., World]


def test_a_second_change_waits_for_the_first(world: World) -> None:
    world.paired()
    logout = world.timers.spawn(world.simulator.logout("chip_1"))
    restart = world.timers.spawn(world.simulator.restart("chip_1"))
    world.timers.advance(0.9)
    assert (logout.done, restart.done) == (False, False)
    world.timers.advance(0.2)
    assert (logout.done, restart.done) == (True, True)
    assert restart.result()["status"] == "STARTING"


def test_the_lock_is_waited_for_5_s_and_held_30_s(world: World) -> None:
    world.create(start=False)
    world.simulator.set_faults("chip_1", Faults(hang_seconds=40))
    start = world.timers.spawn(world.simulator.start("chip_1"))
    second = world.timers.spawn(world.simulator.stop("chip_1"))
    world.timers.advance(4.9)
    third = world.timers.spawn(world.simulator.stop("chip_1"))
    assert not second.done
    world.timers.advance(0.2)
    assert isinstance(second.error, LockTimeout)
    world.timers.advance(5)
    assert isinstance(third.error, LockTimeout)
    world.timers.advance(20)
    assert isinstance(start.error, LockTimeout)
    assert world.status() == "SCAN_QR_CODE", "the work goes on behind the error"
    late = world.timers.spawn(world.simulator.stop("chip_1"))
    world.timers.advance(4)
    assert not late.done, "the lock is still held by the work behind the error"
    world.timers.advance(1.5)
    assert isinstance(late.error, LockTimeout)
    world.timers.advance(10)
    assert world.run(world.simulator.stop("chip_1"))["status"] == "STOPPED"


def test_locks_of_other_sessions_do_not_wait(world: World) -> None:
    world.create("slow", start=False)
    world.simulator.set_faults("slow", Faults(hang_seconds=20))
    world.timers.spawn(world.simulator.start("slow"))
    before = world.timers.now()
    world.create("quick")
    assert world.timers.now() == before


def test_an_operation_that_fails_gives_its_lock_back(world: World) -> None:
    with pytest.raises(NotFound):
        world.run(world.simulator.start("chip_1"))
    assert world.create()["status"] == "STARTING"


def test_deprecated_start_refuses_a_running_session(world: World) -> None:
    world.run(world.simulator.start_upsert("chip_1", None))
    with pytest.raises(Unprocessable):
        world.run(world.simulator.start_upsert("chip_1", None))


@pytest.mark.parametrize(("engine", "seconds"), [("GOWS", 0.01), ("NOWEB", 1.0), ("WEBJS", 3.0)])
def test_stop_takes_as_long_as_the_engine(make_world: MakeWorld, engine: str, seconds: float) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE=engine)
    world.create()
    world.timers.advance(1)
    before = world.timers.now()
    world.run(world.simulator.stop("chip_1"))
    assert world.timers.now() - before == pytest.approx(seconds)


@pytest.mark.parametrize(("engine", "seconds"), [("GOWS", 0.01), ("NOWEB", 11.0), ("WEBJS", 13.0)])
def test_a_stop_waits_up_to_10_s_for_what_still_connects(
    make_world: MakeWorld, engine: str, seconds: float
) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE=engine)
    world.create(start=False)
    world.simulator.set_faults("chip_1", Faults(stuck_starting=True))
    world.run(world.simulator.start("chip_1"))
    before = world.timers.now()
    stop = world.timers.spawn(world.simulator.stop("chip_1"))
    world.timers.advance(seconds - 0.005)
    assert not stop.done
    world.timers.advance(0.01)
    assert stop.result()["status"] == "STOPPED"
    assert world.timers.now() - before == pytest.approx(seconds + 0.005)


def test_a_stop_waits_no_longer_than_the_connecting_takes(make_world: MakeWorld) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE="NOWEB", WAHA_SIM_START_DELAY_S="4")
    world.create()
    world.timers.advance(1)
    before = world.timers.now()
    world.run(world.simulator.stop("chip_1"))
    assert world.timers.now() - before == pytest.approx(3 + 1)


def test_a_graceful_end_with_a_stuck_session_stays_below_45_s(make_world: MakeWorld) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE="WEBJS")
    world.simulator.set_faults("*", Faults(stuck_starting=True))
    for name in ("chip_1", "chip_2", "chip_3"):
        world.create(name)
    before = world.timers.now()
    world.run(world.simulator.shutdown())
    assert world.timers.now() - before == pytest.approx(13)
    assert world.heard("chip_3")[-1] == "STOPPED"


def test_a_stop_that_takes_too_long_is_an_error_and_done_all_the_same(world: World) -> None:
    world.paired()
    world.simulator.set_faults("chip_1", Faults(stop_seconds=35))
    stop = world.timers.spawn(world.simulator.stop("chip_1"))
    world.timers.advance(30.1)
    assert isinstance(stop.error, LockTimeout)
    assert world.status() == "WORKING"
    world.timers.advance(5)
    assert world.status() == "STOPPED"
    assert "assignedWorker" not in world.simulator.session("chip_1")


@pytest.mark.parametrize("again", ["start", "restart"])
def test_an_engine_that_does_not_start_is_failed_and_an_error(world: World, again: str) -> None:
    world.simulator.set_faults("*", Faults(start_error=True))
    with pytest.raises(EngineError):
        world.create()
    assert world.status() == "FAILED"
    with pytest.raises(AlreadyExists):
        world.create()
    world.simulator.set_faults("*", Faults())
    world.run(getattr(world.simulator, again)("chip_1"))
    world.timers.advance(1)
    assert world.status() == ("FAILED" if again == "start" else "SCAN_QR_CODE")


def test_a_deaf_session_says_working_until_it_is_started_again(world: World) -> None:
    world.paired()
    heard, before = len(world.poster.deliveries), world.simulator.session("chip_1")["timestamps"]["activity"]
    world.running().deafen()
    assert world.running().show_life() is False
    world.running().unlink()
    world.timers.advance(1000)
    assert world.status() == "WORKING"
    assert len(world.poster.deliveries) == heard
    assert world.simulator.session("chip_1")["timestamps"]["activity"] == before
    world.run(world.simulator.restart("chip_1"))
    world.timers.advance(1)
    assert world.status() == "WORKING"
    assert world.running().show_life() is True


def test_faults_of_a_session_go_before_those_of_all(world: World) -> None:
    world.simulator.set_faults("chip_1", Faults())
    world.simulator.set_faults("*", Faults(stuck_starting=True))
    world.create("chip_1")
    world.create("chip_2")
    world.timers.advance(100)
    assert (world.status("chip_1"), world.status("chip_2")) == ("SCAN_QR_CODE", "STARTING")
