"""The application, running in this process on real PostgreSQL and Valkey."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import httpx
import pytest
from argon2 import PasswordHasher
from cryptography.fernet import Fernet
from litestar import Litestar
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from core.clients.waha import WahaClient
from core.clients.waha_models import Qr
from core.settings import Settings, load
from core.store.engine import engine_for
from core.variables import NO_LIMITS
from sandbox.postgres import scratch_folder
from sandbox.valkey import EmbeddedValkey
from sandbox.waha.inline import InlineSimulators
from tests.integration.api.commands import Run, runner, served
from tests.integration.api.fleet import FakeDaemon

PASSWORD = "Senha@123"
OPERATOR_TOKEN = "operator-token-of-the-tests"
GUARD_SECRET = "guard-secret-of-the-tests-" + "g" * 16
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
SECRET_KEY = Fernet.generate_key().decode()
_emails = itertools.count(1)


@dataclass
class Person:
    """A registered user, and a client that sends the bearer token and no cookie."""

    id: str
    email: str
    token: str
    client: httpx.AsyncClient
    refresh_token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self._send("GET", path, **more)

    async def post(self, path: str, **more: Any) -> httpx.Response:
        return await self._send("POST", path, **more)

    async def put(self, path: str, **more: Any) -> httpx.Response:
        return await self._send("PUT", path, **more)

    async def delete(self, path: str, **more: Any) -> httpx.Response:
        return await self._send("DELETE", path, **more)

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        return await self.client.request(method, f"/api/v1{path}", headers=headers, **more)

    async def chip(self, alias: str = "vendas", prefer: str = "respond-async") -> dict[str, Any]:
        answer = await self.post("/chips", json={"alias": alias}, headers={"Prefer": prefer})
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body


@dataclass
class Running:
    """One application with everything a test needs of it."""

    app: Litestar
    client: httpx.AsyncClient
    engine: AsyncEngine
    settings: Settings
    daemon: FakeDaemon

    async def person(self, plan: str = "enterprise") -> Person:
        email = f"pessoa{next(_emails)}@empresa.com.br"
        body = {
            "name": "Ana Souza",
            "email": email,
            "password": PASSWORD,
            "phone": "+5511999999999",
            "plan_slug": plan,
        }
        answer = await self.client.post("/api/v1/auth/register", json=body)
        self.client.cookies.clear()
        assert answer.status_code == 201, answer.text
        user = answer.json()["user"]
        return Person(user["id"], email, answer.json()["access_token"], self.client)

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        """The daemon's side, and what no route shows."""
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []


Start: TypeAlias = Callable[..., AbstractAsyncContextManager[Running]]


def environment(database_url: str, redis_url: str | None, **more: str) -> dict[str, str]:
    env = {
        "WAHAFLEET_DATABASE_URL": database_url,
        "WAHAFLEET_SECRET_KEYS": SECRET_KEY,
        "JWT_SECRET_KEY": "k" * 40,
        "WAHAFLEET_JOBSPEC": "waha-plus",
        "WAHAFLEET_STORAGE_DSN": "postgresql://nobody@localhost/waha",
        "WAHAFLEET_OPERATOR_TOKEN": OPERATOR_TOKEN,
        "WAHAFLEET_DATABASE_POOL": "5",
        "WAHAFLEET_CREATE_WAIT_S": "0.3",
        "WAHAFLEET_EGRESS": "direct",
        "WAHAFLEET_GUARD_SECRET": GUARD_SECRET,
        **NO_LIMITS,  # those of the limits set their own
    }
    if redis_url is not None:
        env["WAHAFLEET_REDIS_URL"] = redis_url
    return env | more


@asynccontextmanager
async def alive(app: Litestar) -> AsyncIterator[None]:
    """The application's lifespan, in a task of its own: it must end in the task that it began in."""
    started, ending = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await ending.wait()

    task = asyncio.create_task(live())
    starting = asyncio.create_task(started.wait())
    await asyncio.wait((task, starting), return_when=asyncio.FIRST_COMPLETED)
    try:
        if not started.is_set():
            starting.cancel()
            await task
        yield
    finally:
        ending.set()
        await task


@pytest.fixture
def start(database_url: str) -> Start:
    """Starts one more application on this test's database: `async with start(redis_url=..., NAME=...)`."""

    @asynccontextmanager
    async def run(*, redis_url: str | None = None, **more: str) -> AsyncIterator[Running]:
        settings = load(environment(database_url, redis_url, **more))
        app = create_app(settings, hasher=CHEAP)
        engine = engine_for(database_url)
        transport = httpx.ASGITransport(app=cast(Any, app), raise_app_exceptions=False)
        base_url = "http://wahafleet.test"
        try:
            async with alive(app), httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                yield Running(app, client, engine, settings, FakeDaemon(engine, settings))
        finally:
            await engine.dispose()

    return run


@pytest.fixture(params=["redis", "no redis"])
def cache_url(request: pytest.FixtureRequest) -> str | None:
    """Tests that take it run twice, and must see the same answers."""
    if request.param == "no redis":
        return None
    url: str = request.getfixturevalue("redis_url")
    return url


@pytest.fixture
def mortal() -> Iterator[EmbeddedValkey]:
    """A Redis of the test's own, which may die."""
    folder = scratch_folder()
    try:
        with EmbeddedValkey.start(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def simulators() -> Iterator[InlineSimulators]:
    with InlineSimulators(lambda _line: None) as simulators:
        yield simulators


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sessions that WAHA was asked about, in order."""
    asked: list[str] = []
    real = WahaClient.qr

    async def counted(self: WahaClient, name: str, timeout_s: float = 16.0) -> Qr:
        asked.append(name)
        return await real(self, name, timeout_s)

    monkeypatch.setattr(WahaClient, "qr", counted)
    return asked


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Running]:
    async with start() as application:
        yield application


@pytest.fixture
async def run(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Run]:
    """The operator's verbs against this test's application."""
    monkeypatch.setenv("WAHAFLEET_OPERATOR_TOKEN", OPERATOR_TOKEN)
    async with served(running.app) as url:
        yield runner(url, capsys)
