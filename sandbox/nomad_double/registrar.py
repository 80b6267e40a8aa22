"""Registering a job's services at Consul, the way Nomad's client does it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import Protocol
from urllib.parse import quote

import httpx
import msgspec
import structlog

from sandbox.nomad_double.clock import Clock
from sandbox.nomad_double.durations import go_duration
from sandbox.nomad_double.interpolate import interpolate
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node
from sandbox.nomad_double.settings import Delays

log = structlog.get_logger(__name__)

ID_PREFIX = "_nomad-task-"


class ServiceRegistrar(Protocol):
    """Where services of allocations are made known."""

    consul_version: str
    """What nodes show as `consul.version`; jobs with Consul services are placed only where it is present."""

    def register(self, services: list[Json], host: str = "") -> None:
        """Make these registrations known soon, at the Consul agent of `host`.

        Returns at once, as in Nomad nothing waits for Consul.
        """
        ...

    def deregister(self, service_ids: list[str]) -> None: ...

    def host_is(self, host: str, *, alive: bool) -> None:
        """The whole host died, its Consul agent with it, or is back."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class NullServiceRegistrar:
    """Remembers registrations and tells nobody; for tests without Consul."""

    consul_version = "1.20.0"

    def __init__(self) -> None:
        self.services: dict[str, Json] = {}
        self.dead_hosts: set[str] = set()

    def register(self, services: list[Json], host: str = "") -> None:  # noqa: ARG002 - one list for all
        self.services |= {service["ID"]: service for service in services}

    def deregister(self, service_ids: list[str]) -> None:
        for service_id in service_ids:
            self.services.pop(service_id, None)

    def host_is(self, host: str, *, alive: bool) -> None:
        if alive:
            self.dead_hosts.discard(host)
        else:
            self.dead_hosts.add(host)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class HttpServiceRegistrar:
    """Talks to a Consul agent. What is wanted is kept here; a worker makes the agent agree and retries for ever.

    Every `service_sync_s` it compares with the agent: services of ours that are gone there (an agent that lost
    its state) are registered again, `_nomad-task-*` services that nobody wants are removed. One Consul agent
    must therefore not be shared with another Nomad, as with a real one.
    """

    consul_version = "1.20.0"

    def __init__(self, base_url: str, clock: Clock, delays: Delays, token: str = "") -> None:
        headers = {"X-Consul-Token": token} if token else {}
        self._base_url = base_url
        self._headers = headers
        self._clock = clock
        self._delays = delays
        self._wanted: dict[str, Json] = {}
        self._host_of: dict[str, str] = {}
        self._host_news: dict[str, bool] = {}
        self._dirty: dict[str, None] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._http: httpx.AsyncClient | None = None

    def register(self, services: list[Json], host: str = "") -> None:
        for service in services:
            self._host_of[service["ID"]] = host
            if self._wanted.get(service["ID"]) != service:
                self._wanted[service["ID"]] = service
                self._dirty[service["ID"]] = None
        self._news.set()

    def deregister(self, service_ids: list[str]) -> None:
        for service_id in service_ids:
            if self._wanted.pop(service_id, None) is not None:
                self._dirty[service_id] = None
        self._news.set()

    def host_is(self, host: str, *, alive: bool) -> None:
        self._host_news[host] = alive
        self._news.set()

    async def start(self) -> None:
        # trust_env off: a proxy from the environment must never see loopback traffic.
        self._http = httpx.AsyncClient(
            base_url=self._base_url, headers=self._headers, timeout=5.0, trust_env=False
        )
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._sync_for_ever())]

    async def stop(self) -> None:
        """Hand over what is pending (the farewell of stopped tasks), within two seconds, then end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._http is None:
            return
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._flush()
        await self._http.aclose()
        self._http = None

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._flush()
            except httpx.HTTPError as error:
                log.warning(
                    "consul_registration_failed", error=type(error).__name__, pending=len(self._dirty)
                )
                await self._clock.sleep(self._delays.service_retry_s)
                self._news.set()

    async def _flush(self) -> None:
        assert self._http is not None
        await self._flush_hosts(self._http)
        while self._dirty:
            service_id = next(iter(self._dirty))
            service = self._wanted.get(service_id)
            if service is None:
                url = f"/v1/agent/service/deregister/{quote(service_id, safe='')}"
                response = await self._http.put(url)
                if response.status_code != 404:
                    response.raise_for_status()
            else:
                host = {"X-Double-Node": self._host_of.get(service_id, "")}
                response = await self._http.put("/v1/agent/service/register", json=service, headers=host)
                response.raise_for_status()
            if self._wanted.get(service_id) == service:
                self._dirty.pop(service_id, None)

    async def _flush_hosts(self, http: httpx.AsyncClient) -> None:
        """Tell the Consul double which hosts are gone. At a real agent somebody else has to end the host's own."""
        while self._host_news:
            host, alive = next(iter(self._host_news.items()))
            status = "passing" if alive else "critical"
            response = await http.put(f"/double/serf-health/{status}", params={"node": host})
            if response.status_code == 404:
                log.info("consul_is_no_double", host=host)
            else:
                response.raise_for_status()
            if self._host_news.get(host) == alive:
                del self._host_news[host]

    async def _sync_for_ever(self) -> None:
        while True:
            try:
                await self._compare()
            except (httpx.HTTPError, ValueError) as error:
                log.warning("consul_sync_failed", error=type(error).__name__)
                await self._clock.sleep(self._delays.service_retry_s)
                continue
            await self._clock.sleep(self._delays.service_sync_s)

    async def _compare(self) -> None:
        assert self._http is not None
        response = await self._http.get("/v1/agent/services")
        response.raise_for_status()
        there = {
            key
            for key in msgspec.json.decode(response.content, type=dict[str, Json])
            if key.startswith(ID_PREFIX)
        }
        for service_id in (there - self._wanted.keys()) | (self._wanted.keys() - there):
            self._dirty[service_id] = None
        if self._dirty:
            self._news.set()


