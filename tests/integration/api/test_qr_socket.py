"""`WS /chips/ws/{id}/qr`: the old socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.routes import qr_socket
from core.clients.waha import WahaClient
from core.clients.waha_models import Qr
from core.errors import Unavailable
from core.store import queries
from sandbox.waha.inline import InlineSimulators
from tests.integration.api.conftest import Running, Start
from tests.integration.api.fleet import DISCONNECTED, STARTING, WORKING
from tests.integration.api.live import at, listening, served, stream_url
from tests.integration.api.qr_stage import end, staged

KEYS = {"qr", "qr_code", "expires_at", "status", "message"}


@asynccontextmanager
async def opened(
    base: str, chip_id: str, headers: dict[str, str] | None = None, query: str = "", **more: Any
) -> AsyncIterator[ClientConnection]:
    url = f"{base.replace('http', 'ws', 1)}/api/v1/chips/ws/{chip_id}/qr{query}"
    async with connect(url, additional_headers=headers or {}, proxy=None, **more) as socket:
        yield socket


async def received(socket: ClientConnection, timeout_s: float = 6) -> dict[str, Any]:
    async with asyncio.timeout(timeout_s):
        body: dict[str, Any] = json.loads(await socket.recv())
    return body


async def closed(socket: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                pass
        await socket.wait_closed()
    return socket.close_code or 0, socket.close_reason or ""


async def test_it_pushes_every_change_and_repeats_itself(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qr_socket, "PUSH_S", 0.4)
    person = await running.person()
    chip = await person.chip()
    async with served(running) as base, opened(base, chip["id"], person.headers) as socket:
        first = await received(socket)
        assert set(first) == KEYS
        assert (first["status"], first["qr"]) == (None, None)
        assert first["message"]
        began = time.monotonic()
        assert await received(socket) == first
        assert 0.2 < time.monotonic() - began < 2
        await running.daemon.saw(person.id, chips={chip["id"]: STARTING})
        while (body := await received(socket, 1))["status"] != "STARTING":
            assert body == first
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        while (await received(socket, 1))["status"] != "WORKING":
            pass


async def test_it_says_nothing_for_five_seconds_at_most() -> None:
    assert qr_socket.PUSH_S == 5.0


async def test_a_change_through_another_replica_comes_within_a_second(start: Start) -> None:
    async with start() as first, start() as second, served(first) as here, served(second) as there:
        person = await first.person()
        chip = await person.chip()
        async with opened(here, chip["id"], person.headers) as socket:
            await received(socket)
            await at(there, person, "POST", f"/chips/{chip['id']}/disconnect")
            assert (await received(socket, 1))["message"].startswith("Chip desconectado.")
            await first.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})


@pytest.mark.parametrize("case", ["auto", "upper", "lower"])
async def test_wahas_own_word_keeps_its_case(start: Start, case: str) -> None:
    async with start(WAHAFLEET_API_STATUS_CASE=case) as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        cookie = {"Cookie": f"whago_access_token={person.token}"}
        async with opened(base, chip["id"], cookie) as socket:
            assert (await received(socket))["status"] == "WORKING"


async def test_no_token_or_a_bad_one_is_told_and_closed(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    expired = jwt.encode({"sub": person.id, "type": "access", "exp": int(time.time()) - 5}, "k" * 40, "HS256")
    cases: list[tuple[dict[str, str], str, str]] = [
        ({}, "", "Token de acesso não encontrado."),
        ({}, f"?token={person.token}", "Token de acesso não encontrado."),
        ({"X-API-Key": "whago_01234567_" + "a" * 64}, "", "Token de acesso não encontrado."),
        ({"Authorization": f"Bearer {expired}"}, "", "Token inválido ou expirado."),
        ({"Authorization": "Basic YTpi"}, "", "Token de acesso não encontrado."),
        ({"Cookie": "whago_access_token=x"}, "", "Token inválido ou expirado."),
    ]
    async with served(running) as base:
        for headers, query, reason in cases:
            async with opened(base, chip["id"], headers, query) as socket:
                assert await closed(socket) == (1008, reason), headers
        both = {"Cookie": "whago_access_token=x"} | person.headers
        async with opened(base, chip["id"], both) as socket:
            assert set(await received(socket)) == KEYS
        await running.sql("UPDATE users SET suspended_at = now() WHERE id = :id", id=person.id)
        await asyncio.sleep(1.2)
        async with opened(base, chip["id"], person.headers) as socket:
            code, reason = await closed(socket)
            assert (code, reason.startswith("Sua conta está suspensa.")) == (1008, True)
        operator = {"Authorization": f"Bearer {running.settings.api.operator_token.reveal()}"}  # type: ignore[union-attr]
        async with opened(base, chip["id"], operator) as socket:
            assert (await closed(socket))[0] == 1008


async def test_a_malformed_id(running: Running) -> None:
    person = await running.person()
    async with served(running) as base:
        for chip_id in ("x", "1", "null", str(uuid.uuid4()).replace("-", "")):
            async with opened(base, chip_id, person.headers) as socket:
                assert await closed(socket) == (1003, "Chip inválido")
            # Who is nobody learns nothing of ids.
            async with opened(base, chip_id) as socket:
                assert (await closed(socket))[0] == 1008


async def test_an_unknown_and_a_foreign_chip_look_the_same(running: Running) -> None:
    person, other = await running.person(), await running.person()
    chip = await person.chip()
    async with served(running) as base:
        for chip_id in (chip["id"], str(uuid.uuid4())):
            async with opened(base, chip_id, other.headers) as socket:
                assert await received(socket) == {"error": "Chip não encontrado."}
                assert (await closed(socket))[0] == 1011


async def test_a_chip_deleted_meanwhile(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    async with served(running) as base, opened(base, chip["id"], person.headers) as socket:
        await received(socket)
        await person.delete(f"/chips/{chip['id']}")
        body = await received(socket, 1)
        while "error" not in body:
            body = await received(socket, 1)
        assert body == {"error": "Chip não encontrado."}
        assert (await closed(socket))[0] == 1011


async def test_pages_of_others_may_not_open_it(start: Start) -> None:
    async with start(WAHAFLEET_CORS_ORIGINS="https://painel.exemplo.com") as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        cookie = {"Cookie": f"whago_access_token={person.token}"}
        own = base.removeprefix("http://")
        for origin in (
            "https://evil.example",
            "null",
            f"http://{own}.evil.example",
            "http://[",
            "http://127.0.0.1",
        ):
            async with opened(base, chip["id"], cookie | {"Origin": origin}) as socket:
                code, reason = await closed(socket)
                assert (code, reason.split(".")[0]) == (1008, "Origem não permitida"), origin
        for origin in (
            f"http://{own}",
            f"https://{own}",
            "https://painel.exemplo.com",
            "HTTPS://PAINEL.exemplo.com",
        ):
            async with opened(base, chip["id"], cookie | {"Origin": origin}) as socket:
                assert set(await received(socket)) == KEYS


async def test_the_host_that_a_trusted_proxy_was_asked_for_counts(start: Start) -> None:
    more = {"X-Forwarded-Host": "app.whago.com", "Origin": "https://app.whago.com"}
    async with start(WAHAFLEET_TRUSTED_PROXIES="127.0.0.1") as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        async with opened(base, chip["id"], person.headers | more) as socket:
            assert set(await received(socket)) == KEYS
    async with start() as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        async with opened(base, chip["id"], person.headers | more) as socket:
            assert (await closed(socket))[0] == 1008


async def test_it_ends_with_the_token(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    claims = {"sub": person.id, "type": "access", "exp": int(time.time()) + 2}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, 'k' * 40, 'HS256')}"}
    async with served(running) as base, opened(base, chip["id"], headers) as socket:
        await received(socket)
        assert await closed(socket) == (1008, "Token inválido ou expirado.")


async def test_sockets_count_as_streams(start: Start) -> None:
    async with start(WAHAFLEET_STREAMS_PER_USER="1") as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        async with opened(base, chip["id"], person.headers) as socket:
            await received(socket)
            async with opened(base, chip["id"], person.headers) as second:
                code, reason = await closed(second)
                assert code == 1013
                assert reason.startswith("Muitas conexões ao vivo")
                assert len(reason.encode()) <= 123
        streams = running.app.state.services.streams
        async with asyncio.timeout(3):
            while streams.open:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.02)


async def test_what_a_client_says_is_ignored_and_too_much_ends_it(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    async with served(running) as base, opened(base, chip["id"], person.headers) as socket:
        first = await received(socket)
        await socket.send("ping")
        await socket.send(b"\x00\xff")
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        assert await received(socket, 2) != first
        await socket.send("x" * 10_000)
        assert (await closed(socket))[0] == 1009


async def test_a_store_that_is_away_is_told(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    person = await running.person()
    chip = await person.chip()

    async def away(*_: Any) -> None:
        raise Unavailable("postgres", "planted")

    async with served(running) as base:
        monkeypatch.setattr(queries, "read_chip", away)
        async with opened(base, chip["id"], person.headers) as socket:
            code, reason = await closed(socket)
            assert (code, reason.split(".")[0]) == (1013, "Serviço temporariamente indisponível")


async def test_other_socket_paths_are_not_there(running: Running) -> None:
    async with served(running) as base:
        with pytest.raises((InvalidStatus, ConnectionClosed)):
            async with connect(f"{base.replace('http', 'ws', 1)}/api/v1/other", proxy=None) as socket:
                await socket.recv()
        async with httpx.AsyncClient(trust_env=False) as http:
            plain = await http.get(f"{base}/api/v1/chips/ws/x/qr")
            assert plain.status_code in (404, 405)
            assert plain.json()["code"] in ("route_not_found", "method_not_allowed")


async def test_readers_of_all_kinds_in_two_replicas_cost_one_call(
    start: Start,
    redis_url: str,
    simulators: InlineSimulators,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    real = WahaClient.qr

    async def counted(self: WahaClient, name: str, timeout_s: float = 16.0) -> Qr:
        asked.append(name)
        return await real(self, name, timeout_s)

    monkeypatch.setattr(WahaClient, "qr", counted)
    async with (
        start(redis_url=redis_url, WAHAFLEET_QR_TTL_S="20") as first,
        start(redis_url=redis_url, WAHAFLEET_QR_TTL_S="20") as second,
        served(first) as here,
        served(second) as there,
    ):
        stage = await staged(first, simulators, tmp_path)
        person, chip_id = stage.person, stage.chip_id
        try:
            async with (
                opened(here, chip_id, person.headers) as one,
                opened(there, chip_id, person.headers) as two,
                listening(stream_url(here, chip_id), person.headers) as ear,
                listening(stream_url(there, chip_id), person.headers) as other,
            ):
                shown = [(await received(socket))["qr"] for socket in (one, two)]
                for one_ear in (ear, other):
                    told = await one_ear.until("qr", status="SCAN_QR_CODE")
                    shown.append(told["qr"])
                    assert 0 < told["seconds_left"] <= 60
                await asyncio.sleep(4)  # each of them has looked again
                assert len(set(shown)) == 1
                assert shown[0].startswith("data:image/png;base64,")
                assert asked == [f"chip_{chip_id}"]
                services = first.app.state.services
                assert await services.cache.get(f"viewer:{chip_id}") == b"1"
        finally:
            end(stage)
