"""Looks into containers through the API, with a daemon's half played by the test; and restart by request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
import uvicorn

from api.look_ins import NO_SAMPLE, NOT_RUNNING, OLD_LOG
from core.domain.log_lines import Position
from core.domain.look_ins import What, lease_key
from core.store.interface import Lease
from core.store.look_ins import PostgresLookIns
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running

OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


class Sampler:
    """What the daemon that samples writes."""

    def __init__(self, running: Running, person: Person) -> None:
        self.store = PostgresLookIns(running.engine)
        self.daemon = running.daemon
        self.user_id = person.id
        self.last_line = 0

    async def stats(self, cpu: float, memory_mb: float, allocation: str | None = None) -> None:
        lease = await self._lease()
        where = allocation or self.daemon.allocation
        await self.store.write_stats(lease, self.user_id, where, cpu, int(memory_mb * 1024 * 1024))

    async def log(self, *lines: str) -> None:
        self.last_line = len(lines)
        at = {"stdout": Position(0, 1)}
        await self.store.write_log(
            await self._lease(), self.user_id, self.daemon.allocation, "waha_plus", lines, len(lines), at
        )

    async def asked(self, what: What) -> None:
        """Wait until somebody looks."""
        async with asyncio.timeout(10):
            while True:
                look = await self.store.look(self.user_id)
                if look is not None and what in look.watched:
                    return
                await asyncio.sleep(0.02)

    async def _lease(self) -> Lease:
        lease = await self.daemon.store.claim(lease_key(self.user_id), "test", 60)
        assert isinstance(lease, Lease)
        return lease


async def operator(running: Running, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    return await running.client.request(method, f"/api/v1{path}", headers=OPERATOR, **more)


@pytest.fixture
async def person(running: Running) -> Person:
    """A user whose container runs."""
    made = await running.person()
    await made.chip()
    await running.daemon.saw(made.id)
    return made


async def test_a_first_look_waits_for_its_sample(running: Running, person: Person) -> None:
    sampler = Sampler(running, person)
    asking = asyncio.create_task(operator(running, f"/containers/{person.id}/stats"))
    await sampler.asked(What.STATS)
    assert not asking.done()
    began = time.monotonic()
    await sampler.stats(12.345, 512)
    answer = await asking
    assert time.monotonic() - began < 0.5
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("sampled_at") is not None
    assert body == {
        "user_id": person.id,
        "cpu_percent": 12.35,
        "memory_usage_mb": 512.0,
        "memory_limit_mb": 2048,
        "memory_percent": 25.0,
        "network_rx_bytes": None,
        "network_tx_bytes": None,
        "reason": None,
        "message": None,
    }


async def test_without_a_sample_the_figures_are_null_and_a_sentence_says_why(
    running: Running, person: Person
) -> None:
    began = time.monotonic()
    body = (await operator(running, f"/containers/{person.email}/stats")).json()
    assert 2.9 <= time.monotonic() - began < 5
    assert (body["cpu_percent"], body["memory_usage_mb"], body["sampled_at"]) == (None, None, None)
    assert (body["memory_limit_mb"], body["message"]) == (2048, NO_SAMPLE)
    # One of what ran before says nothing about what runs now.
    await Sampler(running, person).stats(1, 2, allocation="00000000-0000-4000-8000-000000000001")
    body = (await operator(running, f"/containers/{person.id}/stats")).json()
    assert (body["cpu_percent"], body["message"]) == (None, NO_SAMPLE)


async def test_what_does_not_run_is_not_waited_for(running: Running) -> None:
    person = await running.person()
    await person.chip()
    began = time.monotonic()
    body = (await operator(running, f"/containers/{person.id}/stats")).json()
    assert (body["cpu_percent"], body["message"]) == (None, NOT_RUNNING)
    await running.daemon.saw(person.id, phase="waiting", reason="no_memory", port=None)
    body = (await operator(running, f"/containers/{person.id}/stats")).json()
    assert body["reason"] == "no_memory"
    assert "memória" in body["message"]
    assert time.monotonic() - began < 2


async def test_the_newest_lines_of_the_log(running: Running, person: Person) -> None:
    sampler = Sampler(running, person)
    asking = asyncio.create_task(operator(running, f"/containers/{person.id}/logs?lines=2"))
    await sampler.asked(What.LOGS)
    await sampler.log("um", "dois", "três")
    body = (await asking).json()
    assert (body["lines"], body["last_line"], body["message"]) == (["dois", "três"], 3, None)
    assert body["read_at"] is not None
    await running.sql("UPDATE container_logs SET read_at = read_at - interval '60 s'")
    old = (await operator(running, f"/containers/{person.id}/logs")).json()
    assert (old["lines"], old["message"]) == (["um", "dois", "três"], OLD_LOG)


async def test_a_log_of_nothing_says_why(running: Running) -> None:
    person = await running.person()
    await person.chip()
    body = (await operator(running, f"/containers/{person.id}/logs")).json()
    assert (body["lines"], body["last_line"], body["read_at"]) == ([], 0, None)
    assert body["message"] == NOT_RUNNING


@pytest.mark.parametrize(
    ("query", "field"),
    [("lines=0", "lines"), ("lines=2001", "lines"), ("lines=x", "lines"), ("follow=maybe", "follow")],
)
async def test_what_cannot_be_asked_is_refused(
    running: Running, person: Person, query: str, field: str
) -> None:
    answer = await operator(running, f"/containers/{person.id}/logs?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


PATHS = (("GET", "stats"), ("GET", "logs"), ("POST", "restart"))


@pytest.mark.parametrize(("method", "verb"), PATHS)
async def test_looks_are_for_operators_and_into_what_exists(
    running: Running, person: Person, method: str, verb: str
) -> None:
    path = f"/containers/{person.id}/{verb}"
    assert (await person._send(method, path)).status_code == 403
    assert (await running.client.request(method, f"/api/v1{path}")).status_code == 401
    for unknown in ("00000000-0000-4000-8000-000000000001", "x", "nobody@example.com"):
        answer = await operator(running, f"/containers/{unknown}/{verb}", method)
        assert (answer.status_code, answer.json()["code"]) == (404, "container_not_found")
    other = await running.person()
    assert (await operator(running, f"/containers/{other.id}/{verb}", method)).status_code == 404


@asynccontextmanager
async def listening(running: Running) -> AsyncIterator[str]:
    """The application behind a socket: a stream has no end that a transport in this process would wait for."""
    config = uvicorn.Config(cast(Any, running.app), port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        (socket,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


async def test_a_log_is_followed_line_by_line_from_where_one_was(running: Running, person: Person) -> None:
    sampler = Sampler(running, person)
    await sampler.log("um", "dois", "três")
    got: list[str] = []

    async def follow(url: str, query: str, wanted: int, **headers: str) -> list[str]:
        path = f"{url}/api/v1/containers/{person.id}/logs?follow=true&{query}"
        async with (
            httpx.AsyncClient(trust_env=False) as client,
            client.stream("GET", path, headers=OPERATOR | headers, timeout=20) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith(("id: ", "data: ")):
                    got.append(line)
                if len(got) >= wanted:
                    return list(got)
        raise AssertionError(f"it ended after {got}")

    async with listening(running) as url:
        following = asyncio.create_task(follow(url, "lines=1", 4))
        while len(got) < 2:
            assert not following.done()
            await asyncio.sleep(0.02)
        assert got == ["id: 3", "data: três"]
        look = await sampler.store.look(person.id)
        assert look is not None
        assert What.LOGS in look.watched
        began = time.monotonic()
        await sampler.log("um", "dois", "três", "quatro")
        assert await following == ["id: 3", "data: três", "id: 4", "data: quatro"]
        assert time.monotonic() - began < 1.5
        got.clear()
        again = await follow(url, "lines=1", 6, **{"Last-Event-ID": "1"})
        assert again[::2] == ["id: 2", "id: 3", "id: 4"]


async def test_one_s_own_container_without_its_host(running: Running, person: Person) -> None:
    answer = await person.get("/me/container")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["container_name"], body["phase"], body["chips"]) == (
        f"waha_plus_user_{person.id}",
        "ready",
        1,
    )
    assert body.keys().isdisjoint({"node", "address", "base_url", "job", "epoch", "container_id"})
    assert (await running.client.get("/api/v1/me/container")).status_code == 401
    assert (await operator(running, "/me/container")).status_code == 403
    other = await running.person()
    assert (await other.get("/me/container")).status_code == 404


@pytest.mark.parametrize("own", [True, False], ids=["own", "operator"])
async def test_a_restart_is_accepted_as_a_wish(running: Running, person: Person, own: bool) -> None:
    async def press() -> httpx.Response:
        if own:
            return await person.post("/me/container/restart")
        return await operator(running, f"/containers/{person.id}/restart", "POST")

    before = await running.daemon.store.load(person.id)
    assert before is not None
    answer = await press()
    assert answer.status_code == 202
    assert (answer.json()["user_id"], answer.json()["status"]) == (person.id, "restarting")
    after = await running.daemon.store.load(person.id)
    assert after is not None
    row = after.container
    assert row.generation > before.container.generation
    assert (row.restart_generation, row.restart_allocation) == (row.generation, running.daemon.allocation)
    assert (await press()).status_code == 202
    again = await running.daemon.store.load(person.id)
    assert again is not None
    assert again.container.restart_generation == row.restart_generation, "the first is not answered yet"


async def test_what_is_not_placed_cannot_be_restarted(running: Running) -> None:
    person = await running.person()
    await person.chip()
    answer = await person.post("/me/container/restart")
    assert (answer.status_code, answer.json()["code"]) == (409, "container_not_placed")
    nobody = await running.person()
    assert (await nobody.post("/me/container/restart")).status_code == 404


async def test_a_stream_renews_its_mark_and_ends_with_the_container(
    running: Running, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api import look_ins

    monkeypatch.setattr(look_ins, "_RENEW_S", 0.1)
    monkeypatch.setattr(look_ins, "_POLL_S", 0.05)
    services = running.app.state.services
    stream = look_ins.followed(services, person.id, 10, None)
    seen = [await anext(stream), await anext(stream)]
    assert [event.comment for event in seen] == ["ok", "ok"]
    lease = await running.daemon.store.claim(person.id, "test", 60)
    assert isinstance(lease, Lease)
    await running.sql("DELETE FROM chips")
    assert await running.daemon.store.remove_container(lease)
    with contextlib.suppress(StopAsyncIteration):
        async with asyncio.timeout(5):
            while True:
                await anext(stream)
