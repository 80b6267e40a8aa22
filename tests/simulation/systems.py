"""What a daemon reaches over its wires: Nomad, Consul, WAHA and storage, each as the product's own protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from core.clients.scheduler import RELIST, Relist
from core.clients.waha import READ_TIMEOUT_S, WRITE_TIMEOUT_S
from core.domain.facts import ServiceInstance
from core.domain.names import JOB_PREFIX, VARIABLE_PREFIX, database_name, main_database
from core.errors import DependencyError, Unavailable
from tests.simulation.hosts import Container
from tests.simulation.network import Stream, Wire, end
from tests.simulation.waha import Call
from tests.simulation.world import short

NOMAD_TIMEOUT_S = 10.0
STORAGE_TIMEOUT_S = 10.0
CONSUL_TIMEOUT_S = 10.0
_USER_AT = len(VARIABLE_PREFIX) + len(JOB_PREFIX)


class SchedulerWire:
    """`core.clients.scheduler.Scheduler`. Reads give the reply's future itself, which is awaited as well."""

    timeout_s = NOMAD_TIMEOUT_S

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._daemon = wire.daemon
        self._world = wire.world
        self._servers = wire.world.servers

    def job(self, job_id: str) -> asyncio.Future[Any]:
        record = self._daemon.record(job_id[len(JOB_PREFIX) :])
        seen = None if record is None else record.job_seen
        return self._wire.request(
            "nomad", "job", partial(self._servers.job, job_id), NOMAD_TIMEOUT_S, seen=seen
        )

    def allocations(self, job_id: str) -> asyncio.Future[Any]:
        record = self._daemon.record(job_id[len(JOB_PREFIX) :])
        seen = None if record is None else record.allocations_seen
        execute = partial(self._servers.allocations, job_id)
        return self._wire.request("nomad", "allocations", execute, NOMAD_TIMEOUT_S, seen=seen)

    def newest_placement(self, job_id: str) -> asyncio.Future[Any]:
        return self._read("newest_placement", lambda: self._servers.newest_placement(job_id))

    def allocation(self, allocation_id: str) -> asyncio.Future[Any]:
        return self._read("allocation", lambda: self._servers.allocation(allocation_id))

    def jobs(self) -> asyncio.Future[Any]:
        self._world.checker.swept(self._daemon)
        return self._read("jobs", self._servers.all_jobs)

    def all_allocations(self) -> asyncio.Future[Any]:
        return self._read("all_allocations", self._servers.all_allocations)

    def variable_paths(self) -> asyncio.Future[Any]:
        return self._read("variable_paths", self._servers.variable_paths)

    async def leader(self) -> str:
        return str(await self._read("leader", lambda: "10.0.0.1:4647"))

    async def register(
        self, job: Mapping[str, Any], expected_index: int, submission: Mapping[str, Any] | None = None
    ) -> Any:
        job_id = job["ID"]
        servers, checker, daemon = self._servers, self._world.checker, self._daemon
        user = job_id[len(JOB_PREFIX) :]
        checker.sent(daemon, user, "register", 2 * NOMAD_TIMEOUT_S)

        # First half: the index is compared. Second half: the write, which nobody compares again.
        def compare() -> None:
            servers.check_index(job_id, expected_index)

        def write() -> None:
            checker.register_lands(daemon, job_id, job)
            servers.register(job, daemon.name)
            checker.registered(daemon, user)

        await self._wire.request("nomad", "register", compare, NOMAD_TIMEOUT_S, then=write)
        return await self.job(job_id)

    async def stop(self, job_id: str) -> None:
        def execute() -> None:
            self._world.checker.stop_lands(self._daemon, job_id)
            self._servers.stop(job_id, self._daemon.name)

        self._world.checker.sent(self._daemon, job_id[len(JOB_PREFIX) :], "stop", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "stop", execute, NOMAD_TIMEOUT_S)

    async def purge(self, job_id: str) -> None:
        def execute() -> None:
            self._world.checker.purge_lands(self._daemon, job_id)
            self._servers.purge(job_id, self._daemon.name, drop=True)

        self._world.checker.sent(self._daemon, job_id[len(JOB_PREFIX) :], "purge", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "purge", execute, NOMAD_TIMEOUT_S)

    async def evaluate(self, job_id: str) -> None:
        user = job_id[len(JOB_PREFIX) :]

        def execute() -> None:
            self._world.checker.lands(self._daemon, user, "evaluate")
            self._servers.evaluate(job_id, "job-evaluate")

        self._world.checker.sent(self._daemon, user, "evaluate", 2 * NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "evaluate", execute, NOMAD_TIMEOUT_S)

    async def stop_allocation(self, allocation_id: str) -> None:
        held = self._servers.by_id.get(allocation_id)
        user = held.user if held is not None else ""

        def execute() -> None:
            self._world.checker.lands(self._daemon, user, "stop_allocation")
            self._servers.stop_allocation(allocation_id, self._daemon.name)

        if held is not None:
            self._world.checker.sent(self._daemon, user, "stop_allocation", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "stop_allocation", execute, NOMAD_TIMEOUT_S)

    async def restart_allocation(self, allocation_id: str) -> None:
        held = self._servers.by_id.get(allocation_id)
        user = held.user if held is not None else ""

        def execute() -> None:
            self._world.checker.lands(self._daemon, user, "restart_allocation")
            self._servers.restart_allocation(allocation_id, self._daemon.name)

        if held is not None:
            self._world.checker.sent(self._daemon, user, "restart_allocation", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "restart_allocation", execute, NOMAD_TIMEOUT_S)

    async def write_variables(self, path: str, items: Mapping[str, str]) -> None:
        def execute() -> None:
            self._world.checker.lands(self._daemon, path[_USER_AT:], "write_variables")
            self._world.trace.note("variables", short(path), self._daemon.name)
            self._servers.variables[path] = items

        self._world.checker.sent(self._daemon, path[_USER_AT:], "write_variables", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "write_variables", execute, NOMAD_TIMEOUT_S)

    async def delete_variables(self, path: str) -> None:
        def execute() -> None:
            self._world.checker.variables_go(self._daemon, path[_USER_AT:])
            self._world.trace.note("no-variables", short(path), self._daemon.name)
            self._servers.variables.pop(path, None)

        self._world.checker.sent(self._daemon, path[_USER_AT:], "delete_variables", NOMAD_TIMEOUT_S)
        await self._wire.request("nomad", "delete_variables", execute, NOMAD_TIMEOUT_S)

    async def watch(self) -> AsyncIterator[frozenset[str] | Relist]:
        await self._read("watch", lambda: None)
        stream = self._wire.stream = Stream(self._world)
        yield RELIST
        while True:
            yield await stream.next()

    def _read(self, call: str, execute: Callable[[], Any]) -> asyncio.Future[Any]:
        return self._wire.request("nomad", call, execute, NOMAD_TIMEOUT_S)


