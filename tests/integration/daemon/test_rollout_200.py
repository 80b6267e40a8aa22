"""Two bad images rolled out to 200 users, and the old one again.

Judged from what the double of Nomad wrote down (every accepted register) and what the simulators wrote down
(every start of a session, and whether it began with a paired phone's credentials).
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import insert, select

from core.domain.names import JOB_PREFIX, session_name
from core.settings import StoreSettings
from core.settings_reader import Secret
from core.store.engine import Timeouts, create_engine, transaction
from core.store.rollouts import PostgresRollouts
from core.store.tables import chips, containers, users
from sandbox.nomad_double.drivers import InlineDriver, TaskDriver, TaskHandle, TaskSpec
from sandbox.nomad_double.inline_simulators import driver_of
from sandbox.waha import journal
from sandbox.waha.inline import InlineSimulators
from sandbox.waha.store import LINKED, SessionStore
from tests.integration.daemon.fleet import Fleet, running_fleet, until
from tests.integration.daemon.process import DaemonProcess

pytestmark = pytest.mark.timeout(900)

USERS = 200
WAVE = 5
# As arguments of the program that runs in a container: what makes one image another.
NEVER_PASSES, FORGETS = "image-that-never-passes", "image-that-asks-for-a-qr"
QUICK = {
    "WAHAFLEET_ROLLOUT_USERS": str(WAVE),
}
# What is late anyway need not be waited for; who comes back on a busy machine has time.
IMPATIENT = {"WAHAFLEET_ROLLOUT_DEADLINE_S": "12"}


class Images:
    """A driver of simulators in this process for which the task's arguments are the image."""

    def __init__(self, simulators: InlineSimulators) -> None:
        self._good = driver_of(simulators)
        self._silent = InlineDriver(_silent)

    async def start(self, spec: TaskSpec) -> TaskHandle:
        args = [str(one) for one in spec.config.get("args") or ()]
        if NEVER_PASSES in args:
            return await self._silent.start(spec)
        if FORGETS in args:
            # It looks for credentials where there are none, and leaves those of the good image alone.
            env = {**spec.env, "WAHA_SIM_STORE_DIR": spec.env["WAHA_SIM_STORE_DIR"] + "-forgotten"}
            spec = msgspec.structs.replace(spec, env=env)
        return await self._good.start(spec)


async def _silent(_spec: TaskSpec, stop: asyncio.Event) -> int:
    """Runs, and never listens."""
    await stop.wait()
    return 0


def _images(simulators: InlineSimulators) -> TaskDriver:
    return Images(simulators)


@pytest.fixture
async def large(database_url: str) -> AsyncIterator[Fleet]:
    async with running_fleet(database_url, hosts=2, ports=USERS, inline=True, driver=_images) as made:
        # The test's own calls have time: what is judged is the daemon's, which keeps its own limits.
        patient = Timeouts(connect_s=60, statement_s=60, command_s=70)
        settings = StoreSettings(database_url=Secret(database_url), pool_size=20, secret_keys=())
        await made.engine.dispose()
        made.engine = create_engine(settings, timeouts=patient)
        made.env |= QUICK
        yield made
        await made.engine.dispose()


async def _sign_up(fleet: Fleet) -> dict[str, str]:
    """Everybody with one chip that was paired before, so that nobody has to scan; chip id by user id."""
    owned = {str(uuid.uuid4()): "" for _ in range(USERS)}
    of_all = {"name": "Teste", "phone": "+5511999999999", "plan_slug": "enterprise"}
    async with transaction(fleet.engine) as connection:
        rows = [{"id": user, "email": f"{user}@example.com", **of_all} for user in owned]
        await connection.execute(insert(users), rows)
    for user in owned:
        owned[user] = await fleet.chip(user)
    for row in await fleet.rows(select(containers.c.user_id, containers.c.namespace)):
        store = SessionStore(str(fleet.storage), row["namespace"], row["namespace"])
        name, me = session_name(owned[row["user_id"]]), {"id": "5511988887777@c.us", "pushName": "Ana"}
        store.save({"name": name, "config": {}, "apps": [], "me": me, "worker": None})
        store.save_auth(name, {"device": me, "state": LINKED})
    return owned


async def _chips(fleet: Fleet) -> list[dict[str, Any]]:
    return await fleet.rows(select(chips.c.id, chips.c.user_id, chips.c.phase, chips.c.reason))


