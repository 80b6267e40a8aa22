"""Two daemons on one store: 200 users, half of them deleted again, while one daemon after another is killed.

Judged from what the double of Nomad wrote down (every accepted register, every process that began or ended)
and what the simulators wrote down, row by row.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, insert, select

from core.domain.names import JOB_PREFIX, job_id
from core.settings import StoreSettings
from core.settings_reader import Secret
from core.store.engine import Timeouts, create_engine, transaction
from core.store.tables import chips, containers, leases, placements, port_ledger, users
from sandbox.waha import journal
from tests.integration.daemon.fleet import Fleet, running_fleet
from tests.integration.daemon.process import DaemonProcess
from tests.integration.daemon.traces import User, alive, instances, strangers

pytestmark = pytest.mark.timeout(600)

USERS = 200
KILLED_AFTER = {"created": (60, 140), "deleted": (50,)}
KILLS = 3


@pytest.fixture
async def large(database_url: str) -> AsyncIterator[Fleet]:
    async with running_fleet(database_url, hosts=2, ports=USERS, inline=True) as made:
        # The test's own calls have time: what is judged is the daemons', who keep their own limits.
        patient = Timeouts(connect_s=60, statement_s=60, command_s=70)
        settings = StoreSettings(database_url=Secret(database_url), pool_size=20, secret_keys=())
        await made.engine.dispose()
        made.engine = create_engine(settings, timeouts=patient)
        yield made
        await made.engine.dispose()


def _tell(capsys: pytest.CaptureFixture[str], **figures: float) -> None:
    """Figures for whoever watches the run."""
    words = " ".join(f"{name}={value:.2f}" for name, value in figures.items())
    with capsys.disabled():
        sys.stdout.write(f"\n{words}\n")


async def _sign_up(fleet: Fleet) -> list[str]:
    """All users, in one transaction: accounts are no part of what is measured."""
    ids = [str(uuid.uuid4()) for _ in range(USERS)]
    of_all = {"name": "Teste", "phone": "+5511999999999", "plan_slug": "enterprise"}
    async with transaction(fleet.engine) as connection:
        await connection.execute(
            insert(users), [{"id": user, "email": f"{user}@example.com", **of_all} for user in ids]
        )
    return ids


async def _unfinished(fleet: Fleet, kept: list[User], deleted: list[User]) -> list[str]:
    rows = {row["user_id"]: row for row in await fleet.rows(select(containers))}
    of_chips = {row["user_id"]: row for row in await fleet.rows(select(chips))}
    found = [f"{u.id} still has a row" for u in deleted if u.id in rows or u.id in of_chips]
    for user in kept:
        chip, row = of_chips.get(user.id), rows.get(user.id)
        seen = (chip and (chip["phase"], chip["reason"]), row and (row["phase"], row["reason"]))
        if seen != (("qr", None), ("ready", None)):
            found.append(f"{user.id}: {seen}")
    return found


async def _finished(fleet: Fleet, kept: list[User], deleted: list[User], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while left := await _unfinished(fleet, kept, deleted):
        assert time.monotonic() < deadline, f"{len(left)} are not right: {left[:5]}"
        await asyncio.sleep(1)


async def _many_registered(fleet: Fleet, count: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (registered := len(fleet.nomad.double.state.jobs)) < count:
        assert time.monotonic() < deadline, f"only {registered} jobs in {timeout_s} s"
        await asyncio.sleep(0.5)


async def _noted(fleet: Fleet, kind: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=fleet.nomad.url, trust_env=False, timeout=30) as http:
        answer = await http.get("/v1/double/journal", params={"kind": kind})
        noted: list[dict[str, Any]] = answer.raise_for_status().json()
    return noted


def _repeated_registers(registers: list[dict[str, Any]]) -> list[str]:
    """Jobs of accepted registers whose spec was the one accepted before, once for each."""
    newest: dict[str, str] = {}
    again = []
    for entry in registers:
        if newest.get(entry["JobID"]) == entry["SpecHash"]:
            again.append(entry["JobID"])
        newest[entry["JobID"]] = entry["SpecHash"]
    return again


def _two_at_once(processes: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Every moment at which processes of two allocations of one job ran, as (job, allocations)."""
    running: dict[str, set[str]] = defaultdict(set)
    found = []
    for entry in processes:
        here = running[entry["JobID"]]
        if entry.get("Runs"):
            here.add(entry["AllocID"])
        else:
            here.discard(entry["AllocID"])
        if len(here) > 1:
            found.append((entry["JobID"], sorted(here)))
    return found


def test_the_judge_of_registers_sees_a_repetition() -> None:
    accepted = [{"JobID": job, "SpecHash": spec} for job, spec in ("ax", "bx", "ay", "ax", "ax", "bx")]
    assert _repeated_registers(accepted) == ["a", "b"]


