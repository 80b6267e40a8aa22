"""What survives a container, what the next one restores, and what two on one store see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.waha.faults import Faults
from sandbox.waha.store import database_name

from .conftest import PHONE, World

MakeWorld = Callable[..., World]


def boot(world: World) -> None:
    """The restore, and a moment for the sessions to come up."""
    world.run(world.simulator.boot())
    world.timers.advance(1)


def listed(world: World) -> dict[str, Any]:
    sessions = world.simulator.list_sessions(all_sessions=True)
    return {session["name"]: session["status"] for session in sessions}


def test_a_graceful_end_keeps_the_assignment_and_the_next_boot_restores(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.create("chip_2")
    first.run(first.simulator.shutdown())
    assert first.heard("chip_1")[-1] == "STOPPED"

    second = make_world()
    assert listed(second) == {"chip_1": "STOPPED", "chip_2": "STOPPED"}
    outcome = second.timers.spawn(second.simulator.boot())
    second.timers.advance(0.99)
    assert set(listed(second).values()) == {"STOPPED"}, "the restore begins a second after the port opened"
    second.timers.advance(1.5)
    assert outcome.done
    assert listed(second) == {"chip_1": "WORKING", "chip_2": "SCAN_QR_CODE"}


def test_a_killed_container_is_restored_too(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.simulator.abandon()
    assert first.heard()[-1] == "WORKING", "a kill says nothing"
    second = make_world()
    boot(second)
    assert listed(second) == {"chip_1": "WORKING"}


def test_a_session_stopped_by_a_call_is_not_restored(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.run(first.simulator.stop("chip_1"))
    second = make_world()
    boot(second)
    assert listed(second) == {"chip_1": "STOPPED"}
    assert second.simulator.session("chip_1")["me"]["id"] == f"{PHONE}@c.us"


def test_the_restore_can_be_switched_off(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.simulator.abandon()
    second = make_world(WAHA_WORKER_RESTART_SESSIONS="False")
    boot(second)
    assert listed(second) == {"chip_1": "STOPPED"}
    second.run(second.simulator.start("chip_1"))
    second.timers.advance(1)
    assert listed(second) == {"chip_1": "WORKING"}


def test_other_workers_sessions_are_seen_and_not_restored(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    second = make_world(WAHA_WORKER_ID="another")
    boot(second)
    (session,) = second.simulator.list_sessions(all_sessions=True)
    assert (session["status"], session["assignedWorker"]) == ("STOPPED", "u1")
    assert first.status("chip_1") == "WORKING"


def test_restore_all_takes_stopped_and_foreign_sessions_as_well(make_world: MakeWorld) -> None:
    first = make_world()
    first.create("chip_1")
    first.create("chip_2", start=False)
    second = make_world(WAHA_WORKER_ID="another", WHATSAPP_RESTART_ALL_SESSIONS="True")
    boot(second)
    assert set(listed(second).values()) == {"SCAN_QR_CODE"}


def test_another_namespace_is_another_world(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    second = make_world(WAHA_NAMESPACE="u2")
    assert listed(second) == {}
    second.create("chip_1")
    second.timers.advance(1)
    assert second.status("chip_1") == "SCAN_QR_CODE"


def test_a_slow_restore_leaves_the_rest_stopped(make_world: MakeWorld) -> None:
    first = make_world()
    for name in ("chip_1", "chip_2", "chip_3"):
        first.paired(name)
    first.simulator.abandon()
    second = make_world()
    second.simulator.set_faults("chip_2", Faults(hang_seconds=35))
    boot(second)
    assert listed(second) == {"chip_1": "WORKING", "chip_2": "WORKING", "chip_3": "STOPPED"}
    assert any("restore_aborted" in line for line in second.lines)


def test_faults_that_are_kept_meet_the_next_container_until_the_session_is_deleted(
    make_world: MakeWorld,
) -> None:
    first = make_world()
    for name in ("chip_1", "chip_2", "chip_3"):
        first.paired(name)
    first.simulator.store.save_faults("chip_2", Faults(hang_seconds=35).to_json())
    first.simulator.abandon()
    second = make_world()
    boot(second)
    assert listed(second)["chip_3"] == "STOPPED"
    second.timers.advance(40)
    second.run(second.simulator.delete("chip_2"))
    assert second.simulator.store.faults("chip_2") is None
    second.simulator.abandon()
    third = make_world()
    boot(third)
    assert listed(third) == {"chip_1": "WORKING", "chip_3": "WORKING"}


def test_a_session_whose_engine_does_not_start_holds_up_no_other_restore(make_world: MakeWorld) -> None:
    first = make_world()
    for name in ("chip_1", "chip_2", "chip_3"):
        first.paired(name)
    first.simulator.abandon()
    second = make_world()
    second.simulator.set_faults("chip_2", Faults(start_error=True))
    boot(second)
    assert listed(second) == {"chip_1": "WORKING", "chip_2": "FAILED", "chip_3": "WORKING"}


def test_a_session_deleted_during_the_restore_stays_deleted(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.paired("chip_2")
    first.simulator.abandon()
    second = make_world(WAHA_AUTO_START_DELAY_SECONDS="5")
    outcome = second.timers.spawn(second.simulator.boot())
    second.timers.advance(2)
    second.run(second.simulator.delete("chip_2"))
    second.timers.advance(20)
    assert outcome.done
    assert listed(second) == {"chip_1": "WORKING"}


def test_an_unlink_while_the_container_is_away_is_learnt_at_the_next_start(make_world: MakeWorld) -> None:
    first = make_world()
    first.paired("chip_1")
    first.simulator.abandon()
    auth = first.simulator.store.auth("chip_1")
    assert auth is not None
    first.simulator.store.save_auth("chip_1", {**auth, "state": "unlinked"})
    second = make_world()
    boot(second)
    assert listed(second) == {"chip_1": "FAILED"}


def test_names_that_differ_only_in_case_share_their_credentials(world: World) -> None:
    world.paired("Chip_A")
    world.create("chip_a")
    world.timers.advance(1)
    assert world.status("chip_a") == "WORKING"
    assert database_name("u1", "Chip_A") == database_name("u1", "chip_a") == "waha_u1_chip_a"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", ".", "x" * 55, "a\n", "ä"])
def test_odd_names_never_reach_the_disk(world: World, name: str) -> None:
    assert world.simulator.store.load(name) is None
    assert world.simulator.store.auth(name) is None
    assert world.run(world.simulator.stop(name)) is None


def test_files_are_private_and_whole(world: World) -> None:
    world.paired("chip_1")
    files = [path for path in Path(world.folder).rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.parent.name != "connections"} == {".json", ".jsonl"}
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
        if path.parent.name == "connections":
            assert path.read_bytes() == b""
        for line in path.read_text().splitlines():
            json.loads(line)


def test_logs_hold_no_qr_and_no_key(world: World) -> None:
    world.create()
    world.timers.advance(1)
    value = world.running().qr_value
    assert value is not None
    text = "".join(world.lines)
    assert "SCAN_QR_CODE" in text
    assert value not in text
    assert "a-long-enough-key" not in text