async def _all_right(fleet: Fleet, timeout_s: float) -> None:
    async def wrong() -> list[Any]:
        found: list[Any] = [row for row in await _chips(fleet) if row["phase"] != "connected"]
        rows = await fleet.rows(select(containers.c.user_id, containers.c.phase, containers.c.reason))
        return found + [row for row in rows if (row["phase"], row["reason"]) != ("ready", None)]

    await until(wrong, lambda left: left == [], timeout_s, every_s=0.3)


@asynccontextmanager
async def _daemon(fleet: Fleet, **env: str) -> AsyncIterator[None]:
    daemon = await DaemonProcess.start(fleet, env, tells=False)
    await daemon.ready()
    yield
    await daemon.end()


async def _state(fleet: Fleet) -> str | None:
    view = await PostgresRollouts(fleet.engine).view()
    return None if view is None else view.control.state.value


async def _registers(fleet: Fleet) -> list[str]:
    """Users of accepted registers, oldest first."""
    async with httpx.AsyncClient(base_url=fleet.nomad.url, trust_env=False, timeout=30) as http:
        answer = await http.get("/v1/double/journal", params={"kind": "register"})
        return [entry["JobID"].removeprefix(JOB_PREFIX) for entry in answer.raise_for_status().json()]


async def _bad_and_back(fleet: Fleet, image: str) -> tuple[set[str], float, float]:
    """Roll `image` out until it pauses itself, then the old one; whom it reached, and how long both took."""
    before, started = len(await _registers(fleet)), len(journal.read(fleet.storage))
    args = f"{fleet.env['WAHAFLEET_SIMULATOR_ARGS']} {image}"
    begun = time.monotonic()
    hurry = IMPATIENT if image == NEVER_PASSES else {}
    async with _daemon(fleet, WAHAFLEET_SIMULATOR_ARGS=args, **hurry):
        await until(lambda: _state(fleet), lambda state: state == "paused", 120, every_s=0.3)
        paused_s = time.monotonic() - begun
        await asyncio.sleep(4)  # an errand that could admit somebody
        reached = (await _registers(fleet))[before:]
        assert len(reached) == len(set(reached)) <= WAVE

        async def down() -> set[str]:
            return {row["user_id"] for row in await _chips(fleet) if row["phase"] != "connected"}

        await until(down, lambda users: users == set(reached), 150, every_s=0.3)
    begun = time.monotonic()
    async with _daemon(fleet):
        await until(lambda: _state(fleet), lambda state: state == "done", 120, every_s=0.3)
        await _all_right(fleet, 200)
    back_s = time.monotonic() - begun
    # The old image again for those whom the bad one reached, and for nobody else.
    assert sorted((await _registers(fleet))[before:]) == sorted(reached * 2)
    since = journal.read(fleet.storage)[started:]
    assert {entry.paired for entry in since if entry.event == "start"} == {True}, (
        "somebody was asked for a QR"
    )
    assert len([entry for entry in since if entry.event == "working"]) >= len(reached)
    assert journal.overlaps(fleet.storage) == []
    return set(reached), paused_s, back_s


async def test_bad_images_reach_one_wave_and_the_old_one_brings_everybody_back(
    large: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = large
    begun = time.monotonic()
    owned = await _sign_up(fleet)
    async with _daemon(fleet):
        await _all_right(fleet, 300)
    connected_s = time.monotonic() - begun
    assert len(owned) == len(set(await _registers(fleet))) == USERS

    silent, paused_s, back_s = await _bad_and_back(fleet, NEVER_PASSES)
    forgot, asked_s, again_s = await _bad_and_back(fleet, FORGETS)
    assert 1 <= len(silent) <= WAVE
    assert 1 <= len(forgot) <= WAVE
    shown = [e for e in journal.read(f"{fleet.storage}-forgotten") if e.event == "start"]
    assert shown, "the bad image started no session"
    assert not any(entry.paired for entry in shown)
    figures = {
        "connected_s": connected_s,
        "never_passes_paused_s": paused_s,
        "never_passes_back_s": back_s,
        "forgets_paused_s": asked_s,
        "forgets_back_s": again_s,
    }
    with capsys.disabled():
        words = " ".join(f"{name}={value:.1f}" for name, value in figures.items())
        sys.stdout.write(f"\nusers={USERS} reached={len(silent)}+{len(forgot)} {words}\n")
