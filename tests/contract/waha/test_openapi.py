"""Every operation of WAHA's document that a container of ours answers, checked against its schema."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import validate

from sandbox.provider.journal import Journal
from sandbox.provider.server import running_provider

from .conftest import Containers, create, scan, until, url_of
from .openapi import DOCUMENT, check, operations

Call = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]

CONFIG: dict[str, Any] = {
    "metadata": {"user": "42"},
    "proxy": {"server": "127.0.0.1:3128", "username": "chip", "password": "word"},
    "webhooks": [{"url": "http://127.0.0.1:9/", "events": ["session.status"], "hmac": {"key": "k"}}],
}


async def _passkey(http: httpx.AsyncClient, name: str, *, confirmation: bool) -> None:
    await create(http, name)
    await http.get(f"/api/{name}/auth/qr?format=raw")
    await http.post(f"/sim/sessions/{name}/passkey", json={"confirmation": confirmation})


def _get(path: str, **headers: str) -> Call:
    return lambda http: http.get(path, headers=headers)


def _post(path: str, body: Any = None) -> Call:
    return lambda http: http.post(path, json=body)


# Each case is prepared with the session `s`: new, stopped, shown, paired, passkey or confirming.
CASES: list[tuple[str, str, str, Call]] = [
    ("GET", "/ping", "new", _get("/ping")),
    ("GET", "/health", "new", _get("/health")),
    ("GET", "/api/version", "new", _get("/api/version")),
    ("GET", "/api/server/version", "new", _get("/api/server/version")),
    ("GET", "/api/server/status", "new", _get("/api/server/status")),
    ("GET", "/api/server/environment", "new", _get("/api/server/environment?all=true")),
    ("POST", "/api/server/stop", "new", _post("/api/server/stop", {})),
    (
        "POST",
        "/api/sessions",
        "new",
        _post("/api/sessions", {"name": "other", "start": True, "config": CONFIG}),
    ),
    ("POST", "/api/sessions", "new", _post("/api/sessions", {})),
    ("GET", "/api/sessions", "stopped", _get("/api/sessions?all=true")),
    ("GET", "/api/sessions", "shown", _get("/api/sessions")),
    ("GET", "/api/sessions", "paired", _get("/api/sessions")),
    *(
        ("GET", "/api/sessions/{session}", state, _get("/api/sessions/s"))
        for state in ("stopped", "shown", "paired", "passkey")
    ),
    (
        "PUT",
        "/api/sessions/{session}",
        "paired",
        lambda http: http.put("/api/sessions/s", json={"config": CONFIG}),
    ),
    ("DELETE", "/api/sessions/{session}", "paired", lambda http: http.delete("/api/sessions/s")),
    ("GET", "/api/sessions/{session}/me", "paired", _get("/api/sessions/s/me")),
    ("GET", "/api/sessions/{session}/me", "shown", _get("/api/sessions/s/me")),
    *(
        ("POST", f"/api/sessions/{{session}}/{action}", state, _post(f"/api/sessions/s/{action}"))
        for action in ("start", "stop", "restart", "logout")
        for state in ("stopped", "shown", "paired")
    ),
    ("POST", "/api/sessions/start", "stopped", _post("/api/sessions/start", {"name": "s"})),
    ("POST", "/api/sessions/stop", "paired", _post("/api/sessions/stop", {"name": "s"})),
    ("POST", "/api/sessions/stop", "paired", _post("/api/sessions/stop", {"name": "s", "logout": True})),
    ("POST", "/api/sessions/logout", "paired", _post("/api/sessions/logout", {"name": "s"})),
    ("GET", "/api/{session}/auth/qr", "shown", _get("/api/s/auth/qr?format=image", Accept="image/png")),
    ("GET", "/api/{session}/auth/qr", "shown", _get("/api/s/auth/qr", Accept="application/json")),
    ("GET", "/api/{session}/auth/qr", "shown", _get("/api/s/auth/qr?format=raw")),
    (
        "POST",
        "/api/{session}/auth/request-code",
        "shown",
        _post("/api/s/auth/request-code", {"phoneNumber": "5511999990000"}),
    ),
    ("GET", "/api/{session}/auth/passkey/challenge", "passkey", _get("/api/s/auth/passkey/challenge")),
    ("POST", "/api/{session}/auth/passkey", "passkey", _post("/api/s/auth/passkey", {})),
    (
        "GET",
        "/api/{session}/auth/passkey/confirmation",
        "confirming",
        _get("/api/s/auth/passkey/confirmation"),
    ),
    ("POST", "/api/{session}/auth/passkey/confirm", "confirming", _post("/api/s/auth/passkey/confirm")),
]


@pytest.fixture
async def reachable() -> AsyncIterator[dict[str, Any]]:
    """`CONFIG`, with a proxy that somebody serves."""
    async with running_provider({"chip": "word"}, Journal(None)) as provider:
        proxy = {"server": f"127.0.0.1:{provider.port}", "username": "chip-label", "password": "word"}
        yield CONFIG | {"proxy": proxy}


@pytest.mark.parametrize(
    ("method", "path", "state", "call"), CASES, ids=[f"{m}-{p}-{s}" for m, p, s, _ in CASES]
)
async def test_answers_follow_the_document(
    sim_http: httpx.AsyncClient, reachable: dict[str, Any], method: str, path: str, state: str, call: Call
) -> None:
    if state in ("passkey", "confirming"):
        await _passkey(sim_http, "s", confirmation=state == "confirming")
    elif state != "new":
        await create(sim_http, "s", start=state != "stopped", config=reachable)
    if state == "shown":
        await until(sim_http, "s", "SCAN_QR_CODE")
    if state == "paired":
        await scan(sim_http, "s")
    if state == "confirming":
        assert (await sim_http.post("/api/s/auth/passkey", json={})).status_code == 201
    check(await call(sim_http), method, path)


def test_every_operation_has_a_case() -> None:
    # Without WAHA_DEBUG_MODE the debug routes do not exist.
    debug = {operation for operation in operations() if "/debug/" in operation[1]}
    assert {(method, path) for method, path, _, _ in CASES} == operations() - debug


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


@pytest.mark.parametrize(
    "path", ["/api/server/debug/heapsnapshot", "/api/server/debug/cpu", "/api/nonsense", "/nonsense", "/"]
)
async def test_other_paths_are_json_404(sim_http: httpx.AsyncClient, path: str) -> None:
    response = await sim_http.get(path)
    assert response.status_code == 404
    assert response.json()["statusCode"] == 404
    assert response.json()["error"] == "Not Found"


async def test_the_check_can_fail(start_container: Containers) -> None:
    """A wrong answer does not pass: the suite would be worthless otherwise."""
    async with httpx.AsyncClient(base_url=url_of(start_container()), trust_env=False) as http:
        wrong = await http.get("/ping")
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, "GET", "/api/server/version")
        with pytest.raises(AssertionError):
            check(wrong, "POST", "/api/sessions")
