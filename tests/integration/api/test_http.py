"""Answers as HTTP: headers of every one, and requests that no client of ours would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from api.server import configured
from core.variables import NO_LIMITS
from sandbox.free_ports import free_port
from tests.integration.api.conftest import Running, Start
from tests.polling import eventually

DATA = "default-src 'none'; frame-ancestors 'none'"


async def test_every_answer_tells_a_browser_to_do_nothing_with_it(running: Running) -> None:
    person = await running.person()
    tag = (await person.get("/chips")).headers["etag"]
    answers = [
        await person.get("/chips"),
        await person.get("/chips", headers={"If-None-Match": tag}),
        await person.get("/nowhere"),
        await person.delete("/chips"),
        await person.post("/chips", content=b"{"),
        await running.client.get("/api/v1/chips"),
        await running.client.options("/api/v1/chips"),
        await running.client.get("/health"),
        await running.client.get("/schema"),
    ]
    assert [answer.status_code for answer in answers] == [200, 304, 404, 405, 400, 401, 204, 200, 200]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"] == DATA
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
        assert "x-powered-by" not in answer.headers


async def test_a_fault_of_ours_has_them_too(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("api.idempotency.KeptAnswers.__call__", broken)
    answer = await running.client.get("/api/v1/chips")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-security-policy"] == DATA
    assert answer.headers["x-request-id"]


async def test_the_page_runs_its_own_script_and_no_other(running: Running) -> None:
    page = await running.client.get("/schema/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    for name, tag in (("script-src", "<script"), ("style-src", "<style")):
        assert "unsafe" not in policy[name]
        inline = page.text.count(tag) - page.text.count(f"{tag} src")
        assert policy[name].count("'sha256-") == inline


async def test_https_is_remembered_by_the_browser(start: Start) -> None:
    async with start(WAHAFLEET_TRUSTED_PROXIES="127.0.0.1") as running:
        plain = await running.client.get("/health")
        assert "strict-transport-security" not in plain.headers
        safe = await running.client.get("/health", headers={"X-Forwarded-Proto": "https"})
        assert safe.headers["strict-transport-security"] == "max-age=31536000"
    async with start() as running:
        # Not believed from just anybody.
        claimed = await running.client.get("/health", headers={"X-Forwarded-Proto": "https"})
        assert "strict-transport-security" not in claimed.headers


BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/auth/login", {"email": "a\0@b.com", "password": "x\0"}),
    ("POST", "/auth/login", {"email": "x" * 60_000, "password": "y"}),
    (
        "POST",
        "/auth/register",
        {
            "name": "Ana",
            "email": "ana@empresa.com.br",
            "password": "Senha@123",
            "phone": "+5511999999999",
            "plan_slug": "a\0",
        },
    ),
    ("PUT", "/users/me", {"name": "a\0b", "company_name": "\ud800"}),
    ("POST", "/chips", {"alias": "abc\0"}),
    ("POST", "/chips", {"alias": "\u200b\u200b\u200b\u202e"}),
]


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_texts_that_no_store_keeps_are_refused(
    running: Running, method: str, path: str, body: dict[str, Any]
) -> None:
    person = await running.person()
    answer = await person._send(method, path, content=json.dumps(body))
    assert answer.status_code < 500, answer.text


PATHS = [
    b"/api/v1/chips/%00",
    b"/api/v1/chips/%ff%fe",
    b"/api/v1/chips/%zz",
    b"/api/v1/chips/%",
    b"/api/v1/chips/..%2f..%2fhealth",
    b"/api/v1/containers/%00@x.com",
    b"/api/v1/containers/%F0%9F%92%A9@x.com/access",
    b"//api/v1/chips",
    b"/api/v1/chips?x=%ff&x=%00",
    b"/%2e%2e/etc/passwd",
    b"/api/v1/chips/" + b"a" * 20_000,
]


@asynccontextmanager
async def served(running: Running) -> AsyncIterator[int]:
    """The application behind the server that it has outside of tests; its port."""
    port = free_port()
    settings = configured(running.app, "127.0.0.1", port)
    settings.lifespan = "off"  # it lives already
    server = uvicorn.Server(settings)
    serving = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: _true(server.started), 10)
        yield port
    finally:
        server.should_exit = True
        await serving


async def _true(value: bool) -> bool:
    return value


async def raw(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


async def test_strange_requests_are_answered_by_a_problem(running: Running) -> None:
    person = await running.person()
    bearer = f"Authorization: Bearer {person.token}".encode()
    async with served(running) as port:
        for path in PATHS:
            for method in (b"GET", b"POST", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND"):
                head = b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\nConnection: close\r\n\r\n"
                status, headers, body = await raw(port, head % (method, path, bearer))
                assert status < 500, (method, path)
                assert "server" not in headers
                assert headers["x-content-type-options"] == "nosniff"
                if status >= 400:
                    assert headers["content-type"] == "application/problem+json", (method, path)
                if method == b"HEAD":
                    assert body == b""


async def test_what_is_no_http_never_reaches_us(running: Running) -> None:
    async with served(running) as port:
        for request in (b"GET /hea lth x HTTP/1.1\r\n\r\n", b"\x00\x01\x02\r\n\r\n"):
            status, headers, _ = await raw(port, request)
            assert status == 400
            assert "server" not in headers
        long = b"X-Long: " + b"x" * 70_000
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n\r\n"
        assert (await raw(port, head % long))[0] == 200


async def test_a_chunked_body_that_is_too_large_is_refused_on_its_way(running: Running) -> None:
    person = await running.person()
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    head = (
        f"POST /api/v1/chips HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    async with served(running) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode())
            answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            sent = 0
            while not answer.done() and sent < 64 * 1024 * 1024:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
                sent += 0x4000
            first = (await asyncio.wait_for(answer, 5)).split(b"\r\n")[0]
        finally:
            writer.close()
            await writer.wait_closed()
    assert first.split()[1] == b"413"
    assert sent < 32 * 1024 * 1024


def test_limits_that_tests_switch_off_are_all_there_are() -> None:
    assert len(NO_LIMITS) == 7
