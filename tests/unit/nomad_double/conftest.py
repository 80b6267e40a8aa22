"""A double without sockets, processes or waiting: virtual clock, obedient tasks, the ASGI app called directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.nomad_double import (
    Delays,
    DoubleSettings,
    HostSettings,
    InlineDriver,
    NomadDouble,
    NullServiceRegistrar,
)
from sandbox.nomad_double.api.app import NomadApp
from sandbox.nomad_double.clock import VirtualClock
from sandbox.nomad_double.drivers import TaskSpec

SECOND = 1_000_000_000


class Tasks:
    """The programs that jobs run: each waits until it is stopped or made to end."""

    def __init__(self) -> None:
        self.started: list[TaskSpec] = []
        self.ends: dict[str, asyncio.Future[int]] = {}

    async def run(self, spec: TaskSpec, stop: asyncio.Event) -> int:
        self.started.append(spec)
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ends[spec.alloc_id] = end
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        await asyncio.wait({end, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return end.result() if end.done() else 0

    def end(self, alloc_id: str, code: int) -> None:
        self.ends[alloc_id].set_result(code)

    @property
    def running(self) -> int:
        return sum(not end.done() for end in self.ends.values())


class World:
    """One double and what surrounds it."""

    def __init__(
        self, double: NomadDouble, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
    ) -> None:
        self.double = double
        self.clock = clock
        self.tasks = tasks
        self.registrar = registrar
        transport = httpx.ASGITransport(NomadApp(double))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://nomad", timeout=5)

    async def settle(self) -> None:
        await self.clock.settle(60)

    async def register(self, job: dict[str, Any], **options: Any) -> dict[str, Any]:
        reply = await self.http.put("/v1/jobs", json={"Job": job, **options})
        assert reply.status_code == 200, reply.text
        await self.settle()
        body: dict[str, Any] = reply.json()
        return body

    async def get(self, path: str, **params: Any) -> Any:
        reply = await self.http.get(path, params=params)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def allocs(self, job_id: str) -> list[dict[str, Any]]:
        found = await self.get(f"/v1/job/{job_id}/allocations", all="true")
        return sorted(found, key=lambda alloc: alloc["CreateIndex"])

    async def last_alloc(self, job_id: str) -> dict[str, Any]:
        return (await self.allocs(job_id))[-1]


def make_job(job_id: str = "app", *, memory_mb: int = 100, **group: Any) -> dict[str, Any]:
    """A job as ours: one task, one dynamic port, no deployments."""
    return {
        "ID": job_id,
        "TaskGroups": [
            {
                "Name": "app",
                "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
                "Update": {"MaxParallel": 0},
                "Tasks": [
                    {
                        "Name": "main",
                        "Driver": "raw_exec",
                        "Config": {"command": "inline"},
                        "Resources": {"CPU": 100, "MemoryMB": memory_mb},
                    }
                ],
                **group,
            }
        ],
    }


Build = Callable[..., NomadDouble]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def registrar() -> NullServiceRegistrar:
    return NullServiceRegistrar()


@pytest.fixture
def build(tmp_path: Path, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar) -> Build:
    """Make a double on the test's folder; a second one goes on where the first ended."""

    def build(hosts: int = 1, ports: int = 4, **settings: Any) -> NomadDouble:
        chosen = DoubleSettings(
            **{
                "hosts": tuple(
                    HostSettings(
                        name=f"host-{number}",
                        address=f"127.0.0.{number}",
                        min_dynamic_port=3100,
                        max_dynamic_port=3100 + ports - 1,
                        memory_mb=1000,
                    )
                    for number in range(1, hosts + 1)
                ),
                "delays": Delays.none(),
                "seed": 1,
                **settings,
            }
        )
        drivers = {"raw_exec": InlineDriver(tasks.run)}
        return NomadDouble(chosen, tmp_path, drivers=drivers, registrar=registrar, clock=clock)

    return build


@asynccontextmanager
async def started(
    double: NomadDouble, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
) -> AsyncIterator[World]:
    """The double, started, and what surrounds it."""
    await double.start()
    world = World(double, clock, tasks, registrar)
    yield world
    await world.http.aclose()
    await double.stop()


@pytest.fixture
async def world(
    build: Build, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
) -> AsyncIterator[World]:
    async with started(build(), clock, tasks, registrar) as world:
        yield world


@pytest.fixture
async def fleet(
    build: Build, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
) -> AsyncIterator[World]:
    """Two hosts."""
    async with started(build(hosts=2), clock, tasks, registrar) as world:
        yield world
