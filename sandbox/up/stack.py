"""All parts of a sandbox: which start together, which wait for which, and how each one is started."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from core.crypto import Sealer
from core.store.engine import engine_for
from core.store.leases_admin import free_guard_leases, free_leases
from core.store.migrate import upgrade
from sandbox.free_ports import free_port
from sandbox.postgres import EmbeddedPostgres
from sandbox.provider.server import PASSWORD as PROVIDER_PASSWORD
from sandbox.up.data import DataFolder
from sandbox.up.environment import Places, base_environment, owner_file, settings, simulator_environment
from sandbox.up.first_user import ensure_first_user
from sandbox.up.guards import GuardPart, find_hosts, guard_parts
from sandbox.up.local_provider import LOGIN, egress_ports, ensure_local_provider
from sandbox.up.plan import Egress, Plan, Simulators
from sandbox.up.real_hosts import RealHosts, real_consul
from sandbox.up.supervisor import Child, Supervisor, Tethered
from sandbox.up.together import in_thread, together
from sandbox.valkey import EmbeddedValkey

DATABASE: Final = "wahafleet"
_PYTHON: Final = (sys.executable, "-m")


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
        self._simulator_env = simulator_environment(plan, data.path)
        self.nomad_url = f"http://127.0.0.1:{free_port()}"
        self.consul_url = f"http://127.0.0.1:{free_port()}"
        self.daemon_listen = os.environ.get("WAHAFLEET_DAEMON_LISTEN") or f"127.0.0.1:{free_port()}"
        self._valkey_port = free_port()
        self.redis_url = f"redis://127.0.0.1:{self._valkey_port}/0"
        self.egress = egress_ports(data.path)
        self.guards: list[GuardPart] = []

    async def start(self) -> None:
        """Return once the API answers and the daemon has looked at everything once.

        Raises SandboxError, PostgresError or ValkeyError when a part does not start.
        """
        secrets = self._data.secrets()
        password = secrets.pop(PROVIDER_PASSWORD)
        # Simulators watch this: without an owner that lives they end themselves.
        owner_file(self._data.path).write_text(f"{os.getpid()}\n")
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            parts = [self._start_postgres(secrets, password), self._start_valkey(), self._start_cluster(http)]
            if self._plan.egress is Egress.GUARD:
                parts.append(self._start_provider(password))
            await together(*parts)
            places = Places(
                api=self._site.url,
                nomad=self.nomad_url,
                consul=self.consul_url,
                database_url=self._database_url,
                redis_url=self.redis_url,
                data=self._data.path,
                guard_port=self.egress.guard,
            )
            chosen = settings(self._plan, places, secrets, os.environ)
            self._data.write_settings(chosen)
            if self._plan.egress is Egress.GUARD:
                self.guards = guard_parts(
                    await find_hosts(http, self.nomad_url),
                    port=self.egress.guard,
                    secret=secrets["WAHAFLEET_GUARD_SECRET"],
                    api_url=self._site.url,
                )
            # Ended in the opposite order: guards give their leases back while the API still hears them.
            guards = map(self._start_guard, self.guards)
            await together(self._start_api(http, chosen), self._start_daemon(chosen), *guards)

    async def _start_postgres(self, secrets: Mapping[str, str], password: str) -> None:
        folder = self._data.path / "postgres"
        current: list[EmbeddedPostgres] = []

        def launch() -> EmbeddedPostgres:
            current[:] = [EmbeddedPostgres.start(folder)]
            return current[0]

        await self._supervisor.start(Child(name="postgres", launch=launch, log=folder / "log"))
        url = await in_thread(current[0].ensure_database, DATABASE)
        await in_thread(upgrade, url)
        await ensure_first_user(url)
        # The folder is ours and nothing of an earlier run lives: whatever holds a lease is dead.
        await free(url, guards=True)
        if self._plan.egress is Egress.GUARD:
            sealer = Sealer((secrets["WAHAFLEET_SECRET_KEYS"],))
            await ensure_local_provider(url, sealer, port=self.egress.provider, password=password)
        self._database_url = url

    async def _start_valkey(self) -> None:
        folder = self._data.path / "valkey"

        def launch() -> EmbeddedValkey:
            return EmbeddedValkey.start(folder, port=self._valkey_port)

        await self._supervisor.start(Child(name="valkey", launch=launch, log=folder / "log"))

    async def _start_provider(self, password: str) -> None:
        argv = (
            *(*_PYTHON, "sandbox.provider", "--login", LOGIN, "--port", str(self.egress.provider)),
            *("--control-port", str(self.egress.control)),
            *("--journal", str(self._data.path / "egress" / "provider.jsonl")),
        )
        ready = self._said("provider", b'"ready": true')
        await self._supervisor.start(
            self._program("provider", argv, ready, more={PROVIDER_PASSWORD: password})
        )

    async def _start_guard(self, part: GuardPart) -> None:
        argv = (*_PYTHON, part.module) if part.module else (*_wahafleet(), "egress")
        ready = self._said(part.name, b'"guard_started"')
        await self._supervisor.start(self._program(part.name, argv, ready, more=part.env))

    async def _start_cluster(self, http: httpx.AsyncClient) -> None:
        if self._plan.nomad is not None:
            hosts = RealHosts(self._plan, self._data, self._supervisor, self._simulator_env)
            await hosts.start(nomad_port=_port(self.nomad_url), consul_port=_port(self.consul_url))
            return
        consul = self._double_of_consul(http)
        if self._plan.consul is not None:
            consul = real_consul(self._data, _port(self.consul_url), {})
        await self._supervisor.start(consul)
        await self._supervisor.start(self._double_of_nomad(http))

    def _double_of_consul(self, http: httpx.AsyncClient) -> Child:
        async def ready() -> bool:
            # `""` until a leader is elected.
            return len((await _answer(http, f"{self.consul_url}/v1/status/leader")).strip(b'"\n')) > 0

        quick = () if self._plan.delays else ("--no-stagger",)
        argv = (*_PYTHON, "sandbox.consul_double", "--port", str(_port(self.consul_url)), *quick)
        return self._program("consul", argv, ready)

    def _double_of_nomad(self, http: httpx.AsyncClient) -> Child:
        async def ready() -> bool:
            nodes = await _answer(http, f"{self.nomad_url}/v1/nodes")
            return nodes.count(b'"Status":"ready"') >= self._plan.hosts

        first, last = map(str, self._plan.ports)
        argv = (
            *(*_PYTHON, "sandbox.nomad_double", "--port", str(_port(self.nomad_url))),
            *("--hosts", str(self._plan.hosts), "--min-port", first, "--max-port", last),
            *("--data", str(self._data.path / "nomad-double"), "--consul-url", self.consul_url),
            *(() if self._plan.delays else ("--no-delays",)),
            *(("--inline",) if self._plan.simulators is Simulators.INLINE else ()),
        )
        return self._program("nomad", argv, ready, more=self._simulator_env)

    async def _start_api(self, http: httpx.AsyncClient, chosen: Mapping[str, str]) -> None:
        async def ready() -> bool:
            return bool(await _answer(http, f"{self._site.url}/health/ready"))

        argv = (*_wahafleet(), "api", "--host", self._site.host, "--port", str(self._site.port))
        await self._supervisor.start(self._program("api", argv, ready, more=chosen))

    async def _start_daemon(self, chosen: Mapping[str, str]) -> None:
        # It says so once its sources run, and the first of them asks for a look at every user.
        ready = self._said("daemon", b'"daemon_started"')
        # This process's alone: a second daemon with the settings of this sandbox must not want the same port.
        more = {**chosen, "WAHAFLEET_DAEMON_LISTEN": self.daemon_listen}
        child = self._program("daemon", (*_wahafleet(), "daemon"), ready, more=more)
        await self._supervisor.start(msgspec.structs.replace(child, died=self._free_leases_of))

    async def _free_leases_of(self, pid: int) -> None:
        """Only a parent knows at once that a daemon is dead; everybody else waits for its leases to run out."""
        await free(self._database_url, owner_prefix=f"{socket.gethostname()[:40]}:{pid}:")

    def _said(self, name: str, word: bytes) -> Callable[[], Awaitable[bool]]:
        """Whether `word` stands in what part `name` has logged from now on."""
        log = self._data.log(name)
        before = log.stat().st_size if log.exists() else 0

        async def ready() -> bool:
            with contextlib.suppress(FileNotFoundError), log.open("rb") as lines:
                lines.seek(before)
                return word in lines.read()
            return False

        return ready

    def _program(
        self,
        name: str,
        argv: tuple[str, ...],
        ready: Callable[[], Awaitable[bool]] | None = None,
        *,
        more: Mapping[str, str] | None = None,
    ) -> Child:
        log = self._data.log(name)
        launch = Tethered.launcher(argv, log=log, env={**self._env, **(more or {})})
        child = Child(name=name, launch=launch, log=log)
        return child if ready is None else msgspec.structs.replace(child, ready=ready)


async def free(database_url: str, *, owner_prefix: str = "", guards: bool = False) -> None:
    """Free the leases of dead daemons, and with `guards` those of all guards; see `core.store.leases_admin`."""
    engine = engine_for(database_url, pool_size=2, application_name="wahafleet up")
    try:
        await free_leases(engine, owner_prefix=owner_prefix)
        if guards:
            await free_guard_leases(engine)
    finally:
        await engine.dispose()


def _wahafleet() -> tuple[str, ...]:
    """The command of this very installation, under the name that a list of processes should show."""
    script = Path(sys.executable).with_name("wahafleet")
    return (str(script),) if script.exists() else (*_PYTHON, "cli.main")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def _answer(http: httpx.AsyncClient, url: str) -> bytes:
    """The body of a 200; empty for anything else, also for no answer."""
    try:
        answer = await http.get(url)
    except httpx.HTTPError:
        return b""
    return answer.content if answer.status_code == 200 else b""
