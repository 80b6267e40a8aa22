from __future__ import annotations

import json
import uuid

import pytest

from core import logging
from core.crypto import Sealer
from core.store.containers import container_secrets
from tests.integration.api.conftest import OPERATOR_TOKEN, PASSWORD, Person, Running, Start

ORIGIN = "https://painel.empresa.com.br"


async def test_health(running: Running) -> None:
    for path in ("/health", "/health/live"):
        answer = await running.client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "service": "wahafleet-api"})


@pytest.mark.parametrize(
    ("url", "status", "cache"),
    [("", "ok", "off"), ("redis://127.0.0.1:1/0", "degraded", "unavailable"), ("real", "ok", "ok")],
)
async def test_readiness_tells_of_each_dependency(
    start: Start, redis_url: str, url: str, status: str, cache: str
) -> None:
    async with start(redis_url=redis_url if url == "real" else url) as running:
        answer = await running.client.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": status,
            "service": "wahafleet-api",
            "dependencies": {"store": "ok", "cache": cache},
        }


async def test_a_store_without_schema_is_not_ready(running: Running) -> None:
    await running.sql("ALTER TABLE plans RENAME TO gone")
    answer = await running.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_document_and_its_page(running: Running) -> None:
    document = await running.client.get("/schema")
    assert document.json()["openapi"].startswith("3.1")
    assert document.json() == (await running.client.get("/schema/openapi.json")).json()
    page = await running.client.get("/schema/docs")
    assert page.headers["content-type"].startswith("text/html")
    # Nothing from elsewhere: the only addresses are our own.
    assert "http://" not in page.text
    assert "https://" not in page.text
    script = await running.client.get("/schema/docs.js")
    assert "fetch('/schema')" in script.text


# Containers, for operators


def operator(running: Running) -> Person:
    return Person("", "", OPERATOR_TOKEN, running.client)


async def test_a_container_as_its_operator_sees_it(running: Running) -> None:
    person = await running.person()
    await person.chip()
    before = (await operator(running).get(f"/containers/{person.id}")).json()
    assert (before["status"], before["phase"], before["port"], before["epoch"]) == (
        "created",
        "absent",
        None,
        None,
    )
    await running.daemon.saw(person.id, port=3104)
    for name in (person.id, person.email, person.email.upper()):
        answer = await operator(running).get(f"/containers/{name}")
        assert answer.status_code == 200
        found = answer.json()
        assert found == {
            "user_id": person.id,
            "container_name": f"waha_plus_user_{person.id}",
            "container_id": running.daemon.allocation,
            "job": f"waha_plus_user_{person.id}",
            "node": "host-1",
            "address": "127.0.0.1",
            "port": 3104,
            "base_url": "http://127.0.0.1:3104",
            "status": "running",
            "phase": "ready",
            "reason": None,
            "image": "devlikeapro/waha:gows-2026.7.1",
            "engine": "GOWS",
            "epoch": 1,
            "chips": 1,
            "created_at": found["created_at"],
        }


async def test_access_gives_the_key_and_is_audited(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    person = await running.person()
    await person.chip()
    waiting = await operator(running).get(f"/containers/{person.id}/access")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "container_not_placed")
    await running.daemon.saw(person.id, port=3104)
    answer = await operator(running).get(f"/containers/{person.email}/access")
    sealer = Sealer(tuple(key.reveal() for key in running.settings.store.secret_keys))
    secrets = await container_secrets(running.engine, person.id, sealer)
    assert secrets is not None
    assert answer.json() == {
        "user_id": person.id,
        "address": "127.0.0.1",
        "port": 3104,
        "base_url": "http://127.0.0.1:3104",
        "api_key": secrets.api_key,
    }
    assert answer.headers["cache-control"] == "no-store"
    logged = capsys.readouterr().out
    assert secrets.api_key not in logged
    [line] = await running.sql("SELECT * FROM audit_log WHERE action = 'container.access'")
    assert (line.user_id, line.actor_kind, line.address) == (uuid.UUID(person.id), "operator", "127.0.0.1")
    assert secrets.api_key not in str(line)


