"""The fleet for operators: figures, pause, plan and its live stream, against the running application."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from api import fleet_watch
from core.domain.actions import ChipStatus
from core.domain.host_use import HostUse
from core.store.interface import Lease
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running, Start
from tests.integration.api.fleet import QR, WORKING
from tests.polling import eventually


def operator(running: Running) -> Person:
    return Person("", "", OPERATOR_TOKEN, running.client)


async def fleet(running: Running) -> dict[str, Any]:
    answer = await operator(running).get("/fleet")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


# GET /fleet


async def test_an_empty_fleet(running: Running) -> None:
    body = await fleet(running)
    assert (body["users"], body["containers"], body["chips"], body["hosts"]) == (0, {}, {}, [])
    assert body["queue"]["oldest_wait_s"] is None
    assert body["control"] == {"paused": False, "since": None, "by": None, "reason": None}
    assert (body["rollout"], body["swept_at"]) == (None, None)


async def test_the_fleet_in_figures(running: Running) -> None:
    placed, waiting, fresh = [await running.person() for _ in range(3)]
    one, two = (await placed.chip("numero um"))["id"], (await placed.chip("numero dois"))["id"]
    await waiting.chip()
    await fresh.chip()
    await running.daemon.saw(placed.id, port=3101, chips={one: WORKING, two: QR})
    await running.daemon.saw(waiting.id, phase="waiting", reason="no_port", port=None)
    lease = await running.daemon.store.claim("fleet", "test", 60)
    assert isinstance(lease, Lease)
    uses = [
        HostUse("host-1", str(uuid.uuid4()), "127.0.0.1", 7, 7, 2100),
        HostUse("host-2", str(uuid.uuid4()), None, 1, 0, None),
    ]
    await running.daemon.store.record_hosts(lease, uses)
    await running.daemon.store.announce_release("rel-1")
    body = await fleet(running)
    assert body["containers"] == {"absent": 1, "ready": 1, "waiting": 1}
    assert body["reasons"] == {"no_port": 1}
    assert body["chips"] == {"CONNECTED": 1, "WAITING_QR": 3}
    assert body["queue"]["users_unseen"] == 1
    assert body["queue"]["capacity_waiting"] == 1
    first, second = body["hosts"]
    assert (first["name"], first["containers"], first["chips"], first["chips_connected"]) == (
        "host-1",
        7,
        2,
        1,
    )
    assert (first["capacity"], first["ports_used"], first["ports_free"], first["memory_mb"]) == (
        100,
        7,
        93,
        2100,
    )
    assert (second["name"], second["ports_free"], second["memory_mb"]) == ("host-2", 100, None)
    assert (body["capacity"], body["free"]) == (200, 193)
    assert first["observed_at"] == second["observed_at"] == body["swept_at"]
    assert body["rollout"]["release"] == "rel-1"
    assert (body["rollout"]["state"], body["rollout"]["waiting"]) == ("running", 0)
    assert body["oldest_look_at"] is not None


async def test_a_host_that_no_sweep_has_seen_yet_is_the_stores_word(running: Running) -> None:
    person = await running.person()
    await person.chip()
    await running.daemon.saw(person.id, port=3101)
    host = (await fleet(running))["hosts"][0]
    assert (host["name"], host["containers"], host["ports_used"], host["observed_at"]) == (
        "host-1",
        1,
        1,
        None,
    )


async def test_the_line_for_start_tokens(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.sql(
        "INSERT INTO start_queue (chip_id, user_id, host, start_order, waiting_since, asked_at, expires_at) "
        "VALUES (:chip, :user, 'host-1', 0, clock_timestamp() - interval '30 s', clock_timestamp(), "
        "clock_timestamp() + interval '30 s')",
        chip=chip["id"],
        user=person.id,
    )
    queue = (await fleet(running))["queue"]
    assert queue["chips_waiting"] == 1
    assert 29 < queue["oldest_wait_s"] < 60


# Pause and resume


async def test_pause_and_resume_are_written_down_once(running: Running) -> None:
    boss = operator(running)
    paused = await boss.post("/fleet/pause", json={"reason": " troca de switch "})
    assert paused.status_code == 200, paused.text
    body = paused.json()
    assert (body["paused"], body["by"], body["reason"]) == (True, "operator_token", "troca de switch")
    again = await boss.post("/fleet/pause", json={"reason": "outra"})
    assert (again.status_code, again.json()) == (200, body)
    assert (await fleet(running))["control"] == body
    assert await running.daemon.store.is_fleet_paused()
    resumed = (await boss.post("/fleet/resume")).json()
    assert (resumed["paused"], resumed["reason"]) == (False, None)
    assert resumed["since"] > body["since"]
    assert (await boss.post("/fleet/resume", headers={"Content-Type": "application/json"})).json() == resumed
    rows = await running.sql("SELECT action, actor_kind, detail FROM audit_log ORDER BY id")
    assert [(row.action, row.actor_kind, row.detail) for row in rows if row.action.startswith("fleet.")] == [
        ("fleet.pause", "operator", {"reason": "troca de switch"}),
        ("fleet.resume", "operator", {}),
    ]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"reason": 7}', 422),
        (b'{"why": "x"}', 422),
        (b"{", 400),
        (b"[]", 422),
        (b'{"reason": "' + b"a" * 201 + b'"}', 422),
    ],
)
async def test_a_reason_that_is_none(running: Running, verb: str, body: bytes, status: int) -> None:
    answer = await operator(running).post(
        f"/fleet/{verb}", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert not (await fleet(running))["control"]["paused"]


async def test_a_chip_that_is_created_in_a_pause_says_so_at_once(running: Running) -> None:
    await operator(running).post("/fleet/pause")
    person = await running.person()
    creating = asyncio.create_task(person.chip(prefer="wait=20"))
    await eventually(lambda: running.sql("SELECT 1 FROM containers"))
    # What a daemon tells of it; tests/unit/daemon/test_fleet_pause.py has the daemon itself.
    chip = (await running.sql("SELECT id::text FROM chips"))[0].id
    held = ChipStatus(phase="queued", status="WAITING_QR", reason="paused")
    await running.daemon.saw(person.id, phase="waiting", reason="paused", port=None, chips={chip: held})
    body = await asyncio.wait_for(creating, 10)
    assert (body["status"], body["extra_data"]["reason"]) == ("WAITING_QR", "paused")
    assert body["extra_data"]["reason_text"].startswith("Em manutenção")


# GET /fleet/plan


async def test_the_plan_of_new_users_in_pages(running: Running) -> None:
    people = [await running.person() for _ in range(3)]
    for person in people:
        await person.chip()
    ids = sorted(person.id for person in people)
    seen: list[str] = []
    url = "/fleet/plan?limit=2"
    while url:
        answer = await operator(running).get(url)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["paused"], body["acting"]) == (False, 0)
        for item in body["items"]:
            assert (item["chip_id"], item["not_before"], item["observed_at"]) == (None, None, None)
        assert [item["action"] for item in body["items"]] == ["WriteVariables", "RegisterJob"] * (
            len(body["items"]) // 2
        )
        seen += [item["user_id"] for item in body["items"][::2]]
        link = answer.headers.get("link")
        url = link[1 : link.index(">")].removeprefix("/api/v1") if link else ""
    assert seen == ids
    await operator(running).post("/fleet/pause")
    body = (await operator(running).get("/fleet/plan")).json()
    assert body["paused"]
    assert {item["reason"] for item in body["items"]} == {"paused"}


async def test_nothing_is_said_of_whom_nothing_is_known(running: Running) -> None:
    person = await running.person()
    await person.chip()
    await running.daemon.saw(person.id)  # of an older daemon: it keeps no look
    body = (await operator(running).get("/fleet/plan")).json()
    assert (body["items"], body["acting"]) == ([], 1)


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=a", "limit"), ("cursor=a", "cursor")]
)
async def test_a_plan_that_is_asked_for_wrongly(running: Running, query: str, field: str) -> None:
    answer = await operator(running).get(f"/fleet/plan?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


# Who may


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("GET", "/plan"), ("POST", "/pause"), ("POST", "/resume")],
)
async def test_users_see_nothing_of_the_fleet(running: Running, method: str, path: str) -> None:
    person = await running.person()
    url = f"/api/v1/fleet{path}"
    refused = await running.client.request(method, url, headers=person.headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "operator_required")
    nobody = await running.client.request(method, url)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "token_missing")
    assert not await running.daemon.store.is_fleet_paused()


# GET /fleet/events


@asynccontextmanager
async def watching(running: Running, **headers: str) -> AsyncIterator[asyncio.Queue[tuple[str, Any]]]:
    """An open stream, spoken to as a server would; its messages as they come."""
    heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    leaving = asyncio.Event()
    text = ""

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal text
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
            assert (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"] or any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            )
            return
        text += message.get("body", b"").decode()
        while "\n\n" in text:
            one, text = text.split("\n\n", 1)
            lines = dict(
                line.split(": ", 1) for line in one.splitlines() if ": " in line and not line.startswith(":")
            )
            if "event" in lines:
                heard.put_nowait((lines["event"], json.loads(lines["data"])))

    asked: list[bool] = []
    given = {"authorization": f"Bearer {OPERATOR_TOKEN}", "host": "wahafleet.test", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/api/v1/fleet/events", "raw_path": b"/api/v1/fleet/events", "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("wahafleet.test", 80),
    }  # fmt: skip
    app: Any = cast(Any, running.app)
    task = asyncio.create_task(app(scope, receive, send))
    try:
        yield heard
    finally:
        leaving.set()
        await asyncio.wait_for(task, 10)


async def next_of(heard: asyncio.Queue[tuple[str, Any]], event: str, timeout_s: float = 15) -> Any:
    others: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                name, data = await heard.get()
                if name == event:
                    return data
                others.append(name)
    except TimeoutError as error:
        raise TimeoutError(f"no {event} within {timeout_s:g} s, but {others}") from error


async def test_the_stream_begins_with_the_fleet_and_tells_of_whose_rows_changed(running: Running) -> None:
    person = await running.person()
    chip = (await person.chip())["id"]
    async with watching(running, **{"last-event-id": "whatever"}) as heard:
        first, data = await asyncio.wait_for(heard.get(), 10)
        assert (first, data["users"]) == ("fleet", 1)
        await running.daemon.saw(person.id, port=3107, chips={chip: WORKING})
        container = await next_of(heard, "container")
        assert (container["user_id"], container["port"], container["phase"]) == (person.id, 3107, "ready")
        told = await next_of(heard, "chip")
        assert (told["id"], told["user_id"], told["status"], told["phase"]) == (
            chip,
            person.id,
            "CONNECTED",
            "connected",
        )
        assert (await next_of(heard, "fleet"))["chips"] == {"CONNECTED": 1}
        await operator(running).delete(f"/containers/{person.id}")
        assert await next_of(heard, "container") == {"user_id": person.id, "gone": True}


async def test_what_is_the_same_is_not_told_again(running: Running) -> None:
    person = await running.person()
    chip = (await person.chip())["id"]
    async with watching(running) as heard:
        await next_of(heard, "fleet")
        for status in (QR, WORKING, QR, WORKING):
            await running.daemon.saw(person.id, port=3107, chips={chip: status})
        await asyncio.sleep(1.5)
        before = [heard.get_nowait() for _ in range(heard.qsize())]
        assert (
            1 <= len([one for one in before if one[0] == "container"]) <= 2
        )  # its changes of a moment are one
        assert [data["status"] for name, data in before if name == "chip"][-1] == "CONNECTED"
        await running.sql("SELECT pg_notify('observed', :user)", user=person.id)
        await asyncio.sleep(1.0)
        after = [heard.get_nowait() for _ in range(heard.qsize())]
        assert [one for one in after if one[0] in ("container", "chip")] == []


async def test_figures_that_changed_are_told_when_their_time_has_come(running: Running) -> None:
    loop = asyncio.get_running_loop()
    async with watching(running) as heard:
        await next_of(heard, "fleet")
        began = loop.time()
        # Just before figures may be told again, and nothing happens after it.
        await asyncio.sleep(fleet_watch._FLEET_EVERY_S - 0.5)
        running.app.state.services.fleet.announce_fleet()
        await next_of(heard, "fleet")
        assert loop.time() - began < 1.8 * fleet_watch._FLEET_EVERY_S


async def test_a_browser_reads_lower_case(running: Running) -> None:
    person = await running.person()
    chip = (await person.chip())["id"]
    async with watching(running, **{"sec-fetch-mode": "cors"}) as heard:
        await next_of(heard, "fleet")
        await running.daemon.saw(person.id, chips={chip: WORKING})
        assert (await next_of(heard, "chip"))["status"] == "connected"


async def test_over_two_replicas(start: Start) -> None:
    async with start() as one, start() as two:
        person = await one.person()
        await person.chip()
        async with watching(two) as heard:
            await next_of(heard, "fleet")
            await operator(one).post("/fleet/pause")
            # What was still on its way of the person's own chip may be told before.
            assert (await next_of(heard, "fleet"))["control"]["paused"]
            other = await one.person()
            answer = await operator(one).put(f"/containers/{other.id}")
            assert answer.status_code == 201, answer.text
            while (await next_of(heard, "container"))["user_id"] != other.id:
                pass


async def test_when_too_much_changes_at_once_the_client_lists_again(running: Running) -> None:
    async with watching(running) as heard:
        await next_of(heard, "fleet")
        hub = running.app.state.services.fleet
        for _ in range(1500):
            hub.announce(str(uuid.uuid4()))
        assert "containers" in (await next_of(heard, "relist"))["detail"]
