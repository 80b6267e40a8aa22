"""Every route with every kind of credentials, and what is no route with each of them.

The rows stand in access_table.py; a route without a row fails here.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from api import look_ins, pairing
from tests.integration.api.access_table import ROWS, UNKNOWN_PATHS, Access, Row
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running, Start
from tests.integration.api.test_authentication import EXPIRED, token

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
Headers = dict[str, str]


@pytest.fixture
async def running(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    # Nobody samples containers here; waiting for it is tried elsewhere.
    monkeypatch.setattr(look_ins, "_FIRST_SAMPLE_S", 0.05)
    monkeypatch.setattr(pairing, "_SESSION_S", 0.05)
    async with start() as application:
        yield application


def bearer(value: str) -> Headers:
    return {"Authorization": f"Bearer {value}"}


def refused(user_id: str) -> dict[str, tuple[Headers, str]]:
    """Credentials that let nobody in, with the code that says why."""
    return {
        "no token": ({}, "token_missing"),
        "an empty cookie": ({"Cookie": ""}, "token_missing"),
        "an expired token": (bearer(token(user_id, EXPIRED)), "invalid_token"),
        "an expired cookie": ({"Cookie": f"whago_access_token={token(user_id, EXPIRED)}"}, "invalid_token"),
        "a refresh token": (bearer(token(user_id, type="refresh")), "invalid_token"),
        "a token of another secret": (bearer(token(user_id) + "x"), "invalid_token"),
        "a token without subject": (bearer(token(None)), "token_without_subject"),
        "a token of nobody": (bearer(token(str(uuid.uuid4()))), "invalid_user"),
        "a wrong API key": ({"X-API-Key": f"whago_{'0' * 8}_{'0' * 64}"}, "invalid_api_key"),
    }


def routes(running: Running) -> dict[str, set[str]]:
    """Path template -> methods; `WS` stands for a WebSocket. OPTIONS needs no token and is tried apart."""
    found: dict[str, set[str]] = {}
    for route in running.app.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        methods = {str(method) for method in getattr(route, "methods", ())} - {"OPTIONS"}
        found.setdefault(path, set()).update(methods or {"WS"})
    return found


def filled(path: str, chip_id: str, user_id: str) -> str:
    known = {"chip_id": chip_id, "user_id": user_id, "key": "heat_up"}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], str(uuid.uuid4())), path)


async def call(running: Running, method: str, path: str, row: Row, headers: Headers) -> tuple[int, str]:
    """Status and problem code. Of a stream that is let in, only the beginning is read."""
    running.client.cookies.clear()
    content: dict[str, Any] = {} if row.body is None else {"json": row.body}
    sent = {"Prefer": "respond-async", **headers}
    answer = await running.client.request(method, path, headers=sent, **content)
    return answer.status_code, code_of(answer)


def code_of(answer: httpx.Response) -> str:
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return str(answer.json()["code"]) if is_problem else ""


async def opened(running: Running, kind: str, path: str, headers: Headers) -> tuple[int, str]:
    """As `call` for what lasts: 200 once the stream has begun, or for a socket that was given a message.

    A socket that is refused is 401 with its close code, one of a foreign chip 404 with it.
    """
    scheme = "ws" if kind == "WS" else "http"
    scope: dict[str, Any] = {
        "type": "websocket" if kind == "WS" else "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("wahafleet.test", 80),
        "subprotocols": [],
    }
    if kind != "WS":
        scope["method"] = kind
    scope["headers"].append((b"host", b"wahafleet.test"))
    told: asyncio.Queue[Any] = asyncio.Queue()
    first = [{"type": "websocket.connect"} if kind == "WS" else {"type": "http.request", "body": b""}]
    gone = asyncio.Event()

    async def receive() -> Any:
        if first:
            return first.pop()
        await gone.wait()
        return {"type": "websocket.disconnect", "code": 1001} if kind == "WS" else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.put_nowait(message)

    task = asyncio.ensure_future(running.app(scope, receive, send))  # type: ignore[arg-type]
    try:
        while True:
            message = await asyncio.wait_for(told.get(), 10)
            if message["type"] == "http.response.start":
                return message["status"], ""
            if message["type"] == "websocket.close":
                return (401 if message["code"] == 1008 else 404), str(message["code"])
            if message["type"] == "websocket.send" and "error" not in str(message.get("text")):
                return 200, ""
    finally:
        gone.set()
        await asyncio.wait({task}, timeout=10)
        task.cancel()


def test_every_route_has_a_row_and_every_row_a_route(running: Running) -> None:
    there = {(method, path) for path, methods in routes(running).items() for method in methods}
    missing = sorted(there - ROWS.keys())
    assert missing == [], f"give each of these a row in access_table.py: {missing}"
    assert sorted(ROWS.keys() - there) == [], "no such route: take the rows out"


def wanted(row: Row, path: str) -> dict[str, tuple[int, str | None]]:
    """Status, and the code if it matters, for each credential that lets somebody in."""
    own = (row.status, None)
    if row.access is Access.USER:
        another = (404, "chip_not_found") if "{chip_id}" in path else own
        return {"owner": own, "another user": another, "operator": (403, "user_required")}
    if row.access is Access.USER_OR_COMMAND_LINE:
        return {"another user": (404, "chip_not_found"), "operator": own, "owner": own}
    code = "operator_required" if row.access is Access.OPERATOR else "service_required"
    return {"another user": (403, code), "owner": (403, code), "operator": own}


def cases(
    row: Row, method: str, path: str, users: dict[str, Headers], user_id: str
) -> Iterator[tuple[str, Headers, Any]]:
    """Name of the credentials, what is sent, and what must come of it; the rightful caller last."""
    refusal = 401 if method == "WS" else 403  # a socket has one close code for both
    open_to_all = row.access in (Access.EVERYBODY, Access.SIGNED)
    for name, (headers, code) in refused(user_id).items():
        yield name, headers, (row.status, None) if open_to_all else (401, code)
    for name, outcome in wanted(row, path).items():
        status, why = outcome
        expected = (refusal if status == 403 else status, why)
        yield name, users[name], (row.status, None) if open_to_all else expected


@pytest.mark.parametrize(("method", "path"), [pytest.param(*key, id=" ".join(key)) for key in sorted(ROWS)])
async def test_each_route_with_each_kind_of_credentials(running: Running, method: str, path: str) -> None:
    row = ROWS[method, path]
    owner, other = await running.person(), await running.person()
    chip = await owner.chip()
    await other.chip()
    users = {"owner": owner.headers, "another user": other.headers, "operator": bearer(OPERATOR_TOKEN)}
    target = filled(path, chip["id"], owner.id)
    wrong = []
    for name, headers, (status, code) in cases(row, method, path, users, owner.id):
        ask = (
            opened(running, method, target, headers)
            if row.stream
            else call(running, method, target, row, headers)
        )
        got = await ask
        if got[0] != status or (code is not None and method != "WS" and not row.stream and got[1] != code):
            wrong.append(f"{name}: wanted {status} {code or ''}, got {got}")
    assert wrong == []


def everybody(person: Person) -> dict[str, Headers]:
    known = {name: headers for name, (headers, _) in refused(person.id).items()}
    return known | {"a user": person.headers, "an operator": bearer(OPERATOR_TOKEN)}


async def test_unknown_paths_are_unknown_to_everybody(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    wrong = []
    paths = [*UNKNOWN_PATHS, *(f"{path}/nothing" for path in routes(running))]
    for path in paths:
        target = filled(path, chip["id"], person.id)
        for name, headers in everybody(person).items():
            for method in METHODS:
                got = await running.client.request(method, target, headers=headers)
                # `/chips/nothing` is a chip with a malformed id, and that has methods of its own.
                if (got.status_code, code_of(got)) != (404, "route_not_found") and not _is_known(
                    running, target
                ):
                    wrong.append(f"{method} {target}, {name}: {got.status_code} {code_of(got)}")
    assert wrong == []


async def test_known_paths_with_another_method_are_405_for_everybody(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    wrong = []
    for path, methods in routes(running).items():
        if methods == {"WS"}:
            continue
        target = filled(path, chip["id"], person.id)
        allowed = sorted(methods | {"OPTIONS"})
        for method in set(METHODS) - methods:
            for name, headers in everybody(person).items():
                got = await running.client.request(method, target, headers=headers)
                told = sorted(one.strip() for one in got.headers.get("allow", "").split(","))
                if (got.status_code, code_of(got), told) != (405, "method_not_allowed", allowed):
                    wrong.append(f"{method} {target}, {name}: {got.status_code} {code_of(got)} Allow {told}")
        answer = await running.client.request("OPTIONS", target)
        if (answer.status_code, answer.headers["allow"]) != (204, ", ".join(allowed)):
            wrong.append(f"OPTIONS {target}: {answer.status_code} {answer.headers.get('allow')}")
    assert wrong == []


def _is_known(running: Running, target: str) -> bool:
    patterns = (re.sub(r"\{\w+\}", "[^/]+", path) for path in routes(running))
    return any(re.fullmatch(pattern, target) for pattern in patterns)