@pytest.mark.parametrize("name", ["{nobody}", "{bare}", "x", "nobody@empresa.com.br", "@", "a@b@c"])
async def test_containers_that_are_none(running: Running, name: str) -> None:
    bare = await running.person()
    path = name.replace("{nobody}", "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11").replace("{bare}", bare.id)
    for suffix in ("", "/access"):
        answer = await operator(running).get(f"/containers/{path}{suffix}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Container não encontrado.")


async def test_a_user_is_no_operator_even_of_ones_own_container(running: Running) -> None:
    person = await running.person()
    await person.chip()
    for suffix in ("", "/access"):
        answer = await person.get(f"/containers/{person.id}{suffix}")
        assert (answer.status_code, answer.json()["code"]) == (403, "operator_required")


# Other origins


async def test_another_origin_may_call_only_when_it_is_listed(start: Start) -> None:
    async with start(WAHAFLEET_CORS_ORIGINS=ORIGIN) as running:
        ask = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, prefer",
        }
        asked = await running.client.options("/api/v1/chips", headers={"Origin": ORIGIN, **ask})
        assert asked.status_code in (200, 204)
        assert asked.headers["access-control-allow-origin"] == ORIGIN
        assert asked.headers["access-control-allow-credentials"] == "true"
        allowed = {name.strip() for name in asked.headers["access-control-allow-headers"].lower().split(",")}
        assert allowed == {
            "authorization",
            "content-type",
            "x-api-key",
            "idempotency-key",
            "if-none-match",
            "prefer",
            "last-event-id",
        }
        methods = {name.strip() for name in asked.headers["access-control-allow-methods"].split(",")}
        assert methods == {"GET", "POST", "PUT", "DELETE", "OPTIONS"}
        other = await running.client.options("/api/v1/chips", headers={"Origin": "https://evil.test", **ask})
        assert not any(name.startswith("access-control") for name in other.headers)
        evil = await running.client.get("/api/v1/chips", headers={"Origin": "https://evil.test"})
        assert not any(name.startswith("access-control") for name in evil.headers)
        assert evil.headers["vary"] == "Origin"
        for near in (f"{ORIGIN}.evil.test", f"{ORIGIN}:8443", ORIGIN.replace("https", "http"), "null", "*"):
            answer = await running.client.get("/health", headers={"Origin": near})
            assert not any(name.startswith("access-control") for name in answer.headers)
        # What keeps two users apart in a browser's cache stays.
        person = await running.person()
        chips = await person.get("/chips", headers={"Origin": ORIGIN})
        assert chips.headers["vary"] == "Cookie, Authorization, Sec-Fetch-Mode, Origin"
        unknown = await running.client.options("/api/v1/nowhere", headers={"Origin": ORIGIN, **ask})
        assert unknown.status_code == 404
        # Errors too, or the page could not read them.
        answer = await running.client.get("/api/v1/chips", headers={"Origin": ORIGIN})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = {
            name.strip() for name in answer.headers["access-control-expose-headers"].lower().split(",")
        }
        assert exposed == {"etag", "retry-after", "link", "preference-applied"}
        assert "origin" in answer.headers["vary"].lower()


async def test_without_a_list_no_origin_is_told_anything(running: Running) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    asked = await running.client.options("/api/v1/chips", headers=headers)
    assert asked.status_code == 204  # OPTIONS needs no token
    assert not any(name.startswith("access-control") for name in asked.headers)


# Logs


async def test_a_request_is_one_line_without_secrets(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    import structlog

    logging.configure("api")
    try:
        capsys.readouterr()
        person = await running.person()
        await person.get("/chips?token=secret-in-query")
        body = {"email": person.email, "password": PASSWORD}
        await running.client.post("/api/v1/auth/login", json=body, headers={"X-Request-ID": "trace-7"})
        written = capsys.readouterr().err
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in written.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in requests] == [
        ("POST", "/api/v1/auth/register", 201),
        ("GET", "/api/v1/chips", 200),
        ("POST", "/api/v1/auth/login", 200),
    ]
    assert requests[1]["user_id"] == person.id
    assert requests[2]["request_id"] == "trace-7"
    for secret in (PASSWORD, person.token, "secret-in-query", "argon2"):
        assert secret not in written
