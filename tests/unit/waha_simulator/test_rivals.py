"""Two containers on one store: what each engine does when WhatsApp serves the newer connection."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.waha import journal
from sandbox.waha.session import RECONNECT_LIMIT

from .conftest import World

MakeWorld = Callable[..., World]


def rivals(make_world: MakeWorld, engine: str) -> tuple[World, World]:
    """An older container with a WORKING session and a newer one that starts the same session."""
    env = {"WHATSAPP_DEFAULT_ENGINE": engine}
    older, newer = make_world(NOMAD_ALLOC_ID="older", **env), make_world(NOMAD_ALLOC_ID="newer", **env)
    for world in (older, newer):
        world.timers.spawn(world.simulator.watch_rivals())
    older.create()
    older.timers.advance(1)
    older.scan()
    older.timers.advance(3)
    assert older.status() == "WORKING"
    newer.run(newer.simulator.start("chip_1"))
    return older, newer


def advance(worlds: tuple[World, World], seconds: float) -> list[tuple[str, str]]:
    """Both clocks side by side; each pair of statuses that was seen, without repetitions in a row."""
    seen: list[tuple[str, str]] = []
    for _ in range(round(seconds / 0.1)):
        for world in worlds:
            world.timers.advance(0.1)
        pair = (worlds[0].status(), worlds[1].status())
        if pair not in seen[-1:]:
            seen.append(pair)
    return seen


def test_noweb_flaps_every_few_seconds_on_both_sides(make_world: MakeWorld, tmp_path: Path) -> None:
    worlds = rivals(make_world, "NOWEB")
    seen = advance(worlds, 20)
    assert {pair for pair in seen if "FAILED" in pair} == set()
    for world in worlds:
        # Replaced within half a second, back after two, and then it is the other one's turn.
        rounds = world.heard().count("WORKING")
        assert 4 <= rounds <= 6, world.heard()
    assert journal.overlaps(tmp_path) != []


def test_noweb_gives_up_after_its_rounds_and_the_other_one_stays(make_world: MakeWorld) -> None:
    worlds = rivals(make_world, "NOWEB")
    seen = advance(worlds, RECONNECT_LIMIT * 6)
    assert sorted(seen[-1]) == ["FAILED", "WORKING"]
    (loser,) = [world for world in worlds if world.status() == "FAILED"]
    assert loser.heard().count("WORKING") >= RECONNECT_LIMIT
    loser.run(loser.simulator.restart("chip_1"))
    advance(worlds, 10)
    assert loser.status() == "WORKING", "a restart begins it anew"


def test_gows_loser_says_working_and_hears_nothing(make_world: MakeWorld) -> None:
    older, newer = rivals(make_world, "GOWS")
    heard = len(older.heard())
    assert advance((older, newer), 60)[-1] == ("WORKING", "WORKING")
    assert older.running().show_life() is False
    assert newer.running().show_life() is True
    assert len(older.heard()) == heard
    assert older.simulator.session("chip_1")["engine"]["gows"]["connected"] is False
    older.run(older.simulator.restart("chip_1"))
    advance((older, newer), 2)
    assert (older.running().hears, newer.running().hears) == (True, False), "the newest connection wins"


def test_webjs_fails_and_starts_itself_again(make_world: MakeWorld) -> None:
    worlds = rivals(make_world, "WEBJS")
    advance(worlds, 20)
    for world in worlds:
        heard = world.heard()
        assert heard.count("FAILED") >= 4
        assert all(after == "STARTING" for at, after in itertools.pairwise(heard) if at == "FAILED")


def test_a_logout_in_one_container_fails_the_other(make_world: MakeWorld) -> None:
    older, newer = rivals(make_world, "GOWS")
    advance((older, newer), 2)
    older.run(older.simulator.logout("chip_1"))
    advance((older, newer), 2)
    assert (older.status(), newer.status()) == ("SCAN_QR_CODE", "FAILED")


@pytest.mark.parametrize("engine", ["NOWEB", "GOWS", "WEBJS"])
def test_one_after_the_other_disturbs_nobody(make_world: MakeWorld, engine: str) -> None:
    older, newer = rivals(make_world, engine)
    older.run(older.simulator.shutdown())
    assert advance((older, newer), 30)[-1] == ("STOPPED", "WORKING")
    heard = newer.heard()
    assert "STOPPED" not in heard
    assert newer.running().show_life() is True


def test_sessions_of_their_own_phones_disturb_nobody(make_world: MakeWorld) -> None:
    worlds = (make_world(WAHA_NAMESPACE="u1"), make_world(WAHA_NAMESPACE="u2"))
    for world in worlds:
        world.timers.spawn(world.simulator.watch_rivals())
        world.paired()
    assert advance(worlds, 30) == [("WORKING", "WORKING")]
    assert all(world.running().show_life() for world in worlds)
