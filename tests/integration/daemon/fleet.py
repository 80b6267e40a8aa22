"""A small system for tests of the daemon: PostgreSQL, the doubles of Nomad and Consul, and simulators."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet
from sqlalchemy import Select, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.hook_events import inbox_event
from core.crypto import Sealer
from core.domain.actor import COMMAND_LINE
from core.domain.names import job_id, session_name, variable_path
from core.settings import load
from core.store.containers import container_secrets
from core.store.engine import engine_for, reading, transaction
from core.store.intents import create_chip, delete_chip, disconnect_chip, reconnect_chip
from core.store.leases_admin import free_leases
from core.store.tables import chips, containers, users
from core.store.webhooks import record
from daemon.main import serve
from sandbox.consul_double import running_consul_double
from sandbox.consul_double.double import ConsulDouble
from sandbox.free_ports import free_range
from sandbox.nomad_double.drivers import TaskDriver
from sandbox.nomad_double.inline_simulators import driver_of
from sandbox.nomad_double.running import RunningDouble, running_nomad_double
from sandbox.nomad_double.settings import Delays, DoubleSettings, HeartbeatSettings, HostSettings
from sandbox.postgres import scratch_folder
from sandbox.waha import phone
from sandbox.waha.inline import InlineSimulators

SIMULATOR = Path(__file__).parents[3] / "sandbox" / "waha" / "__main__.py"


@dataclass
class Fleet:
    """One small system: what a test wishes for, and what it can see."""

    engine: AsyncEngine
    sealer: Sealer
    env: dict[str, str]
    nomad: RunningDouble
    consul: ConsulDouble
    storage: Path
    hooks: list[dict[str, Any]] = field(default_factory=list)
    simulators: InlineSimulators | None = None
    """Those of this process, where they are not processes of their own."""

    @asynccontextmanager
    async def daemon(self, **env: str) -> AsyncIterator[asyncio.Task[None]]:
        """A running daemon, ended in an orderly way."""
        stop = asyncio.Event()
        running = asyncio.create_task(serve(load(self.env | env, part="daemon"), stop))
        try:
            yield running
        finally:
            stop.set()
            await running

    async def user(self) -> str:
        user_id = str(uuid.uuid4())
        async with transaction(self.engine) as connection:
            await connection.execute(
                insert(users).values(
                    id=user_id,
                    email=f"{user_id}@example.com",
                    name="Teste",
                    phone="+5511999999999",
                    plan_slug="enterprise",
                )
            )
        return user_id

    async def chip(self, user_id: str) -> str:
        chip_id = str(uuid.uuid4())
        await create_chip(
            self.engine,
            self.sealer,
            "main",
            user_id=user_id,
            chip_id=chip_id,
            alias=f"chip {chip_id[:8]}",
            actor=COMMAND_LINE,
        )
        return chip_id

    async def delete(self, user_id: str, chip_id: str) -> None:
        await delete_chip(self.engine, user_id, chip_id, actor=COMMAND_LINE)

    async def chip_row(self, chip_id: str) -> Mapping[str, Any] | None:
        async with reading(self.engine) as connection:
            row = (await connection.execute(select(chips).where(chips.c.id == chip_id))).one_or_none()
        return None if row is None else dict(row._mapping)

    async def container_row(self, user_id: str) -> Mapping[str, Any] | None:
        async with reading(self.engine) as connection:
            query = select(containers).where(containers.c.user_id == user_id)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else dict(row._mapping)

    async def scan(self, user_id: str, chip_id: str) -> None:
        base_url, api_key = await self.waha(user_id)
        await phone.scan(base_url, api_key, session_name(chip_id), "5511988887777")

    async def expire_leases(self) -> None:
        """What a minute of waiting does to the leases of a killed daemon."""
        await free_leases(self.engine)

    async def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        async with reading(self.engine) as connection:
            return [dict(row._mapping) for row in await connection.execute(query)]

    async def disconnect(self, user_id: str, chip_id: str) -> None:
        await disconnect_chip(self.engine, user_id, chip_id, actor=COMMAND_LINE)

    async def reconnect(self, user_id: str, chip_id: str) -> None:
        await reconnect_chip(
            self.engine,
            self.sealer,
            "main",
            user_id=user_id,
            chip_id=chip_id,
            fresh=False,
            actor=COMMAND_LINE,
        )

    async def unlink(self, user_id: str, chip_id: str) -> None:
        """The phone removes the device."""
        base_url, api_key = await self.waha(user_id)
        await phone.unlink(base_url, api_key, session_name(chip_id))

    async def waha(self, user_id: str) -> tuple[str, str]:
        """Address and key of the user's container."""
        row = await self.container_row(user_id)
        keys = await container_secrets(self.engine, user_id, self.sealer)
        assert row is not None
        assert keys is not None
        return f"http://{row['endpoint_address']}:{row['endpoint_port']}", keys.api_key

    async def restart_task(self, allocation_id: str) -> None:
        async with httpx.AsyncClient(base_url=self.nomad.url, trust_env=False) as client:
            path = f"/v1/client/allocation/{allocation_id}/restart"
            (await client.put(path, json={"TaskName": "waha_plus"})).raise_for_status()

    async def restarts(self, allocation_id: str) -> int:
        async with httpx.AsyncClient(base_url=self.nomad.url, trust_env=False) as client:
            allocation = (await client.get(f"/v1/allocation/{allocation_id}")).json()
        return int(allocation["TaskStates"]["waha_plus"].get("Restarts", 0))

    async def nomad_status(self, user_id: str) -> tuple[int, int]:
        """HTTP statuses of the user's job and of their variables."""
        async with httpx.AsyncClient(base_url=self.nomad.url, trust_env=False) as client:
            job = await client.get(f"/v1/job/{job_id(user_id)}")
            variables = await client.get(f"/v1/var/{variable_path(user_id)}")
        return job.status_code, variables.status_code


