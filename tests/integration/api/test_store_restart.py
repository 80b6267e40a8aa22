"""PostgreSQL and Redis end and come back under a running application; nobody starts it again."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from api.app import create_app
from core.settings import load
from core.store.engine import engine_for
from core.store.migrate import upgrade
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from sandbox.valkey import EmbeddedValkey
from tests.integration.api.conftest import CHEAP, PASSWORD, Person, Running, Start, alive, environment
from tests.integration.api.fleet import QR, WORKING, FakeDaemon


@pytest.fixture
def folder() -> Iterator[Path]:
    made = scratch_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def ask_everything(running: Running, person: Person, chip_id: str) -> list[tuple[str, httpx.Response]]:
    """One request of each class: accounts, reads, wishes, a container's, a webhook."""
    body = {"email": person.email, "password": PASSWORD}
    new = {"name": "Ana", "email": "nova@empresa.com.br", "password": PASSWORD, "phone": "+5511999999999"}
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/auth/login", body),
        ("POST", "/auth/register", new),
        ("GET", "/users/me", None),
        ("PUT", "/users/me", {"name": "Outro"}),
        ("GET", "/chips", None),
        ("POST", "/chips", {"alias": "outra"}),
        ("GET", f"/chips/{chip_id}", None),
        ("GET", f"/chips/{chip_id}/qr", None),
        ("GET", f"/chips/{chip_id}/explain", None),
        ("POST", f"/chips/{chip_id}/disconnect", None),
        ("POST", f"/chips/{chip_id}/reconnect", None),
        ("DELETE", f"/chips/{chip_id}", None),
        ("GET", "/me/container", None),
        ("POST", f"/webhooks/waha/{person.id}", {"id": "evt", "event": "x", "session": "y"}),
    ]

    async def timed(method: str, path: str, json: Any) -> tuple[str, httpx.Response, float]:
        began = time.monotonic()
        answer = await person._send(method, path, **({} if json is None else {"json": json}))
        took_s = time.monotonic() - began
        running.client.cookies.clear()  # a login's would speak for somebody else
        return f"{method} {path}", answer, took_s

    # One after the other, as one caller would: none may wait for more than its own two seconds.
    taken = [await timed(*call) for call in calls]
    assert max(took_s for *_, took_s in taken) < 2.3
    return [(name, answer) for name, answer, _ in taken]


async def test_a_stopped_store_is_said_and_found_again(folder: Path) -> None:
    server = EmbeddedPostgres.start(folder, durable=False)
    try:
        url = server.create_database("stopped")
        await asyncio.to_thread(upgrade, url)
        settings = load(environment(url, None))
        app, engine = create_app(settings, hasher=CHEAP), engine_for(url)
        transport = httpx.ASGITransport(app=cast(Any, app), raise_app_exceptions=False)
        async with alive(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            running = Running(app, client, engine, settings, FakeDaemon(engine, settings))
            person = await running.person()
            chip = await person.chip()
            before = await person.get("/chips")
            for _ in range(2):
                await engine.dispose()
                await asyncio.to_thread(server.stop)
                for name, answer in await ask_everything(running, person, chip["id"]):
                    assert answer.status_code == 503, name
                    assert answer.json()["code"] == "service_unavailable", name
                    assert int(answer.headers["retry-after"]) > 0, name
                server = await asyncio.to_thread(EmbeddedPostgres.start, folder, durable=False)
                # The very bytes of before, in an answer that was asked for anew.
                again = await person.get("/chips", headers={"If-None-Match": before.headers["etag"]})
                assert again.status_code == 304
            await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
            assert [one["status"] for one in (await person.get("/chips")).json()] == ["CONNECTED"]
        await engine.dispose()
    finally:
        server.stop()


async def test_a_redis_that_comes_back_is_used_again(start: Start, folder: Path) -> None:
    first = EmbeddedValkey.start(folder)
    try:
        async with start(redis_url=first.url()) as running:
            person = await running.person()
            chip = await person.chip()
            await running.daemon.saw(person.id, port=1, chips={chip["id"]: QR})

            async def cache() -> str:
                ready = await running.client.get("/health/ready")
                return str(ready.json()["dependencies"]["cache"])

            assert await cache() == "ok"
            first.kill()
            for name, answer in await ask_everything(running, person, chip["id"]):
                assert answer.status_code < 300 or "webhooks" in name, name
            assert await cache() == "unavailable"
            with EmbeddedValkey.start(folder, port=first.port):
                deadline = time.monotonic() + 10
                while await cache() != "ok":
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
                assert [one["alias"] for one in (await person.get("/chips")).json()] == ["outra"]
    finally:
        first.kill()
