"""One suite, two agents: the double, and a real Consul when one is on PATH."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from sandbox.agents.consul_agent import ConsulAgent
from sandbox.postgres import scratch_folder
from tests.contract import evidence
from tests.polling import eventually
from tests.real_agents import require_programs

_outcomes: dict[str, str] = {}
_real_version: list[str] = []


class Agent(msgspec.Struct, frozen=True):
    kind: str
    url: str
    version: str


@pytest.fixture(scope="session", params=["double", "real"])
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    if request.param == "double":
        yield from _double()
        return
    require_programs("consul")
    folder = scratch_folder()
    try:
        with ConsulAgent.start(folder) as real:
            _real_version[:] = [real.version]
            yield Agent("real", real.url, real.version)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _double() -> Iterator[Agent]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.consul_double", "--port", "0", "--least-interval", "0.1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            ready: dict[str, Any] = msgspec.json.decode(process.stdout.readline())
            yield Agent("double", ready["url"], ready["version"])
        finally:
            process.terminate()
            assert process.wait(10) == 0


@pytest.fixture
async def consul(agent: Agent) -> AsyncIterator[httpx.AsyncClient]:
    """The agent's HTTP API."""
    async with httpx.AsyncClient(base_url=agent.url, timeout=15, trust_env=False) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other case uses, for a service or as the beginning of keys."""
    return f"case-{uuid.uuid4().hex[:12]}"


class Target:
    """What a check looks at: a server that answers with `status` and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.port = 0
        self.requests: list[str] = []
        self.hang = False
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            if self.hang:
                await asyncio.sleep(30)
            writer.write(f"HTTP/1.1 {self.status} Status\r\nContent-Length: 4\r\n\r\npong".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a TCP check connects and says nothing
        finally:
            writer.close()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    server = Target()
    await server.open()
    yield server
    await server.close()


class Registry:
    """Registers services and removes them when the case is over."""

    def __init__(self, consul: httpx.AsyncClient) -> None:
        self._consul = consul
        self._ids: list[str] = []

    async def register(self, **body: Any) -> None:
        answer = await self._consul.put("/v1/agent/service/register", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.content == b""
        service_id = body.get("ID", body["Name"])
        self._ids.append(service_id)

        async def listed() -> bool:
            entries = (await self._consul.get(f"/v1/health/service/{body['Name']}")).json()
            return any(entry["Service"]["ID"] == service_id for entry in entries)

        await eventually(listed)

    async def deregister(self, service_id: str) -> None:
        answer = await self._consul.put(f"/v1/agent/service/deregister/{service_id}")
        assert answer.status_code == 200, answer.text

    async def close(self) -> None:
        for service_id in self._ids:
            await self.deregister(service_id)


@pytest.fixture
async def registry(consul: httpx.AsyncClient) -> AsyncIterator[Registry]:
    made = Registry(consul)
    yield made
    await made.close()


Health = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def health(consul: httpx.AsyncClient) -> Health:
    """The entries of a service, as /v1/health/service/:name gives them."""

    async def read(service: str, **params: str) -> list[dict[str, Any]]:
        answer = await consul.get(f"/v1/health/service/{service}", params=params)
        assert answer.status_code == 200, answer.text
        entries: list[dict[str, Any]] = answer.json()
        return entries

    return read


def known_cases() -> frozenset[str]:
    package = importlib.import_module("tests.contract.consul")
    names = [one.name for one in pkgutil.iter_modules(package.__path__) if one.name.startswith("test_")]
    modules = [importlib.import_module(f"tests.contract.consul.{one}") for one in names]
    return evidence.cases_of(module for module in modules if not module.__name__.endswith("test_evidence"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        isinstance(item, pytest.Function)
        and "[real" in item.name
        and (report.failed or report.when == "call")
    ):
        case = f"{item.module.__name__.rpartition('.')[2]}::{item.originalname}"
        if _outcomes.get(case) != "failed" and report.outcome != "skipped":
            _outcomes[case] = report.outcome
    return report


def pytest_sessionfinish() -> None:
    if _real_version and _outcomes:
        evidence.record("consul", _real_version[0], _outcomes, known_cases())