async def until(
    look: Callable[[], Awaitable[Any]],
    wanted: Callable[[Any], bool],
    timeout_s: float = 20.0,
    every_s: float = 0.02,
) -> Any:
    """What `look` saw when it first was as wanted; fails with the last sight."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"still {seen}"
        await asyncio.sleep(every_s)


def has(**values: Any) -> Callable[[Mapping[str, Any] | None], bool]:
    return lambda row: row is not None and all(row[name] == value for name, value in values.items())


@asynccontextmanager
async def _hook_receiver(engine: AsyncEngine, hooks: list[dict[str, Any]]) -> AsyncIterator[str]:
    """What the API's webhook route does, without the signature: into the inbox, and 200."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1])
            for line in head.split("\r\n")
            if line.lower().startswith("content-length")
        )
        raw = await reader.readexactly(length)
        user_id = head.split(" ", 2)[1].rsplit("/", 1)[1]
        hooks.append(json.loads(raw))
        with suppress(Exception):  # a user that is gone by now: the sender may try as often as it likes
            await record(engine, user_id, [inbox_event(raw)])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextmanager
def _quick_simulators() -> Iterator[None]:
    """Simulators in this process take their settings from its environment."""
    before = os.environ.get("WAHA_SIM_START_DELAY_S")
    os.environ["WAHA_SIM_START_DELAY_S"] = "0.05"
    try:
        yield
    finally:
        del os.environ["WAHA_SIM_START_DELAY_S"]
        if before is not None:
            os.environ["WAHA_SIM_START_DELAY_S"] = before


@asynccontextmanager
async def running_fleet(
    database_url: str,
    *,
    hosts: int = 1,
    ports: int = 20,
    speed: float = 1.0,
    inline: bool = False,
    driver: Callable[[InlineSimulators], TaskDriver] = driver_of,
) -> AsyncIterator[Fleet]:
    """A system without a daemon.

    Args:
        hosts: on 127.0.0.1, 127.0.0.2, ..., each with `ports` ports.
        speed: how many times shorter the double makes what jobs and heartbeats wait for.
        inline: simulators live in this process instead of one each.
        driver: makes what runs the tasks of `inline` simulators.
    """
    folder = scratch_folder()
    # Webhooks of every simulator come through it too.
    engine = engine_for(database_url, pool_size=5 if ports < 100 else 30)
    names = [f"127.0.0.{number}" for number in range(1, hosts + 1)]
    first = free_range(ports, *names)
    settings = DoubleSettings(
        hosts=tuple(
            HostSettings(
                name=f"host-{number}",
                address=address,
                min_dynamic_port=first,
                max_dynamic_port=first + ports - 1,
            )
            for number, address in enumerate(names, 1)
        ),
        delays=Delays.none(),
        # A test process may be kept waiting; that is no silence of a host.
        heartbeats=HeartbeatSettings(grace_s=1.5 * speed),
        speed=speed,
    )
    hooks: list[dict[str, Any]] = []
    key = Fernet.generate_key().decode()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.push_async_callback(engine.dispose)
        drivers = simulators = None
        if inline:
            stack.enter_context(_quick_simulators())
            simulators = stack.enter_context(InlineSimulators())
            drivers = {"raw_exec": driver(simulators)}
        async with (
            _hook_receiver(engine, hooks) as hook_url,
            running_consul_double() as consul,
            running_nomad_double(
                settings, data_dir=folder / "nomad", consul_url=consul.url, drivers=drivers
            ) as nomad,
        ):
            yield Fleet(
                engine=engine,
                sealer=Sealer((key,)),
                nomad=nomad,
                consul=consul.double,
                storage=folder / "waha",
                hooks=hooks,
                simulators=simulators,
                env={
                    "WAHAFLEET_DATABASE_URL": database_url,
                    "WAHAFLEET_SECRET_KEYS": key,
                    "NOMAD_ADDR": nomad.url,
                    "CONSUL_HTTP_ADDR": consul.url,
                    "WAHAFLEET_JOBSPEC": "waha-simulator",
                    "WAHAFLEET_SIMULATOR_COMMAND": sys.executable,
                    "WAHAFLEET_SIMULATOR_ARGS": f"-I -S {SIMULATOR}",
                    "WAHAFLEET_STORAGE_DSN": str(folder / "waha"),
                    "WAHAFLEET_HOOK_BASE_URL": hook_url,
                    "WAHAFLEET_EGRESS": "direct",
                    "WAHAFLEET_EMPTY_GRACE_S": "0",
                    # Hundreds of users come at once: what is tested is not how they are paced.
                    "WAHAFLEET_STARTS_PER_S": "500",
                    "WAHAFLEET_STARTS_PER_S_HOST": "500",
                    "WAHAFLEET_START_BURST": "500",
                    "WAHAFLEET_START_BURST_HOST": "500",
                },
            )