def group_services(alloc: Allocation, node: Node, env: dict[str, str]) -> list[Json]:
    """The registrations of a group's Consul services, as Nomad sends them to /v1/agent/service/register."""
    group = group_of(alloc.job, alloc.task_group) or {}
    services = [service for service in group["Services"] or () if service["Provider"] == "consul"]
    return [_registration(service, f"group-{alloc.task_group}", alloc, node, env) for service in services]


def task_services(alloc: Allocation, node: Node, task: Json, env: dict[str, str]) -> list[Json]:
    services = [service for service in task["Services"] or () if service["Provider"] == "consul"]
    return [_registration(service, task["Name"], alloc, node, env) for service in services]


def _registration(raw: Json, owner: str, alloc: Allocation, node: Node, env: dict[str, str]) -> Json:
    service: Json = interpolate(raw, node, env)
    address, port = _address(service["PortLabel"], alloc, node)
    service_id = f"{ID_PREFIX}{alloc.id}-{owner}-{service['Name']}-{service['PortLabel']}"
    registration: Json = {
        "ID": service_id,
        "Name": service["Name"],
        "Tags": service["Tags"],
        "Port": port,
        "Address": service["Address"] or address,
        "Meta": {**(service["Meta"] or {}), "external-source": "nomad"},
        "EnableTagOverride": service["EnableTagOverride"],
        "Checks": [_check(check, service, service_id, alloc, node) for check in service["Checks"] or ()]
        or None,
    }
    if service["Weights"]:
        registration["Weights"] = service["Weights"]
    return registration


def _check(check: Json, service: Json, service_id: str, alloc: Allocation, node: Node) -> Json:
    address, port = _address(check["PortLabel"] or service["PortLabel"], alloc, node)
    digest = hashlib.sha1(
        f"{service_id}{msgspec.json.encode(check).decode()}".encode(), usedforsecurity=False
    )
    body: Json = {
        "CheckID": f"_nomad-check-{digest.hexdigest()}",
        "Name": check["Name"],
        "Interval": go_duration(check["Interval"]),
        "Timeout": go_duration(check["Timeout"]),
    }
    if check["InitialStatus"]:
        body["Status"] = check["InitialStatus"]
    for field in ("SuccessBeforePassing", "FailuresBeforeCritical", "FailuresBeforeWarning", "Notes"):
        if check[field]:
            body[field] = check[field]
    if check["Type"] == "http":
        scheme = check["Protocol"] or "http"
        path = check["Path"]
        body["HTTP"] = f"{scheme}://{address}:{port}{path if path.startswith('/') else '/' + path}"
        for field, key in (("Method", "Method"), ("Header", "Header"), ("Body", "Body")):
            if check[field]:
                body[key] = check[field]
        if check["TLSSkipVerify"]:
            body["TLSSkipVerify"] = True
    elif check["Type"] == "tcp":
        body["TCP"] = f"{address}:{port}"
    elif check["Type"] == "grpc":
        body["GRPC"] = f"{address}:{port}/{check['GRPCService']}".rstrip("/")
    return body


def _address(label: str, alloc: Allocation, node: Node) -> tuple[str, int]:
    if label.isdigit():
        return node.address, int(label)
    for port in alloc.ports:
        if port["Label"] == label:
            return port["HostIP"], port["Value"]
    return node.address, 0
