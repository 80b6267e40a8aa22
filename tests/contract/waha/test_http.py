"""Statuses, bodies and waits that the orchestrator relies on. Cases with `target` run on a real WAHA too."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import httpx
import pytest

from tests.unit.waha_simulator.test_qr import decode

from .conftest import KEY, Containers, Target, create, scan, until, url_of

WRONG_KEYS: list[dict[str, str]] = [{}, {"X-Api-Key": ""}, {"X-Api-Key": "wrong"}, {"X-Api-Key": KEY + "x"}]


# 1. Keys


@pytest.mark.parametrize("path", ["/api/sessions", "/api/server/version", "/health", "/api/s/auth/qr"])
@pytest.mark.parametrize("headers", WRONG_KEYS)
async def test_without_the_key_it_is_401(target: Target, path: str, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=target.url, trust_env=False) as http:
        response = await http.get(path, headers=headers)
    assert response.status_code == 401
    assert response.json() == {"message": "Unauthorized", "statusCode": 401}


async def test_ping_needs_no_key(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.url, trust_env=False) as http:
        response = await http.get("/ping")
    assert (response.status_code, response.json()) == (200, {"message": "pong"})


async def test_the_key_may_stand_in_the_query(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.url, trust_env=False) as http:
        assert (await http.get("/api/sessions", params={"x-api-key": target.key})).status_code == 200
        assert (await http.get("/api/sessions", params={"x-api-key": "wrong"})).status_code == 401


async def test_the_controls_need_the_key(start_container: Containers) -> None:
    async with httpx.AsyncClient(base_url=url_of(start_container()), trust_env=False) as http:
        assert (await http.post("/sim/sessions/s/scan", json={"qr": "x"})).status_code == 401


@pytest.mark.parametrize("weak", ["", "admin", "123"])
async def test_a_weak_key_opens_nothing(start_container: Containers, weak: str) -> None:
    base_url = url_of(start_container(WAHA_API_KEY=weak))
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
        assert (await http.get("/api/sessions", headers={"X-Api-Key": weak})).status_code == 401
        assert (await http.get("/ping")).status_code == 200


# 2, 3. Create


async def test_create_answers_201_and_a_second_one_422(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    assert (await create(http, name, start=False))["status"] == "STOPPED"
    again = await http.post("/api/sessions", json={"name": name, "start": False})
    assert again.status_code == 422
    assert again.json()["statusCode"] == 422
    assert again.json()["error"] == "Unprocessable Entity"


@pytest.mark.parametrize("name", ["with blank", "a/b", "ümlaut", "x" * 55, "a.b"])
async def test_a_bad_name_is_400(target: Target, http: httpx.AsyncClient, name: str) -> None:
    response = await http.post("/api/sessions", json={"name": name, "start": False})
    assert response.status_code == 400
    assert response.json()["error"] == "Bad Request"
    assert isinstance(response.json()["message"], list)


async def test_54_characters_are_fine(sim_http: httpx.AsyncClient) -> None:
    assert (await create(sim_http, "x" * 54, start=False))["name"] == "x" * 54


async def test_create_with_start_says_starting(target: Target, http: httpx.AsyncClient) -> None:
    assert (await create(http, target.new_name()))["status"] == "STARTING"


@pytest.mark.parametrize(("setting", "status"), [("False", "STOPPED"), ("True", "STARTING")])
async def test_an_omitted_start_is_a_setting(start_container: Containers, setting: str, status: str) -> None:
    base_url = url_of(start_container(WAHA_SIM_START_WHEN_OMITTED=setting))
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False) as http:
        response = await http.post("/api/sessions", json={"name": "s"})
    assert (response.status_code, response.json()["status"]) == (201, status)


@pytest.mark.parametrize(
    "body",
    [
        {"name": 5},
        {"name": "s", "start": "yes"},
        {"name": "s", "config": []},
        {"name": "s", "config": {"metadata": 1}},
        {"name": "s", "config": {"proxy": {"username": "x"}}},
        {"name": "s", "config": {"webhooks": {}}},
        {"name": "s", "config": {"webhooks": [{"url": "http://x/"}]}},
        {"name": "s", "config": {"webhooks": [{"url": "x", "events": []}]}},
        {"name": "s", "config": {"webhooks": [{"url": "http://x/", "events": [1]}]}},
        {
            "name": "s",
            "config": {"webhooks": [{"url": "http://x/", "events": [], "retries": {"policy": "x"}}]},
        },
    ],
)
async def test_a_bad_body_is_400(sim_http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await sim_http.post("/api/sessions", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["statusCode"] == 400
    assert (await sim_http.get("/api/sessions?all=true")).json() == []


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff\xfe"])
async def test_a_body_that_is_no_object_is_400(sim_http: httpx.AsyncClient, body: bytes) -> None:
    assert (await sim_http.post("/api/sessions", content=body)).status_code == 400


# 4, 5, 6. QR


async def test_the_qr_comes_in_three_shapes(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name)
    image = await http.get(f"/api/{name}/auth/qr")
    assert image.status_code == 200
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")
    exact = await http.get(f"/api/{name}/auth/qr", headers={"Accept": "application/json"})
    assert exact.json()["mimetype"] == "image/png"
    assert base64.b64decode(exact.json()["data"]).startswith(b"\x89PNG")
    listed = await http.get(f"/api/{name}/auth/qr", headers={"Accept": "application/json, */*"})
    assert listed.headers["content-type"] == "image/png"
    raw = await http.get(f"/api/{name}/auth/qr?format=raw", headers={"Accept": "image/png"})
    assert raw.json()["value"]


async def shown_alike(http: httpx.AsyncClient) -> str:
    """The value of the code that text and image show; looked at again where it changed in between."""
    for _ in range(5):
        value = (await http.get("/api/s/auth/qr?format=raw")).json()["value"]
        image = decode((await http.get("/api/s/auth/qr")).content)
        if image == value:
            return str(value)
    raise AssertionError(f"the image shows {image}, the text {value}")


async def test_the_image_is_of_the_value_and_rotates(start_container: Containers) -> None:
    base_url = url_of(start_container(WAHA_SIM_CLOCK_SPEED="100"))
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False) as http:
        await create(http, "s")
        before = await shown_alike(http)
        await asyncio.sleep(0.7)
        after = await shown_alike(http)
        assert after != before
        old = await http.post("/sim/sessions/s/scan", json={"qr": before})
        assert old.status_code == 409
        assert "expired" in old.json()["message"]
        assert await until(http, "s", "FAILED") == "FAILED"


async def test_the_qr_of_a_stopped_session_is_422_after_5_s(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name, start=False)
    begun = time.monotonic()
    response = await http.get(f"/api/{name}/auth/qr")
    waited = time.monotonic() - begun
    assert response.status_code == 422
    body = response.json()
    assert body["session"] == name
    assert (body["status"], body["expected"]) == ("STOPPED", ["SCAN_QR_CODE"])
    assert not {"statusCode", "message"} & set(body)
    assert target.seconds(5) * 0.9 <= waited <= target.seconds(5) + 1


async def test_the_qr_of_an_unknown_session_is_422_without_status(
    target: Target, http: httpx.AsyncClient
) -> None:
    response = await http.get("/api/nobody_here/auth/qr")
    assert response.status_code == 422
    assert set(response.json()) == {"error", "session"}


async def test_the_qr_of_a_working_session_is_422_after_10_s(start_container: Containers) -> None:
    base_url = url_of(start_container())
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False) as http:
        await create(http, "s")
        await scan(http, "s")
        begun = time.monotonic()
        response = await http.get("/api/s/auth/qr")
        assert time.monotonic() - begun >= 0.18
    assert response.status_code == 422
    assert response.json()["status"] == "WORKING"


async def test_a_bad_format_is_400(sim_http: httpx.AsyncClient) -> None:
    assert (await sim_http.get("/api/s/auth/qr?format=svg")).status_code == 400


async def test_a_pairing_code_pairs(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    answer = await sim_http.post("/api/s/auth/request-code", json={"phoneNumber": "5511999990000"})
    assert answer.status_code == 201
    code = answer.json()["code"]
    assert len(code) == 9
    assert code[4] == "-"
    assert (await sim_http.post("/sim/sessions/s/pair", json={"code": "AAAA-AAAA"})).status_code == 409
    assert (await sim_http.post("/sim/sessions/s/pair", json={"code": code})).status_code == 201
    await until(sim_http, "s", "WORKING")
    me = (await sim_http.get("/api/sessions/s/me")).json()
    assert me["id"] == "5511999990000@c.us"


@pytest.mark.parametrize("body", [{}, {"phoneNumber": "+55 11"}, {"phoneNumber": 5511}])
async def test_a_bad_phone_number_is_400(sim_http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    await create(sim_http, "s")
    assert (await sim_http.post("/api/s/auth/request-code", json=body)).status_code == 400


# 7, 8. Unknown sessions


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/nobody"),
        ("PUT", "/api/sessions/nobody"),
        ("POST", "/api/sessions/nobody/start"),
        ("POST", "/api/sessions/nobody/restart"),
        ("POST", "/api/sessions/nobody/logout"),
        ("GET", "/api/sessions/nobody/me"),
    ],
)
async def test_unknown_sessions_are_404(
    target: Target, http: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await http.request(method, path, json={"config": {}} if method == "PUT" else None)
    assert response.status_code == 404
    assert response.json()["statusCode"] == 404


async def test_stop_and_delete_of_unknown_sessions_have_empty_bodies(
    target: Target, http: httpx.AsyncClient
) -> None:
    stop = await http.post("/api/sessions/nobody/stop")
    assert (stop.status_code, stop.content) == (201, b"")
    delete = await http.delete("/api/sessions/nobody")
    assert (delete.status_code, delete.content) == (200, b"")


# 9 - 12. Restart, logout, update, lists


async def test_a_failed_session_needs_a_restart(start_container: Containers) -> None:
    base_url = url_of(start_container(WAHA_SIM_CLOCK_SPEED="1000"))
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False) as http:
        await create(http, "s")
        await until(http, "s", "FAILED")
        start = await http.post("/api/sessions/s/start")
        assert (start.status_code, start.json()["status"]) == (201, "FAILED")
        assert [one["status"] for one in (await http.get("/api/sessions")).json()] == ["FAILED"]
        restart = await http.post("/api/sessions/s/restart")
        assert (restart.status_code, restart.json()["status"]) == (201, "STARTING")


async def test_restart_of_a_stopped_session_starts_it(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name, start=False)
    restart = await http.post(f"/api/sessions/{name}/restart")
    assert (restart.status_code, restart.json()["status"]) == (201, "STARTING")


async def test_lists_hide_the_stopped_unless_asked(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name, start=False)
    assert name not in [one["name"] for one in (await http.get("/api/sessions")).json()]
    everything = (await http.get("/api/sessions?all=true")).json()
    assert name in [one["name"] for one in everything]


async def test_put_replaces_the_config(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name, start=False, config={"metadata": {"a": "b"}, "debug": True})
    updated = await http.put(f"/api/sessions/{name}", json={"config": {"metadata": {"c": "d"}}})
    assert updated.status_code == 200
    config = (await http.get(f"/api/sessions/{name}")).json()["config"]
    assert config["metadata"] == {"c": "d"}
    assert not config.get("debug")


async def test_put_without_a_config_empties_it(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s", start=False, config={"debug": True})
    assert (await sim_http.put("/api/sessions/s", json={})).json()["config"] == {}


async def test_logout_wipes_and_starts_again(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    await scan(sim_http, "s")
    out = await sim_http.post("/api/sessions/s/logout")
    assert (out.status_code, out.json()["status"], out.json()["me"]) == (201, "STARTING", None)
    assert await until(sim_http, "s", "SCAN_QR_CODE", "WORKING") == "SCAN_QR_CODE"


async def test_delete_forgets(target: Target, http: httpx.AsyncClient) -> None:
    name = target.new_name()
    await create(http, name, start=False)
    delete = await http.delete(f"/api/sessions/{name}")
    assert (delete.status_code, delete.content) == (200, b"")
    assert (await http.get(f"/api/sessions/{name}")).status_code == 404


# 15, 17, 21, 23, 24. Faults


async def test_a_busy_session_is_500_and_repeats_the_request(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s", start=False)
    await sim_http.post("/sim/sessions/s/faults", json={"hang_seconds": 300})
    start = asyncio.create_task(sim_http.post("/api/sessions/s/start"))
    await asyncio.sleep(0.05)
    config = {"proxy": {"server": "x:1", "password": "hunter2"}}
    busy = await sim_http.put("/api/sessions/s", json={"config": config})
    assert busy.status_code == 500
    body = busy.json()
    assert set(body) == {"statusCode", "timestamp", "exception", "request", "version"}
    assert set(body["exception"]) == {"message", "stack", "name"}
    assert body["request"]["body"] == {"config": config}
    slow = await start
    assert slow.status_code == 500
    assert (await sim_http.get("/api/sessions/s")).json()["status"] == "SCAN_QR_CODE"


async def test_unlink_fails_and_logout_brings_a_qr(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    await scan(sim_http, "s")
    assert (await sim_http.post("/sim/sessions/s/unlink")).json()["status"] == "FAILED"
    await sim_http.post("/api/sessions/s/logout")
    assert await until(sim_http, "s", "SCAN_QR_CODE", "FAILED") == "SCAN_QR_CODE"


async def test_unlink_of_a_stopped_session_shows_at_its_next_start(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    await scan(sim_http, "s")
    await sim_http.post("/api/sessions/s/stop")
    assert (await sim_http.post("/sim/sessions/s/unlink")).status_code == 201
    await sim_http.post("/api/sessions/s/start")
    await until(sim_http, "s", "FAILED")


async def test_health_turns_503_while_all_else_works(sim_http: httpx.AsyncClient) -> None:
    await sim_http.post("/sim/health", json={"healthy": False})
    assert (await sim_http.get("/health")).status_code == 503
    assert (await sim_http.get("/health")).json()["status"] == "error"
    assert (await sim_http.get("/ping")).status_code == 200


async def test_passkeys_belong_to_gows(start_container: Containers) -> None:
    base_url = url_of(start_container(WHATSAPP_DEFAULT_ENGINE="NOWEB"))
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False) as http:
        await create(http, "s", start=False)
        assert (await http.get("/api/s/auth/passkey/challenge")).status_code == 501


@pytest.mark.parametrize(
    ("control", "body", "status"),
    [
        ("scan", {"qr": "2@x"}, 409),
        ("scan", {}, 409),
        ("unlink", {}, 409),
        ("drop", {}, 409),
        ("activity", {}, 409),
        ("nonsense", {}, 409),
    ],
)
async def test_a_phone_that_cannot_says_so_in_one_sentence(
    sim_http: httpx.AsyncClient, control: str, body: dict[str, Any], status: int
) -> None:
    await create(sim_http, "s", start=False)
    response = await sim_http.post(f"/sim/sessions/s/{control}", json=body)
    assert response.status_code == status
    assert "\n" not in response.json()["message"]


async def test_controls_of_unknown_sessions_and_names_are_404(sim_http: httpx.AsyncClient) -> None:
    assert (await sim_http.post("/sim/sessions/nobody/scan", json={"qr": "x"})).status_code == 404
    await create(sim_http, "s")
    assert (await sim_http.post("/sim/sessions/s/nonsense", json={})).status_code == 404
    assert (await sim_http.get("/sim/sessions/s/scan")).status_code == 404


# HTTP itself


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET relative HTTP/1.1\r\n\r\n", 400),
        (b"POST /api/sessions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /api/sessions HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /api/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /ping HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /%zz%ff%2 HTTP/1.0\r\n\r\n", 404),
    ],
)
async def test_odd_requests_get_an_answer(start_container: Containers, raw: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection(*start_container().address)
    writer.write(raw)
    await writer.drain()
    line = await asyncio.wait_for(reader.readline(), 5)
    assert line.split()[1] == str(status).encode()
    assert await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()


async def test_a_pipeline_is_answered_in_order(start_container: Containers) -> None:
    reader, writer = await asyncio.open_connection(*start_container().address)
    request = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    other = b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n"
    writer.write(request * 3 + other)
    everything = await asyncio.wait_for(reader.read(), 5)
    assert [answer[:3] for answer in everything.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"200", b"404"]
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_a_long_poll_harms_nobody(start_container: Containers) -> None:
    container = start_container()
    async with httpx.AsyncClient(
        base_url=url_of(container), headers={"X-Api-Key": KEY}, trust_env=False
    ) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/api/nobody/auth/qr", timeout=0.02)
        await asyncio.sleep(0.15)
        assert (await http.get("/ping")).status_code == 200