def test_the_judge_of_processes_sees_two_at_once() -> None:
    noted = [
        {"JobID": job, "AllocID": allocation, "Runs": runs}
        for job, allocation, runs in (
            ("a", "1", True),
            ("b", "2", True),
            ("a", "1", False),
            ("a", "3", True),
            ("b", "4", True),
        )
    ]
    assert _two_at_once(noted) == [("b", ["2", "4"])]


async def _check_rows(fleet: Fleet, kept: list[User]) -> None:
    """Each user who stays: one allocation, one passing instance, one placement and one port, all the same."""
    rows = {row["user_id"]: row for row in await fleet.rows(select(containers))}
    current = await fleet.rows(select(placements).where(placements.c.is_current))
    placed = {row["user_id"]: row["allocation_id"] for row in current}
    opened = await fleet.rows(select(port_ledger).where(port_ledger.c.closed_at.is_(None)))
    ports = {row["user_id"]: (row["allocation_id"], row["address"], row["port"]) for row in opened}
    assert len(current) == len(opened) == len(rows) == len(kept)
    for user in kept:
        (one,) = alive(fleet, user.id)
        row = rows[user.id]
        assert (row["allocation_id"], row["endpoint_allocation_id"], placed[user.id]) == (one.id,) * 3
        assert ports[user.id] == (one.id, row["endpoint_address"], row["endpoint_port"])
        listed = [i for i in instances(fleet, user.id) if all(c["Status"] == "passing" for c in i["Checks"])]
        assert [i["Service"]["Port"] for i in listed] == [row["endpoint_port"]]
    assert len({(row["endpoint_address"], row["endpoint_port"]) for row in rows.values()}) == len(kept)
    assert all(row["observed_generation"] == row["generation"] for row in rows.values())


async def test_200_users_while_one_of_two_daemons_is_killed_three_times(
    large: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = large
    ids = await _sign_up(fleet)
    daemons = [await DaemonProcess.start(fleet, tells=False) for _ in range(2)]
    for daemon in daemons:
        await daemon.ready()
    begun, killed = time.monotonic(), 0

    async def kill_one() -> None:
        nonlocal killed
        place = killed % 2
        await daemons[place].kill()
        daemons[place] = await DaemonProcess.start(fleet, tells=False)
        killed += 1

    everybody: list[User] = []
    for number, user_id in enumerate(ids):
        everybody.append(User(user_id, (await fleet.chip(user_id),)))
        if number in KILLED_AFTER["created"]:
            await kill_one()
    kept, deleted = everybody[::2], everybody[1::2]
    # Deletes meet users at every stage of their creation, not only those that nothing was done for yet.
    await _many_registered(fleet, USERS // 2, 200)
    for number, user in enumerate(deleted):
        await fleet.delete(user.id, user.chips[0])
        if number in KILLED_AFTER["deleted"]:
            await kill_one()
    accepted_s = time.monotonic() - begun
    await _finished(fleet, kept, deleted, max(60.0, 450 - accepted_s))
    took_s = time.monotonic() - begun
    assert killed == KILLS

    await _check_rows(fleet, kept)
    rows = {row["user_id"]: row for row in await fleet.rows(select(containers))}
    known = [User(user.id, user.chips, rows[user.id]["namespace"]) for user in kept]
    assert strangers(fleet, known) == []
    assert [user.id for user in deleted if alive(fleet, user.id) or instances(fleet, user.id)] == []

    registers, processes = await _noted(fleet, "register"), await _noted(fleet, "process")
    assert {entry["JobID"] for entry in registers} <= {job_id(user_id) for user_id in ids}
    assert {JOB_PREFIX + user.id for user in kept} <= {entry["JobID"] for entry in registers}
    again = _repeated_registers(registers)
    assert len(again) <= KILLS, f"registers with an unchanged spec: {again}"
    assert [entry["JobID"] for entry in registers if entry["JobModifyIndexBefore"] and entry["Changed"]] == []
    assert _two_at_once(processes) == []
    assert len({entry["JobID"] for entry in processes}) >= len(kept)
    assert journal.overlaps(fleet.storage, by="user", speaking=False) == []
    starts = Counter(e.database for e in journal.read(fleet.storage) if e.event == "start")
    assert [database for database, count in starts.items() if count > 1] == [], "a session was started twice"
    assert len(starts) >= len(kept)

    for daemon in daemons:
        await daemon.end()
    assert await fleet.rows(select(leases.c.key).where(leases.c.expires_at > func.clock_timestamp())) == []
    _tell(
        capsys,
        users=USERS,
        kills=killed,
        accepted_s=accepted_s,
        all_right_s=took_s,
        registers=len(registers),
        registers_again=len(again),
        process_entries=len(processes),
        sessions_started=len(starts),
    )