class DiscoveryWire:
    """`core.clients.discovery.Discovery`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._catalog = wire.world.catalog

    def instances(self, user_id: str | None = None) -> asyncio.Future[tuple[ServiceInstance, ...]]:
        catalog = self._catalog
        execute = catalog.all if user_id is None else partial(catalog.of_user, user_id)
        return self._wire.request("consul", "instances", execute, CONSUL_TIMEOUT_S)

    async def leader(self) -> str:
        return "10.0.0.1:8300"

    async def deregister(self, service_id: str) -> None:
        def execute() -> None:
            self._wire.world.trace.note("deregister", service_id[-4:], self._wire.daemon.name)
            self._catalog.forget(service_id)

        await self._wire.request("consul", "deregister", execute, CONSUL_TIMEOUT_S)

    async def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
        wire = self._wire
        while True:
            wire.catalog_waiter = wire.world.loop.create_future()
            try:
                found = await self.instances()
            except DependencyError:
                await wire.daemon.clock.sleep(2.0)  # it comes back by itself and never raises
                continue
            yield found
            await wire.catalog_waiter


class WahaWire:
    """`daemon.waha.WahaContainers`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def at(self, address: str, port: int, api_key: str) -> ContainerWire:
        return ContainerWire(self._wire, address, port, api_key)


