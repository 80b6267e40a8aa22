"""What goes wrong in a container when it is told to, over HTTP; the simulator alone can show it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from .conftest import KEY, SPEED, Containers, create, eventually, scan, until, url_of

SECRET = {"server": "proxy:1", "password": "hunter2"}


def client(container: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url_of(container), headers={"X-Api-Key": KEY}, trust_env=False, timeout=60
    )


async def tell(http: httpx.AsyncClient, control: str, **body: Any) -> Any:
    response = await http.post(f"/sim/{control}", json=body)
    assert response.status_code == 201, response.text
    return response.json()


@pytest.mark.parametrize(("after", "exists"), [(False, 404), (True, 200)])
async def test_a_call_that_fails_repeats_the_request(
    sim_http: httpx.AsyncClient, after: bool, exists: int
) -> None:
    await tell(sim_http, "errors", count=1, method="POST", path="/api/sessions", after=after)
    body = {"name": "s", "start": True, "config": {"proxy": SECRET}}
    failed = await sim_http.post("/api/sessions", json=body)
    assert failed.status_code == 500
    said = failed.json()
    assert said["request"] == {"path": "/api/sessions", "method": "POST", "body": body, "query": {}}
    assert set(said) == {"statusCode", "timestamp", "exception", "request", "version"}
    assert said["exception"]["stack"]
    assert (await sim_http.get("/api/sessions/s")).status_code == exists
    again = await sim_http.post("/api/sessions", json=body)
    assert again.status_code == (422 if after else 201)


async def test_only_the_calls_that_were_named_fail(sim_http: httpx.AsyncClient) -> None:
    await tell(sim_http, "errors", count=2, method="DELETE", path="/api/sessions/s")
    await create(sim_http, "s")
    assert (await sim_http.delete("/api/sessions/s", headers={"X-Api-Key": "wrong"})).status_code == 401
    codes = [(await sim_http.delete("/api/sessions/s")).status_code for _ in range(3)]
    assert codes == [500, 500, 200]


async def test_an_engine_that_does_not_start(sim_http: httpx.AsyncClient) -> None:
    await tell(sim_http, "faults", start_error=True)
    failed = await sim_http.post("/api/sessions", json={"name": "s", "start": True})
    assert (failed.status_code, failed.json()["exception"]["name"]) == (500, "EngineError")
    assert (await sim_http.get("/api/sessions/s")).json()["status"] == "FAILED"
    assert (await sim_http.post("/api/sessions", json={"name": "s", "start": True})).status_code == 422
    await tell(sim_http, "faults")
    assert (await sim_http.post("/api/sessions/s/restart")).status_code == 201
    await until(sim_http, "s", "SCAN_QR_CODE")


async def test_a_call_past_30_s_is_500_and_done_all_the_same(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    await scan(sim_http, "s")
    await tell(sim_http, "sessions/s/faults", stop_seconds=45)
    begun = time.monotonic()
    assert (await sim_http.post("/api/sessions/s/stop")).status_code == 500
    took = (time.monotonic() - begun) * SPEED
    assert 30 <= took < 45
    assert (await sim_http.get("/api/sessions/s")).json()["status"] == "WORKING"
    await until(sim_http, "s", "STOPPED")


async def test_a_deaf_session_hears_no_message(sim_http: httpx.AsyncClient) -> None:
    await create(sim_http, "s")
    refused = await sim_http.post("/sim/sessions/s/deafen", json={})
    assert refused.status_code == 409
    await scan(sim_http, "s")
    await tell(sim_http, "sessions/s/deafen")
    before = (await sim_http.get("/api/sessions/s")).json()
    assert (await sim_http.post("/sim/sessions/s/activity", json={})).status_code == 409
    after = (await sim_http.get("/api/sessions/s")).json()
    assert (after["status"], after["timestamps"]) == ("WORKING", before["timestamps"])
    await sim_http.post("/api/sessions/s/restart")
    await until(sim_http, "s", "WORKING")
    await tell(sim_http, "sessions/s/activity")


async def test_kept_faults_meet_the_next_container(start_container: Containers) -> None:
    first = start_container()
    async with client(first) as http:
        await create(http, "s")
        await scan(http, "s")
        await tell(http, "sessions/s/faults", stuck_starting=True, keep=True)
    first.kill()
    assert first.wait(10) == 137
    async with client(start_container()) as http:
        await until(http, "s", "STARTING")
        await asyncio.sleep(20 / SPEED)
        assert (await http.get("/api/sessions/s")).json()["status"] == "STARTING"
        await tell(http, "sessions/s/faults")
        assert (await http.post("/api/sessions/s/restart")).status_code == 201
        await until(http, "s", "WORKING")


@pytest.mark.parametrize("engine", ["NOWEB", "GOWS"])
async def test_two_containers_on_one_store_fight_for_the_session(
    start_container: Containers, engine: str
) -> None:
    env = {"WHATSAPP_DEFAULT_ENGINE": engine, "WAHA_WORKER_RESTART_SESSIONS": "False"}
    async with client(start_container(**env)) as older, client(start_container(**env)) as newer:
        await create(older, "s")
        await scan(older, "s")
        assert (await newer.post("/api/sessions/s/start")).status_code == 201
        await until(newer, "s", "WORKING")

        if engine == "NOWEB":
            for _ in range(3):
                await until(older, "s", "STARTING")
                await until(newer, "s", "STARTING")
        else:

            async def deaf() -> bool:
                return (await older.post("/sim/sessions/s/activity", json={})).status_code == 409

            await eventually(deaf)
            assert (await older.get("/api/sessions/s")).json()["status"] == "WORKING"
            await tell(newer, "sessions/s/activity")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("errors", {}),
        ("errors", {"count": "3"}),
        ("errors", {"count": True}),
        ("webhooks", {"count": 1, "what": "burn"}),
        ("webhooks", {"what": "drop"}),
        ("faults", {"stop_seconds": -1}),
    ],
)
async def test_a_control_that_makes_no_sense_is_400(
    sim_http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await sim_http.post(f"/sim/{path}", json=body)
    assert response.status_code == 400
    assert response.json()["message"]
