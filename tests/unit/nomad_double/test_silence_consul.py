"""Node silence as Consul shows it: both doubles together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.consul_double.server import running_consul_double
from sandbox.nomad_double import Delays, DoubleSettings, InlineDriver, running_nomad_double, simulated_hosts
from tests.polling import eventually
from tests.unit.nomad_double.conftest import SECOND, Tasks, make_job

SPEED = 100.0


class Pair:
    """Two hosts, and the Consul that knows what they run."""

    def __init__(self, nomad: httpx.AsyncClient, consul: httpx.AsyncClient) -> None:
        self.nomad = nomad
        self.consul = consul

    async def instances(self) -> dict[str, str]:
        """Allocation id -> host, of passing instances."""
        answer = await self.consul.get("/v1/health/service/web", params={"passing": "1"})
        return {entry["Service"]["Meta"]["alloc"]: entry["Node"]["Node"] for entry in answer.json()}

    async def until(self, number: int) -> dict[str, str]:
        async def reached() -> bool:
            return len(await self.instances()) == number

        await eventually(reached)
        return await self.instances()

    async def allocs(self) -> list[dict[str, Any]]:
        found = (await self.nomad.get("/v1/job/app/allocations", params={"all": "true"})).json()
        return sorted(found, key=lambda alloc: alloc["CreateIndex"])


@pytest.fixture
async def pair(tmp_path: Path, tasks: Tasks) -> AsyncIterator[Pair]:
    settings = DoubleSettings(hosts=simulated_hosts(2), delays=Delays.none(), speed=SPEED)
    drivers = {"raw_exec": InlineDriver(tasks.run)}
    async with (
        running_consul_double() as consul,
        running_nomad_double(settings, data_dir=tmp_path, drivers=drivers, consul_url=consul.url) as nomad,
        httpx.AsyncClient(base_url=nomad.url, timeout=10, trust_env=False) as nomad_http,
        httpx.AsyncClient(base_url=consul.url, timeout=10, trust_env=False) as consul_http,
    ):
        yield Pair(nomad_http, consul_http)


async def placed(pair: Pair) -> dict[str, Any]:
    service = {
        "Name": "web",
        "PortLabel": "http",
        "Provider": "consul",
        "Meta": {"alloc": "${NOMAD_ALLOC_ID}"},
    }
    job = make_job(Disconnect={"StopOnClientAfter": 60 * SECOND}, Services=[service])
    reply = await pair.nomad.put("/v1/jobs", json={"Job": job})
    assert reply.status_code == 200, reply.text
    await pair.until(1)
    return (await pair.allocs())[0]


async def test_a_dead_agent_leaves_two_passing_instances(pair: Pair) -> None:
    alloc = await placed(pair)
    await pair.nomad.put(f"/v1/double/host/{alloc['NodeName']}/kill-agent")
    found = await pair.until(2)
    assert set(found) == {one["ID"] for one in await pair.allocs()}
    assert (await pair.allocs())[0]["ClientStatus"] == "lost"
    await pair.nomad.put(f"/v1/double/host/{alloc['NodeName']}/back")
    assert alloc["ID"] not in await pair.until(1)


async def test_a_dead_host_takes_its_instance_along(pair: Pair) -> None:
    alloc = await placed(pair)
    await pair.nomad.put(f"/v1/double/host/{alloc['NodeName']}/kill")
    await pair.until(0)
    found = await pair.until(1)
    assert alloc["ID"] not in found
    everything = (await pair.consul.get("/v1/health/service/web")).json()
    assert len(everything) == 2, "the old one stays in the catalog until its host is back or reaped"
    await pair.nomad.put(f"/v1/double/host/{alloc['NodeName']}/back")

    async def cleaned() -> bool:
        return len((await pair.consul.get("/v1/health/service/web")).json()) == 1

    await eventually(cleaned)


async def test_a_host_in_silence_deregisters_what_it_stops(pair: Pair) -> None:
    alloc = await placed(pair)
    await pair.nomad.put(f"/v1/double/host/{alloc['NodeName']}/cut-off")
    await pair.until(0)
    assert alloc["ID"] not in await pair.until(1)