class ContainerWire:
    """`daemon.waha.Waha`."""

    def __init__(self, wire: Wire, address: str, port: int, key: str) -> None:
        self._wire = wire
        self._where = (address, port, key)
        self._user = wire.world.owners.user_of_key(key)

    def sessions(self) -> asyncio.Future[Any]:
        return self._call("sessions", (), READ_TIMEOUT_S)

    def probe(self, name: str) -> asyncio.Future[Any]:
        return self._call("probe", (name,), READ_TIMEOUT_S)

    async def update_session(self, name: str, config: Mapping[str, Any]) -> Any:
        return await self._call("update_session", (name, config), WRITE_TIMEOUT_S)

    async def create_session(self, name: str, config: Mapping[str, Any], *, start: bool = False) -> Any:
        return await self._call("create_session", (name, config, start), WRITE_TIMEOUT_S)

    async def start(self, name: str) -> Any:
        return await self._call("start", (name,), WRITE_TIMEOUT_S)

    async def restart(self, name: str) -> Any:
        return await self._call("restart", (name,), WRITE_TIMEOUT_S)

    async def stop(self, name: str) -> Any:
        return await self._call("stop", (name,), WRITE_TIMEOUT_S)

    async def logout(self, name: str) -> Any:
        return await self._call("logout", (name,), WRITE_TIMEOUT_S)

    async def delete(self, name: str) -> None:
        await self._call("delete", (name,), WRITE_TIMEOUT_S)

    def _call(self, method: str, args: tuple[Any, ...], timeout_s: float) -> asyncio.Future[Any]:
        wire = self._wire
        daemon, world = wire.daemon, wire.world
        future = world.loop.create_future()
        if daemon.process.dead or daemon.closing:
            return future
        if method not in ("sessions", "probe"):
            world.checker.sent(daemon, self._user, f"waha.{method}", timeout_s)
        fate = world.network.fate(daemon, "waha", method) if world.network.troubled(daemon) else None
        delay = 0.003 + 0.02 * world.random.random()
        if fate == "slow":
            delay = world.random.uniform(0.05, 0.8) * timeout_s
        call = _WahaCall(wire, future, self._user, method, args, fate, world.now + timeout_s)
        if fate == "before":
            world.loop.after(delay, call.fail, Unavailable("waha", "no connection", code="unreachable"))
        else:
            world.loop.surely(delay, world.waha.arrive, *self._where, method, args, call)
        return future


class _WahaCall(Call):
    def __init__(
        self,
        wire: Wire,
        future: asyncio.Future[Any],
        user: str,
        method: str,
        args: tuple[Any, ...],
        fate: str | None,
        ends_at: float,
    ) -> None:
        self._wire = wire
        self._future = future
        self._user = user
        self._method = method
        self._args = args
        self._fate = fate
        self._ends_at = ends_at

    def answer(self, result: Any) -> None:
        if self._method == "sessions":
            record = self._wire.daemon.record(self._user)
            if record is not None and self._fate != "lost":
                record.sessions_seen(result)
        error = Unavailable("waha", "connection reset") if self._fate == "lost" else None
        end(self._future, result, error)

    def answer_after(self, seconds: float, result: Any) -> None:
        self._wire.world.loop.surely(seconds, self.answer, result)

    def fail(self, error: DependencyError) -> None:
        end(self._future, None, error)

    def fail_after(self, seconds: float, error: DependencyError) -> None:
        self._wire.world.loop.after(seconds, self.fail, error)

    def fail_late(self, error: DependencyError) -> None:
        self._wire.world.loop.at(self._ends_at, self.fail, error)

    def accepted(self, container: Container) -> None:
        wire = self._wire
        wire.world.trace.note(f"waha.{self._method}", short(self._args[0]), wire.daemon.name)
        wire.world.checker.waha_lands(wire.daemon, container, self._method, self._args)


class StorageWire:
    """`core.clients.storage.Storage`."""

    timeout_s = STORAGE_TIMEOUT_S

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waha = wire.world.waha

    async def databases(self, namespace: str) -> tuple[str, ...]:
        return tuple(await self._call("databases", lambda: self._databases(namespace)))

    async def namespaces(self) -> tuple[str, ...]:
        return tuple(await self._call("namespaces", lambda: tuple(sorted(self._waha.databases))))

    async def listing(self) -> tuple[str, ...]:
        return tuple(
            await self._call(
                "listing",
                lambda: tuple(sorted(d for n in self._waha.databases for d in self._databases(n))),
            )
        )

    async def size(self, namespace: str) -> int | None:
        return None

    async def drop(self, namespace: str, database: str | None = None) -> None:
        world, daemon = self._wire.world, self._wire.daemon
        user = world.owners.user_of_namespace(namespace)

        def execute() -> None:
            world.checker.storage_goes(daemon, user, namespace, database)
            world.trace.note("drop-storage", short(user), daemon.name)
            if database is None:
                self._waha.databases.pop(namespace, None)
                self._waha.storage.pop(namespace, None)
            else:
                self._waha.drop(namespace, database)

        world.checker.sent(daemon, user, "drop_storage", STORAGE_TIMEOUT_S)
        await self._call("drop", execute)

    async def aclose(self) -> None:
        return

    def _databases(self, namespace: str) -> tuple[str, ...]:
        found = self._waha.databases.get(namespace)
        if found is None:
            return ()
        return (main_database(namespace), *sorted(database_name(namespace, name) for name in found))

    async def _call(self, name: str, execute: Callable[[], Any]) -> Any:
        return await self._wire.request("storage", name, execute, STORAGE_TIMEOUT_S)
