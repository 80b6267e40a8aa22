"""Sessions with a proxy: nothing before the tunnel stands, and what an engine does when it breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.waha import journal
from sandbox.waha.refusals import EngineError
from sandbox.waha.session import FIRST_TRIES, RECONNECT_LIMIT
from sandbox.waha.timers import SteppedTimers
from sandbox.waha.uplink import NOTE_SECONDS, RETRY_SECONDS

from .conftest import FakeTunnel, World

MakeWorld = Callable[..., World]
PROXY = {"server": "127.0.0.1:3128", "username": "chip.allocation", "password": "secret"}
CONFIG: dict[str, Any] = {"proxy": PROXY}


def starting(world: World, name: str = "chip_1") -> FakeTunnel:
    """A session that has begun to open its tunnel."""
    world.create(name, config=CONFIG)
    world.timers.advance(0.31)
    return world.tunnels[-1]


def paired(world: World) -> FakeTunnel:
    tunnel = starting(world)
    tunnel.up()
    world.scan()
    world.timers.advance(3)
    assert world.status() == "WORKING"
    return world.tunnels[-1]


@pytest.mark.parametrize("config", [None, {}, {"proxy": {"server": ""}}, {"proxy": None}])
def test_without_a_proxy_nothing_is_opened(world: World, config: Any) -> None:
    world.paired(config=config)
    assert world.tunnels == []


def test_the_proxy_is_told_in_answers_as_it_was_written(world: World) -> None:
    assert world.create(config=CONFIG)["config"]["proxy"] == PROXY
    assert world.simulator.session("chip_1")["config"]["proxy"] == PROXY
    assert world.simulator.list_sessions(all_sessions=True)[0]["config"]["proxy"] == PROXY


def test_the_qr_comes_when_the_tunnel_stands_and_not_before(world: World) -> None:
    tunnel = starting(world)
    assert tunnel.proxy == PROXY
    world.timers.advance(20)
    assert (world.status(), len(world.tunnels)) == ("STARTING", 1)
    tunnel.up()
    assert world.status() == "SCAN_QR_CODE"
    assert world.running().qr_value


def test_one_tunnel_serves_from_the_qr_to_working(world: World) -> None:
    tunnel = paired(world)
    assert world.tunnels == [tunnel]
    assert not tunnel.closed


def test_a_tunnel_that_is_refused_is_tried_again_and_then_the_session_has_failed(world: World) -> None:
    starting(world)
    for attempt in range(1, FIRST_TRIES):
        assert (world.status(), len(world.tunnels)) == ("STARTING", attempt)
        world.tunnels[-1].down("refused: proxy_auth")
        world.timers.advance(RETRY_SECONDS + 0.01)
    world.tunnels[-1].down("refused: proxy_auth")
    assert world.status() == "FAILED"
    world.timers.advance(600)
    assert len(world.tunnels) == FIRST_TRIES
    assert "refused: proxy_auth" in world.lines[-2]
    assert not any(PROXY["password"] in line for line in world.lines)


def test_a_restart_after_that_opens_a_new_one(world: World) -> None:
    starting(world)
    for _ in range(FIRST_TRIES):
        world.tunnels[-1].down()
        world.timers.advance(RETRY_SECONDS + 0.01)
    assert world.status() == "FAILED"
    world.run(world.simulator.restart("chip_1"))
    world.timers.advance(0.31)
    world.tunnels[-1].up()
    assert world.status() == "SCAN_QR_CODE"


@pytest.mark.parametrize("engine", ["GOWS", "NOWEB", "WEBJS"])
def test_a_working_session_whose_tunnel_breaks_is_back_by_itself(make_world: MakeWorld, engine: str) -> None:
    world = make_world(WHATSAPP_DEFAULT_ENGINE=engine)
    tunnel = paired(world)
    tunnel.down()
    assert world.status() == "STARTING"
    world.timers.advance(2.01)
    for _ in range(5):
        world.tunnels[-1].down("refused: not_current")
        world.timers.advance(RETRY_SECONDS + 0.01)
    assert world.status() == "STARTING"
    world.tunnels[-1].up()
    assert world.status() == "WORKING"
    assert world.heard()[-2:] == ["STARTING", "WORKING"]


def test_a_paired_session_gives_up_late(world: World) -> None:
    paired(world).down()
    world.timers.advance(0.3)
    for _ in range(RECONNECT_LIMIT):
        world.tunnels[-1].down()
        assert world.status() == "STARTING"
        world.timers.advance(RETRY_SECONDS + 0.01)
    world.tunnels[-1].down()
    assert world.status() == "FAILED"


def test_a_tunnel_that_breaks_under_a_qr_ends_that_code(world: World) -> None:
    starting(world).up()
    old = world.running().qr_value
    world.tunnels[-1].down()
    assert (world.status(), world.running().qr_value) == ("STARTING", None)
    world.timers.advance(0.3)
    world.tunnels[-1].up()
    assert world.status() == "SCAN_QR_CODE"
    assert world.running().qr_value not in (None, old)


def test_one_that_breaks_while_the_phone_pairs_does_not_lose_the_pairing(world: World) -> None:
    starting(world).up()
    value = world.running().qr_value
    assert value is not None
    world.running().scan(value, "5511999990000", "Ana")
    world.tunnels[-1].down()
    world.timers.advance(0.2)
    assert len(world.tunnels) == 2
    world.tunnels[-1].up()
    assert world.status() == "WORKING"


@pytest.mark.parametrize("end", ["stop", "delete", "logout", "shutdown", "abandon", "replaced"])
def test_whatever_ends_a_session_hangs_up(world: World, end: str) -> None:
    tunnel = paired(world)
    if end == "abandon":
        world.simulator.abandon()
    elif end == "shutdown":
        world.run(world.simulator.shutdown())
    elif end == "replaced":
        world.simulator.store.take_connection("chip_1")
        world.running().look_for_rival()
    else:
        world.run(getattr(world.simulator, end)("chip_1"))
    assert tunnel.closed


def test_a_stop_while_it_tries_again_ends_that_too(world: World) -> None:
    starting(world).down()
    world.run(world.simulator.stop("chip_1"))
    world.timers.advance(600)
    assert len(world.tunnels) == 1


def test_a_changed_proxy_is_used_by_the_start_that_comes_with_it(world: World) -> None:
    tunnel = paired(world)
    changed = {"proxy": {**PROXY, "password": "another"}}
    world.run(world.simulator.update("chip_1", changed, None))
    world.timers.advance(0.31)
    assert tunnel.closed
    assert world.tunnels[-1].proxy["password"] == "another"
    world.tunnels[-1].up()
    assert world.status() == "WORKING"


def test_a_deaf_session_does_not_notice(world: World) -> None:
    tunnel = paired(world)
    world.running().deafen()
    tunnel.down()
    world.timers.advance(600)
    assert (world.status(), len(world.tunnels)) == ("WORKING", 1)


def test_a_drop_hangs_up_and_connects_again(world: World) -> None:
    tunnel = paired(world)
    world.running().drop(2.0)
    assert tunnel.closed
    world.timers.advance(2.01)
    world.tunnels[-1].up()
    assert world.status() == "WORKING"


def test_an_engine_that_does_not_start_opens_nothing(world: World) -> None:
    from sandbox.waha.faults import Faults

    world.simulator.set_faults("*", Faults(start_error=True))
    with pytest.raises(EngineError):
        world.create(config=CONFIG)
    world.timers.advance(60)
    assert world.tunnels == []


def test_bytes_are_noted_by_session_once_a_minute_and_at_the_end(world: World, tmp_path: Path) -> None:
    assert isinstance(world.timers, SteppedTimers)
    tunnel = paired(world)
    tunnel.sent, tunnel.received = 100, 90
    assert journal.traffic(tmp_path) == {}
    world.timers.advance(NOTE_SECONDS)
    assert journal.traffic(tmp_path) == {"chip_1": (100, 90)}
    tunnel.sent, tunnel.received = 150, 120
    world.run(world.simulator.stop("chip_1"))
    assert journal.traffic(tmp_path) == {"chip_1": (150, 120)}
    events = [entry.event for entry in journal.read(tmp_path)]
    assert events == ["start", "tunnel", "working", "traffic", "traffic", "end"]
    (speaking,) = [one for one in journal.intervals(tmp_path) if one.speaking]
    assert not speaking.open
