from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest

from api.services import Services
from core.clients.cache import Cache
from core.settings import load
from core.store import queries
from core.store.migrate import upgrade
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from tests.integration.api.conftest import CHEAP, OPERATOR_TOKEN, Person, Running, alive, environment

KEYS = {"type", "title", "status", "detail", "code", "instance"}


def problem(answer: httpx.Response, status: int, detail: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) >= KEYS
    assert body["status"] == status
    assert body["instance"] == answer.request.url.path
    return body


CREDENTIALS = ["none", "good bearer", "bad bearer", "bad cookie", "bad key", "operator"]
NOT_OURS = [
    "/",
    "/api",
    "/api/v1",
    "/api/v1/notifications",
    "/api/v1/notifications/unread-count",
    "/api/v1/dashboard/overview",
    "/api/v1/chips/x/y/z",
    "/api/v1/chips/{id}/heat-up",
    "/api/v1/containersx",
    "/api/v1/auth",
    "/api/v2/chips",
    "/health/x",
    "/schema/redoc",
    "/schema/swagger",
    "/static/app.js",
    "/favicon.ico",
    "/api/v1/chips/%2e%2e/users",
    "/api/v1/" + "x" * 3000,
]


@pytest.mark.parametrize("credentials", CREDENTIALS)
async def test_an_unknown_path_is_unknown_whatever_the_credentials(
    running: Running, credentials: str
) -> None:
    person = await running.person()
    headers = {
        "none": {},
        "good bearer": person.headers,
        "bad bearer": {"Authorization": "Bearer x"},
        "bad cookie": {"Cookie": "whago_access_token=x"},
        "bad key": {"X-API-Key": "x"},
        "operator": {"Authorization": f"Bearer {OPERATOR_TOKEN}"},
    }[credentials]
    for path in NOT_OURS:
        for method in ("GET", "POST", "DELETE"):
            answer = await running.client.request(
                method, path.replace("{id}", str(uuid.uuid4())), headers=headers
            )
            assert problem(answer, 404, "Rota não encontrada.")["code"] == "route_not_found"
    for method, path, allowed in (
        ("PATCH", "/api/v1/users/me", {"GET", "PUT"}),
        ("GET", "/api/v1/auth/login", {"POST"}),
        ("PUT", "/api/v1/chips", {"GET", "POST"}),
        ("DELETE", "/health", {"GET"}),
        ("POST", "/schema", {"GET"}),
    ):
        answer = await running.client.request(method, path, headers=headers)
        assert problem(answer, 405, "Método não permitido.")["code"] == "method_not_allowed"
        assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed | {"OPTIONS"}


async def test_bodies_that_are_no_json(running: Running) -> None:
    person = await running.person()
    for content in (b"", b"{", b"alias=x", b"\xff", b"[" * 60_000):
        for path in ("/chips", "/auth/login", "/auth/register"):
            answer = await person.post(path, content=content)
            body = problem(answer, 400, "O corpo da requisição não é um JSON válido.")
            assert body["code"] == "invalid_json"
    form = await running.client.post("/api/v1/auth/login", data={"email": "a@b.com", "password": "x"})
    assert form.status_code == 400


