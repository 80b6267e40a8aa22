"""The real daemon's janitor on PostgreSQL, the doubles of Nomad and Consul, and real simulators."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from core.clients.storage_folder import FolderStorage
from core.crypto import new_namespace
from core.domain.actor import COMMAND_LINE
from core.domain.belongings import Kind
from core.domain.names import database_name, job_id, main_database, session_name, variable_path
from core.domain.orphans import Orphan, State
from core.store.containers import container_secrets
from core.store.orphans import PostgresOrphans
from sandbox.postgres import EmbeddedPostgres
from sandbox.postgres_setup import PORT, SUPERUSER
from tests.integration.daemon.conftest import Fleet, fleet, has, until
from tests.integration.daemon.process import DaemonProcess

__all__ = ["fleet"]

pytestmark = pytest.mark.timeout(120)

QUICK = {
    "WAHAFLEET_JANITOR_S": "0.5",
    "WAHAFLEET_ORPHAN_GRACE_S": "2",
    "WAHAFLEET_WAHA_LOOK_S": "10",
    "WAHAFLEET_RESYNC_S": "2",
}


class Outside:
    """What an operator does by hand, and sees."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.orphans = PostgresOrphans(fleet.engine)
        self.storage = FolderStorage(fleet.env["WAHAFLEET_STORAGE_DSN"])

    async def rows(self) -> dict[tuple[Kind, str], Orphan]:
        return {(row.found.kind, row.found.name): row for row in (await self.orphans.book()).rows}

    async def states(self) -> dict[tuple[Kind, str], State]:
        return {key: row.state for key, row in (await self.rows()).items()}

    async def yes(self, *keys: tuple[Kind, str]) -> None:
        rows = await self.rows()
        ids = [rows[key].id for key in keys]
        assert len(await self.orphans.decide(ids, approve=True, by="ana", actor=COMMAND_LINE)) == len(ids)

    async def nomad(self, method: str, path: str, body: Any = None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.fleet.nomad.url, trust_env=False) as client:
            return await client.request(method, path, json=body)

    async def copy_of_job(self, owner: str, ghost: str, namespace: str) -> None:
        """A job of a user that no row knows, made from a real one; its simulator runs as a real process."""
        job = (await self.nomad("GET", f"/v1/job/{job_id(owner)}")).json()
        variables = (await self.nomad("GET", f"/v1/var/{variable_path(owner)}")).json()["Items"]
        env = job["TaskGroups"][0]["Tasks"][0]["Env"]
        text = json.dumps({key: job[key] for key in job if not key.endswith("Index") and key != "Status"})
        text = text.replace(owner, ghost).replace(env["WAHA_NAMESPACE"], namespace)
        put = await self.nomad("PUT", f"/v1/var/{variable_path(ghost)}", {"Items": variables})
        assert put.status_code == 200, put.text
        made = await self.nomad("PUT", "/v1/jobs", {"Job": json.loads(text)})
        assert made.status_code == 200, made.text

    async def running(self, user: str) -> list[str]:
        allocations = (await self.nomad("GET", f"/v1/job/{job_id(user)}/allocations?all=true")).json()
        return [one["ClientStatus"] for one in allocations]

    async def strange_session(self, user: str, row: Mapping[str, Any]) -> str:
        keys = await container_secrets(self.fleet.engine, user, self.fleet.sealer)
        assert keys is not None
        name = session_name(str(uuid.uuid4()))
        base = f"http://{row['endpoint_address']}:{row['endpoint_port']}"
        async with httpx.AsyncClient(
            base_url=base, headers={"X-Api-Key": keys.api_key}, trust_env=False
        ) as waha:
            made = await waha.post("/api/sessions", json={"name": name, "start": False})
            assert made.status_code == 201
        return name

    async def session_names(self, user: str, row: Mapping[str, Any]) -> list[str]:
        keys = await container_secrets(self.fleet.engine, user, self.fleet.sealer)
        assert keys is not None
        base = f"http://{row['endpoint_address']}:{row['endpoint_port']}"
        async with httpx.AsyncClient(
            base_url=base, headers={"X-Api-Key": keys.api_key}, trust_env=False
        ) as waha:
            return [one["name"] for one in (await waha.get("/api/sessions?all=true")).json()]


