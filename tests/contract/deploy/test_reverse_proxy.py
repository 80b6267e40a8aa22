"""nomad/proxy/nginx.conf sends each path of the contract's section 8 to the right side."""

from __future__ import annotations

import http.client
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from api.app import create_app
from core.settings import load
from sandbox.free_ports import free_port
from tests.contract.deploy.nginx import BEAT_S, BEATS, backend, running
from tests.integration.api.served import serving
from tests.real_agents import require_programs

ID = str(uuid.UUID(int=0x8A4F8F0E52A54A9E8F636F6C8D1F7B20))
V1 = "/api/v1"
OURS_OF_A_CHIP = (
    *("qr", "reconnect", "disconnect", "events", "pairing-code", "explain", "stream"),
    *("proxy", "proxy/history", "proxy/rotate"),
)
IDS = (ID, ID.upper(), ID.replace("-", ""))

WAHAFLEET = [
    "/chips",
    "/chips/",
    "/chips?x=/api/v1/users",
    *(f"/chips/{id_}" for id_ in IDS),
    f"/chips/{ID}/",
    *(f"/chips/{ID}/{verb}" for verb in OURS_OF_A_CHIP),
    *(f"/chips/{id_}/qr" for id_ in IDS),
    f"/chips/{ID}/qr/",
    f"/chips/{ID}%2Fqr",
    f"/chips/{ID}/%71r",
    f"/chips/{ID}/events?limit=5&cursor=a%2Fb",
    f"/chips/ws/{ID}/qr",
    "/chips/ws/malformed/qr",
    f"/webhooks/waha/{ID}",
    "/user/proxy/usage",
    "/containers",
    "/containers/",
    "/containers?phase=ready",
    "/containers/cleanup?dry_run=true",
    f"/containers/{ID}",
    "/containers/ana@empresa.com.br/logs?follow=true",
    "/fleet",
    "/fleet/events",
    "/fleet/plan",
    "/fleet/pause",
    "/fleet/providers/dataimpulse/sub-users",
    "/fleet/proxy/usage?month=2026-07",
    "/me/container",
    "/me/container/restart",
]
WHAGO = [
    "/auth/login",
    "/auth/refresh",
    "/users/me",
    "/api-keys",
    "/notifications",
    "/notifications/unread-count",
    "/dashboard/overview",
    "/campaigns",
    "/billing/plans",
    "/me",
    "/user/proxy",
    "/user/proxyx/usage",
    "/user",
    "/webhooks/waha",
    "/webhooks/stripe",
    "/chipsx",
    "/chips/ws",
    "/chips/wsx/1/qr",
    "/chips/malformed",
    f"/chips/{ID}x",
    f"/chips/{ID}/heat-up",
    f"/chips/{ID}/stop-heat-up",
    f"/chips/{ID}/maturation-stats",
    f"/chips/{ID}/heat-up/qr",
    f"/chips/{ID}/qrx",
    f"/chips/{ID}/qr/x",
    f"/chips/{ID}/QR",
    f"/chips/{ID}/proxy/x",
    f"/chips/{ID}/qr/history",
    f"/chips/{ID}%2Fheat-up",
    f"/chips/{ID}/qr/../heat-up",
    f"/chips/{ID}/annotations/heat_up",
    f"/CHIPS/{ID}",
    "/containersx",
    "/fleetx",
]
# Beside /api/v1.
ELSEWHERE = ["/", "/static/app.js", "/login", "/api/v2/chips", "/chips", "/health", "/metrics", "/schema"]