async def test_a_json_body_needs_no_content_type(running: Running) -> None:
    person = await running.person()
    answer = await person.post(
        "/chips", content=b'{"alias": "vendas"}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 201


async def test_large_bodies(running: Running) -> None:
    person = await running.person()
    fits = b'{"alias": "vendas"' + b" " * 65_000 + b"}"
    assert (await person.post("/chips", content=fits)).status_code == 201
    too_large = b'{"alias": "' + b"x" * 65_536 + b'"}'
    for content in (too_large, _chunks(200)):
        answer = await person.post("/chips", content=content)
        body = problem(answer, 413, "O corpo da requisição é grande demais.")
        assert body["code"] == "body_too_large"


async def test_a_large_body_is_refused_before_all_of_it_is_read(running: Running) -> None:
    person = await running.person()
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 10_000:
            read += 1
            yield b"x" * 1024

    # httpx reads a stream as it is asked for more, so what was read tells how much the application took.
    assert (await person.post("/chips", content=endless())).status_code == 413
    assert read < 200


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1024


async def test_a_fault_of_ours_shows_nothing_of_itself(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await running.person()

    async def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail of the machine")

    monkeypatch.setattr(queries, "list_chips", broken)
    answer = await person.get("/chips")
    body = problem(answer, 500, "Ocorreu um erro inesperado. Tente novamente em instantes.")
    assert body["code"] == "internal_error"
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text


async def test_what_the_store_refuses_is_a_fault_of_ours(running: Running) -> None:
    person = await running.person()
    await running.sql("ALTER TABLE chips ADD CONSTRAINT nothing CHECK (alias = 'x') NOT VALID")
    answer = await person.post("/chips", json={"alias": "vendas"})
    assert answer.status_code == 500
    assert "nothing" not in answer.text


async def test_strange_requests_never_break(running: Running) -> None:
    person = await running.person()
    for headers in (
        {"If-None-Match": '"' * 500},
        {"Prefer": "wait=" + "9" * 500},
        {"Cookie": "whago_access_token=" + "x" * 5000},
        {"Cookie": ";;;===;;; \x01"},
        {"Authorization": "Bearer " + "." * 5000},
        {"Host": "exa mple"},
        {"X-Request-ID": "x" * 500},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/x-msgpack"},
    ):
        for method, path in (("GET", "/chips"), ("POST", "/chips")):
            answer = await person._send(method, path, headers=headers)
            assert answer.status_code < 500, (headers, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_a_request_id(running: Running) -> None:
    own = await running.client.get("/health", headers={"X-Request-ID": "trace-1.2"})
    assert own.headers["x-request-id"] == "trace-1.2"
    for bad in ("", "a b", "x" * 65, "é"):
        answer = await running.client.get("/nowhere", headers={b"X-Request-ID": bad.encode()})
        assert len(answer.headers["x-request-id"]) == 32


# The store away


@pytest.fixture(scope="module")
def fragile() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this module's own, that tests stop and freeze."""
    folder = scratch_folder()
    try:
        with EmbeddedPostgres.start(folder, durable=False) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def away(fragile: EmbeddedPostgres) -> AsyncIterator[tuple[Running, EmbeddedPostgres]]:
    name = f"away_{uuid.uuid4().hex[:8]}"
    url = fragile.create_database(name)
    await asyncio.to_thread(upgrade, url)
    settings = load(environment(url, None))
    from api.app import create_app
    from core.store.engine import engine_for
    from tests.integration.api.fleet import FakeDaemon

    app = create_app(settings, hasher=CHEAP)
    engine = engine_for(url)
    transport = httpx.ASGITransport(app=cast(Any, app), raise_app_exceptions=False)
    async with alive(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Running(app, client, engine, settings, FakeDaemon(engine, settings)), fragile
    await engine.dispose()


async def everything_says_so(running: Running, person: Person, chip_id: str) -> None:
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/users/me", None),
        ("GET", "/chips", None),
        ("POST", "/chips", {"alias": "another"}),
        ("GET", f"/chips/{chip_id}", None),
        ("GET", f"/chips/{chip_id}/qr", None),
        ("POST", f"/chips/{chip_id}/disconnect", None),
        ("DELETE", f"/chips/{chip_id}", None),
        ("POST", "/auth/login", {"email": person.email, "password": "Senha@123"}),
    ]

    async def ask(method: str, path: str, body: Any) -> httpx.Response:
        return await person._send(method, path, **({} if body is None else {"json": body}))

    began = time.monotonic()
    answers = await asyncio.gather(*(ask(*request) for request in requests))
    assert time.monotonic() - began < 2.3
    for answer in answers:
        detail = "Serviço temporariamente indisponível. Tente novamente em instantes."
        assert problem(answer, 503, detail)["code"] == "service_unavailable"
        assert int(answer.headers["retry-after"]) > 0
    ready = await running.client.get("/health/ready")
    assert (ready.status_code, ready.json()["dependencies"]) == (
        503,
        {"store": "unavailable", "cache": "off"},
    )
    assert (await running.client.get("/health/live")).status_code == 200


async def test_a_frozen_store_is_said_within_two_seconds(
    away: tuple[Running, EmbeddedPostgres],
) -> None:
    running, server = away
    person = await running.person()
    chip = await person.chip()
    backends = [row.pid for row in await running.sql("SELECT pid FROM pg_stat_activity")]
    frozen = [server.pid, *backends]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        await everything_says_so(running, person, chip["id"])
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert (await person.get("/chips")).status_code == 200


async def test_a_cut_off_store_is_said_and_found_again(
    away: tuple[Running, EmbeddedPostgres],
) -> None:
    running, server = away
    person = await running.person()
    chip = await person.chip()
    [name] = await running.sql("SELECT current_database() AS name")
    await running.engine.dispose()
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name.name}'")
    server.execute(f"ALTER DATABASE {name.name} RENAME TO {name.name}_gone")
    try:
        await everything_says_so(running, person, chip["id"])
    finally:
        server.execute(f"ALTER DATABASE {name.name}_gone RENAME TO {name.name}")
    assert [found["id"] for found in (await person.get("/chips")).json()] == [chip["id"]]


async def test_the_application_starts_without_its_store() -> None:
    from api.app import create_app

    settings = load(environment("postgresql+asyncpg://nobody@127.0.0.1:1/none", None))
    app = create_app(settings, hasher=CHEAP)
    transport = httpx.ASGITransport(app=cast(Any, app), raise_app_exceptions=False)
    async with alive(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503
        login = {"email": "a@b.com", "password": "x"}
        assert (await client.post("/api/v1/auth/login", json=login)).status_code == 503


async def test_the_application_starts_without_redis(running: Running) -> None:
    services: Services = running.app.state.services
    assert isinstance(services.cache, Cache)
    assert not services.cache.healthy