async def test_found_after_the_grace_nothing_without_a_yes_gone_after_it(fleet: Fleet) -> None:
    outside, user, ghost = Outside(fleet), await fleet.user(), str(uuid.uuid4())
    chip, space, left = await fleet.chip(user), new_namespace(), new_namespace()
    async with fleet.daemon(**QUICK):
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        row = await fleet.container_row(user)
        assert row is not None
        await outside.copy_of_job(user, ghost, space)
        await until(lambda: outside.running(ghost), lambda seen: seen == ["running"])
        left_folder = Path(fleet.env["WAHAFLEET_STORAGE_DSN"]) / left / "sessions"
        await asyncio.to_thread(left_folder.mkdir, parents=True)
        stranger = await outside.strange_session(user, row)

        job, variables = (Kind.JOB, job_id(ghost)), (Kind.VARIABLES, variable_path(ghost))
        mine, other, session = (
            (Kind.NAMESPACE, space),
            (Kind.NAMESPACE, left),
            (Kind.SESSION, stranger),
        )
        wanted = {job, variables, mine, other, session}
        found = await until(
            outside.states,
            lambda seen: wanted <= seen.keys() and set(seen.values()) == {State.WAITING},
            40,
        )
        assert found.keys() == wanted
        costs = (await outside.rows())[job].found.costs
        assert costs["allocations"] == 1
        assert isinstance(costs["port"], int)
        assert costs["memory_mb"] == 300
        await asyncio.sleep(2)
        assert await outside.running(ghost) == ["running"]
        assert set(await outside.storage.namespaces()) == {row["namespace"], space, left}
        assert stranger in await outside.session_names(user, row)
        assert (await outside.nomad("GET", f"/v1/var/{variable_path(ghost)}")).status_code == 200

        # A namespace waits for the job that may be using it, whatever else has its yes.
        await outside.yes(mine, other, variables, session)
        await until(outside.states, lambda seen: seen[session] is State.REMOVED, 20)
        await asyncio.sleep(1)
        states = await outside.states()
        assert (states[mine], states[variables]) == (State.REMOVING, State.REMOVING)
        assert await outside.session_names(user, row) == [session_name(chip)]

        await outside.yes(job)
        await until(outside.states, lambda seen: set(seen.values()) == {State.REMOVED}, 60)
        assert (await outside.nomad("GET", f"/v1/job/{job_id(ghost)}")).status_code == 404
        assert (await outside.nomad("GET", f"/v1/var/{variable_path(ghost)}")).status_code == 404
        assert set(await outside.running(ghost)) <= {"complete"}
        assert await outside.storage.databases(space) == ()
        assert await outside.storage.namespaces() == (row["namespace"],)
        # The owner next door noticed nothing.
        assert await outside.running(user) == ["running"]
        assert main_database(row["namespace"]) in await outside.storage.listing()
        after = await fleet.chip_row(chip)
        assert after is not None
        assert after["phase"] == "qr"


@pytest.mark.parametrize(
    "step",
    [
        "effect_done {user} stop_job",
        "effect_recorded {user} stop_job",
        "effect_done {user} purge_job",
    ],
)
async def test_killed_in_the_middle_of_a_removal_the_next_daemon_ends_it(fleet: Fleet, step: str) -> None:
    outside, user, ghost = Outside(fleet), await fleet.user(), str(uuid.uuid4())
    chip, space = await fleet.chip(user), new_namespace()
    job, variables = (Kind.JOB, job_id(ghost)), (Kind.VARIABLES, variable_path(ghost))
    async with fleet.daemon(**QUICK):
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        await outside.copy_of_job(user, ghost, space)
        await until(outside.states, lambda seen: seen.get(job) is State.WAITING and variables in seen, 40)
        await until(outside.states, lambda seen: set(seen.values()) == {State.WAITING}, 20)
    namespace = (Kind.NAMESPACE, space)
    await outside.yes(job, variables, namespace)
    await _killed_at(fleet, step.format(user=ghost))
    await fleet.expire_leases()
    after = await DaemonProcess.start(fleet, QUICK, tells=False)
    await until(outside.states, lambda seen: set(seen.values()) == {State.REMOVED}, 60)
    await after.end()
    assert (await outside.nomad("GET", f"/v1/job/{job_id(ghost)}")).status_code == 404
    assert (await outside.nomad("GET", f"/v1/var/{variable_path(ghost)}")).status_code == 404
    assert set(await outside.running(ghost)) <= {"complete"}
    assert space not in await outside.storage.namespaces()
    assert await outside.running(user) == ["running"]


async def _killed_at(fleet: Fleet, step: str) -> None:
    name, key, *effect = step.split()
    daemon = await DaemonProcess.start(fleet, QUICK)
    daemon.stop_at(key, " ".join([name, *effect]))
    try:
        await daemon.reaches(75)
    finally:
        await daemon.kill(free=False)


async def test_databases_on_a_second_storage_server(fleet: Fleet, postgres: EmbeddedPostgres) -> None:
    outside, user, left = Outside(fleet), await fleet.user(), new_namespace()
    chip, lost = await fleet.chip(user), session_name(str(uuid.uuid4()))
    host = quote(str(postgres.sockets), safe="")
    servers = {"WAHAFLEET_STORAGES": f"old=postgres://{SUPERUSER}@/postgres?host={host}&port={PORT}"}
    made: list[str] = []
    try:
        async with fleet.daemon(**QUICK, **servers):
            await until(lambda: fleet.chip_row(chip), has(phase="qr"))
            row = await fleet.container_row(user)
            assert row is not None
            own = row["namespace"]
            for name in (
                main_database(left),
                database_name(left, lost),
                main_database(own),
                database_name(own, session_name(chip)),
                database_name(own, lost),
            ):
                await asyncio.to_thread(postgres.create_database, name)
                made.append(name)
            namespace, database = (Kind.NAMESPACE, left), (Kind.DATABASE, made[4])
            await until(
                outside.states,
                lambda seen: seen == {namespace: State.WAITING, database: State.WAITING},
                40,
            )
            costs = (await outside.rows())[namespace].found.costs
            assert costs["databases"] == 2
            assert int(costs["bytes"]) > 2_000_000
            await outside.yes(namespace, database)
            await until(outside.states, lambda seen: set(seen.values()) == {State.REMOVED}, 40)
            assert postgres.databases() & set(made) == {made[2], made[3]}
    finally:
        for name in made:
            postgres.drop_database(name)
