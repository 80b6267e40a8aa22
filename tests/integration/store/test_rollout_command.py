"""`wahafleet rollout` on a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from cryptography.fernet import Fernet

from cli.main import main
from core import jobspecs
from core.crypto import Sealer
from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Registered
from core.domain.rollout import Plan, RolloutState
from core.settings import load
from core.store.engine import engine_for
from core.store.interface import Lease
from core.store.reconcile import PostgresReconcileStore
from daemon.load import Loader
from tests.contract.store.harness import PostgresHarness

T = TypeVar("T")
OLD = {
    "WAHAFLEET_JOBSPEC": "waha-simulator",
    "WAHAFLEET_SIMULATOR_COMMAND": "/usr/bin/python3",
    "WAHAFLEET_SIMULATOR_ARGS": "-m sandbox.waha",
    "WAHAFLEET_STORAGE_DSN": "/var/empty/waha",
    "WAHAFLEET_ROLLOUT_USERS": "2",
}


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings that everybody's job was made from."""
    env = {
        "WAHAFLEET_DATABASE_URL": database_url,
        "WAHAFLEET_SECRET_KEYS": Fernet.generate_key().decode(),
        **OLD,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def on_store(env: dict[str, str], work: Callable[[PostgresHarness, Loader], Awaitable[T]]) -> T:
    async def run() -> T:
        engine = engine_for(env["WAHAFLEET_DATABASE_URL"])
        harness = PostgresHarness(engine)
        harness.sealer = Sealer((env["WAHAFLEET_SECRET_KEYS"],))
        harness.store = PostgresReconcileStore(engine, harness.sealer)
        try:
            job = load(env, part="daemon").job
            return await work(harness, Loader(jobspecs.template(job.jobspec), job))
        finally:
            await engine.dispose()

    return asyncio.run(run())


async def _lease(harness: PostgresHarness, key: str) -> Lease:
    found = await harness.store.claim(key, "d1", 60)
    assert isinstance(found, Lease)
    return found


async def _fill(harness: PostgresHarness, loader: Loader) -> list[str]:
    """Five users with a registered job; the last two have a connected chip."""
    users = []
    for number in range(5):
        user = await harness.user()
        chip = await harness.chip(user)
        snapshot = await harness.store.load(user)
        assert snapshot is not None
        wanted = loader.desired(snapshot).container
        lease = await _lease(harness, user)
        await harness.store.record_registered(lease, Registered(wanted.wanted_hashes, 7, loader.release))
        if number > 2:
            up = {chip: ChipStatus(phase="connected", status="CONNECTED", connected_now=True)}
            seen = {one.id: one.generation for one in snapshot.chips}
            await harness.store.write_status(lease, ContainerStatus(phase="ready"), up, seen, 1)
        users.append(user)
    await harness.store.announce_release(loader.release)
    return users


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["rollout", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


def test_without_a_daemon_there_is_nothing_to_show(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment
    for verb in ("status", "pause", "resume"):
        code, out, err = run(capsys, verb)
        assert (code, out) == (1, "")
        assert "daemon" in err


def test_a_dry_run_says_who_would_move_and_changes_nothing(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = on_store(environment, _fill)
    assert run(capsys, "plan")[1] == "0 of 5 users would be moved, 2 at a time\n"
    monkeypatch.setenv("WAHAFLEET_SIMULATOR_ARGS", "-m sandbox.waha newer")
    code, out, _ = run(capsys, "plan")
    assert code == 0
    first, second, *waves = out.splitlines()
    assert first == "5 of 5 users would be moved, 2 at a time"
    assert second == "about 90 s in 3 waves: 30.0 s a move, assumed: no move is on record yet"
    assert [line.split()[1] for line in waves] == ["1", "1", "2", "2", "3"]
    assert {line.split()[2] for line in waves[3:]} == set(users[3:])
    told = json.loads(run(capsys, "plan", "--json")[1])
    assert [one["connected_chips"] for one in told["order"]] == [0, 0, 0, 1, 1]
    assert (told["moves"], told["waves"], told["takes_s"]) == (5, 3, 90)

    async def untouched(harness: PostgresHarness, loader: Loader) -> None:
        assert await harness.store.newest_release() == loader.release
        for user in users:
            snapshot = await harness.store.load(user)
            assert snapshot is not None
            assert snapshot.seat is None

    on_store(environment, untouched)


def test_moves_on_record_make_the_estimate(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = on_store(environment, _fill)

    async def move_one(harness: PostgresHarness, loader: Loader) -> None:
        lease, store = await _lease(harness, users[0]), harness.store
        await store.ask_seat(lease, loader.release, "h")
        fleet: Any = await _lease(harness, "fleet")
        assert isinstance(store, PostgresReconcileStore)
        view = await store.rollout_view()
        assert view is not None
        await store.apply_rollout(fleet, view.control, Plan((users[0],), (), RolloutState.RUNNING))
        await store.settle_seat(lease, ok=True)

    on_store(environment, move_one)
    monkeypatch.setenv("WAHAFLEET_SIMULATOR_ARGS", "-m sandbox.waha newer")
    assert "a move, measured on 1 moves" in run(capsys, "plan")[1]
    told = json.loads(run(capsys, "status", "--json")[1])
    assert {name: told[name] for name in ("state", "waiting", "moving", "ok", "failed")} == {
        "state": "running", "waiting": 0, "moving": 0, "ok": 1, "failed": 0,
    }  # fmt: skip


def test_pause_and_resume(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    on_store(environment, _fill)
    code, out, _ = run(capsys, "pause", "--by", "ana")
    assert code == 0
    assert out.endswith("is paused\n")
    shown = dict(line.split(maxsplit=1) for line in run(capsys, "status")[1].splitlines())
    assert (shown["state"], shown["why"], shown["by"]) == ("paused", "operator", "ana")
    code, _, err = run(capsys, "pause")
    assert code == 1
    assert "paused already" in err
    assert run(capsys, "resume", "--by", "ana")[1].endswith("is running\n")
    assert "not paused" in run(capsys, "resume")[2]


def test_a_setting_that_cannot_be_used_is_refused(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment
    monkeypatch.setenv("WAHAFLEET_STORAGE_DSN", "relative/folder")
    code, _, err = run(capsys, "plan")
    assert code != 0
    assert "WAHAFLEET_STORAGE_DSN" in err
