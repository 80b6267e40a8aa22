"""All parts of a sandbox: which start together, which wait for which, and how each one is started."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import httpx
import msgspec

from core.store.migrate import upgrade
from sandbox.postgres import EmbeddedPostgres
from sandbox.up.data import DataFolder
from sandbox.up.environment import Places, base_environment, settings
from sandbox.up.first_user import ensure_first_user
from sandbox.up.machine import free_port
from sandbox.up.plan import Plan
from sandbox.up.supervisor import Child, Supervisor, Tethered
from sandbox.valkey import EmbeddedValkey

DATABASE: Final = "wahafleet"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API listens, and the address under which others reach it."""

    host: str
    port: int
    url: str


class Stack:
    """Starts everything that `plan` names. What it starts is ended by the supervisor."""

    def __init__(self, plan: Plan, site: Site, data: DataFolder, supervisor: Supervisor) -> None:
        self._plan = plan
        self._site = site
        self._data = data
        self._supervisor = supervisor
        self._env = base_environment()
        self._database_url = ""
        self._python = (sys.executable, "-m")
        self.nomad_url = f"http://127.0.0.1:{free_port()}"
        self.consul_url = f"http://127.0.0.1:{free_port()}"
        self._valkey_port = free_port()
        self.redis_url = f"redis://127.0.0.1:{self._valkey_port}/0"

    async def start(self) -> None:
        """Return once the API answers and the daemon has looked at everything once.

        Raises SandboxError, PostgresError or ValkeyError when a part does not start.
        """
        secrets = self._data.secrets()
        # Simulators watch this: without an owner that lives they end themselves.
        (self._data.path / "owner.pid").write_text(f"{os.getpid()}\n")
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            await together(self._start_postgres(), self._start_valkey(), self._start_cluster(http))
            places = Places(
                api=self._site.url,
                nomad=self.nomad_url,
                consul=self.consul_url,
                database_url=self._database_url,
                redis_url=self.redis_url,
                data=self._data.path,
            )
            chosen = settings(self._plan, places, secrets, os.environ)
            self._data.write_settings(chosen)
            await together(self._start_api(http, chosen), self._start_daemon(chosen))

    async def _start_postgres(self) -> None:
        folder = self._data.path / "postgres"
        current: list[EmbeddedPostgres] = []

        def launch() -> EmbeddedPostgres:
            current[:] = [EmbeddedPostgres.start(folder)]
            return current[0]

        await self._supervisor.start(Child(name="postgres", launch=launch, log=folder / "log"))
        url = await asyncio.to_thread(current[0].ensure_database, DATABASE)
        await asyncio.to_thread(upgrade, url)
        await ensure_first_user(url)
        self._database_url = url

    async def _start_valkey(self) -> None:
        folder = self._data.path / "valkey"

        def launch() -> EmbeddedValkey:
            return EmbeddedValkey.start(folder, port=self._valkey_port)

        await self._supervisor.start(Child(name="valkey", launch=launch, log=folder / "log"))

    async def _start_cluster(self, http: httpx.AsyncClient) -> None:
        await self._supervisor.start(self._consul(http))
        await self._supervisor.start(self._nomad(http))

    def _consul(self, http: httpx.AsyncClient) -> Child:
        port = self.consul_url.rpartition(":")[2]

        async def ready() -> bool:
            # `""` until a leader is elected.
            return len((await _answer(http, f"{self.consul_url}/v1/status/leader")).strip(b'"\n')) > 0

        argv = (*self._python, "sandbox.consul_double", "--port", port)
        return self._program("consul", argv, ready)

    def _nomad(self, http: httpx.AsyncClient) -> Child:
        port = self.nomad_url.rpartition(":")[2]

        async def ready() -> bool:
            nodes = await _answer(http, f"{self.nomad_url}/v1/nodes")
            return nodes.count(b'"Status":"ready"') >= self._plan.hosts

        argv = (
            *(*self._python, "sandbox.nomad_double", "--port", port, "--hosts", str(self._plan.hosts)),
            *("--data", str(self._data.path / "nomad"), "--consul-url", self.consul_url),
        )
        return self._program("nomad", argv, ready)

    async def _start_api(self, http: httpx.AsyncClient, chosen: Mapping[str, str]) -> None:
        async def ready() -> bool:
            return bool(await _answer(http, f"{self._site.url}/health/ready"))

        argv = (*self._python, "cli.main", "api", "--host", self._site.host, "--port", str(self._site.port))
        await self._supervisor.start(self._program("api", argv, ready, settings=chosen))

    async def _start_daemon(self, chosen: Mapping[str, str]) -> None:
        argv = (*self._python, "cli.main", "daemon")
        await self._supervisor.start(self._program("daemon", argv, settings=chosen))

    def _program(
        self,
        name: str,
        argv: tuple[str, ...],
        ready: Callable[[], Awaitable[bool]] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> Child:
        log = self._data.log(name)
        launch = Tethered.launcher(argv, log=log, env={**self._env, **(settings or {})})
        child = Child(name=name, launch=launch, log=log)
        return child if ready is None else msgspec.structs.replace(child, ready=ready)


async def _answer(http: httpx.AsyncClient, url: str) -> bytes:
    """The body of a 200; empty for anything else, also for no answer."""
    try:
        answer = await http.get(url)
    except httpx.HTTPError:
        return b""
    return answer.content if answer.status_code == 200 else b""


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run `work` side by side. The first failure cancels the rest, waits for its end and is raised itself."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