# Told from inside alone, however it is written.
REFUSED = [
    "/internal",
    "/internal/guard/renew",
    "/internal/guard/usage",
    "/internal/guard/renew/",
    "//internal/guard/renew",
    "/Internal/guard/renew",
    "/%69nternal/guard/renew",
    "/x/../internal/guard/renew",
    "/internal%2Fguard/renew",
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = require_programs("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    with serving(backend("whago")) as whago, serving(backend("wahafleet")) as ours:
        ports = {"whago": _port(whago), "wahafleet": _port(ours)}
        with running(program, folder, ports) as url:
            yield url


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def ask(
    proxy: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and answer. The path goes out as it stands here: httpx would put it in order first."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(proxy), timeout=20)
    try:
        connection.request(method, path, body=body or None, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, httpx.Response(200, content=answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("path", REFUSED)
def test_what_guards_ask_of_the_api_is_not_reached_from_outside(proxy: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", _port(proxy), timeout=20)
    try:
        connection.request("POST", path, body=b"{}")
        answer = connection.getresponse()
        assert answer.status == 404
        assert b"side" not in answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("side", ["wahafleet", "whago"])
def test_each_path_goes_to_its_side_as_it_came(proxy: str, side: str, method: str) -> None:
    paths = [f"{V1}{path}" for path in (WAHAFLEET if side == "wahafleet" else WHAGO)]
    wrong = []
    for path in [*paths, *(ELSEWHERE if side == "whago" else [])]:
        status, answer = ask(proxy, method, path)
        told = answer.json()
        raw, _, query = path.partition("?")
        if (status, told["side"], told["method"], told["path"], told["query"]) != (
            200,
            side,
            method,
            raw,
            query,
        ):
            wrong.append((path, told["side"], told["path"]))
    assert wrong == []


def test_every_route_of_ours_is_on_the_side_that_the_contract_names(proxy: str) -> None:
    settings = load(
        {
            "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
            "WAHAFLEET_SECRET_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            "JWT_SECRET_KEY": "k" * 40,
        },
        "api",
    )
    # Accounts are WHAGO's here. Trusted services write annotations at our own address.
    others = ("/api/v1/auth/", "/api/v1/users/", "/api/v1/api-keys", "/health", "/metrics", "/schema")
    for route in create_app(settings).routes:
        stays = route.path.startswith(others) or "/annotations/" in route.path
        path = re.sub(r"\{\w+:\w+\}", ID, route.path)
        _, answer = ask(proxy, "GET", path)
        assert answer.json()["side"] == ("whago" if stays else "wahafleet"), path


def test_who_calls_and_over_what_is_handed_on(proxy: str) -> None:
    _, answer = ask(
        proxy, "GET", f"{V1}/chips", headers={"Cookie": "whago_access_token=x", "Authorization": "Bearer y"}
    )
    headers = answer.json()["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["host"] == urlsplit(proxy).netloc
    assert (headers["cookie"], headers["authorization"]) == ("whago_access_token=x", "Bearer y")
    # What a visitor claims stands before what nginx saw; the API reads the list from its end.
    _, answer = ask(
        proxy, "GET", f"{V1}/chips", headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
    )
    assert answer.json()["headers"]["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"
    assert answer.json()["headers"]["x-forwarded-proto"] == "http"


def test_bodies_of_a_webhook_pass_and_floods_do_not(proxy: str) -> None:
    path = f"{V1}/webhooks/waha/{ID}"
    status, answer = ask(proxy, "POST", path, b"x" * (1024 * 1024 + 1))
    assert (status, answer.json()["bytes"]) == (200, 1024 * 1024 + 1)
    assert ask(proxy, "POST", path, b"x" * (3 * 1024 * 1024))[0] == 413


@pytest.mark.parametrize(
    ("path", "side"),
    [
        (f"/chips/{ID}/stream", "wahafleet"),
        ("/fleet/events", "wahafleet"),
        (f"/containers/{ID}/logs?follow=true", "wahafleet"),
        ("/notifications/stream", "whago"),
    ],
)
def test_a_stream_passes_as_it_is_said(proxy: str, path: str, side: str) -> None:
    came: list[float] = []
    with httpx.stream(
        "GET", f"{proxy}{V1}{path}", headers={"Accept": "text/event-stream"}, timeout=20
    ) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            if line.startswith("data:"):
                assert line == f"data: {side}"
                came.append(time.monotonic())
    assert len(came) == BEATS
    # Held back, all of them would come at the end, at once.
    assert came[-1] - came[0] >= BEAT_S * (BEATS - 1) * 0.7


@pytest.mark.parametrize(("path", "side"), [(f"/chips/ws/{ID}/qr", "wahafleet"), ("/ws/dashboard", "whago")])
def test_a_websocket_passes(proxy: str, path: str, side: str) -> None:
    with connect(f"ws://{urlsplit(proxy).netloc}{V1}{path}", proxy=None) as socket:
        socket.send("hello")
        assert socket.recv(timeout=10) == f"{side} heard hello"


def test_without_an_api_process_the_pages_are_told_in_their_own_words(tmp_path: Path) -> None:
    program = require_programs("nginx")
    with serving(backend("whago")) as whago:
        ports = {"whago": _port(whago), "wahafleet": free_port()}
        with running(program, tmp_path, ports) as url:
            answer = httpx.get(f"{url}{V1}/chips")
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "2"
            assert answer.json()["code"] == "service_unavailable"
            assert answer.json()["detail"] == (
                "Serviço temporariamente indisponível. Tente novamente em instantes."
            )
            assert httpx.get(f"{url}{V1}/users/me").json()["side"] == "whago"
