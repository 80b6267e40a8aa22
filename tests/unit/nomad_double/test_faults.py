"""Trouble on demand, and the journal that tests judge from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.nomad_double import Delays, DoubleSettings, NullServiceRegistrar, running_nomad_double
from sandbox.nomad_double.events import DROPPED
from tests.unit.nomad_double.conftest import World, make_job


async def fault(world: World, **body: Any) -> dict[str, Any]:
    reply = await world.http.put("/v1/double/faults", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def test_a_refusal_hits_the_calls_it_is_aimed_at(world: World) -> None:
    await fault(world, kind="refuse", path="/v1/job/*/evaluate", method="PUT", job="app", skip=1, count=2)
    await world.register(make_job())
    await world.register(make_job("other"))
    codes = []
    for job_id in ("app", "other", "app", "app", "app"):
        reply = await world.http.put(f"/v1/job/{job_id}/evaluate", json={"JobID": job_id})
        codes.append(reply.status_code)
        if reply.status_code == 500:
            assert reply.text == "No cluster leader"
    assert codes == [200, 200, 500, 500, 200]
    [listed] = await world.get("/v1/double/faults")
    assert (listed["seen"], listed["hits"]) == (4, 2)


async def test_too_many_requests(world: World) -> None:
    found = await fault(world, kind="refuse", path="/v1/jobs", status=429, text="too many requests")
    assert (await world.http.get("/v1/jobs")).status_code == 429
    assert (await world.http.delete(f"/v1/double/fault/{found['id']}")).status_code == 200
    assert (await world.http.get("/v1/jobs")).status_code == 200
    assert (await world.http.delete(f"/v1/double/fault/{found['id']}")).status_code == 404


async def test_a_cut_connection_leaves_the_write_undone(world: World) -> None:
    await fault(world, kind="cut", path="/v1/jobs", method="PUT", count=1)
    with pytest.raises(ConnectionResetError):
        await world.http.put("/v1/jobs", json={"Job": make_job()})
    assert await world.get("/v1/jobs") == []
    await world.register(make_job())


async def test_a_lost_reply_leaves_the_write_done(world: World) -> None:
    await fault(world, kind="lose-reply", path="/v1/jobs", method="PUT", count=1)
    with pytest.raises(ConnectionResetError):
        await world.http.put("/v1/jobs", json={"Job": make_job()})
    assert [job["ID"] for job in await world.get("/v1/jobs")] == ["app"]
    [entry] = await world.get("/v1/double/journal", kind="register", job="app")
    assert entry["Changed"] is True


async def test_a_slow_answer_comes_late(world: World) -> None:
    await fault(world, kind="slow", path="/v1/nodes", seconds=7, count=1)
    waiting = asyncio.ensure_future(world.http.get("/v1/nodes"))
    await world.settle()
    await world.clock.advance(6)
    assert not waiting.done()
    await world.clock.advance(1)
    assert (await waiting).status_code == 200


async def test_stale_reads_show_the_state_of_the_moment_the_fault_was_set(world: World) -> None:
    await world.register(make_job())
    await fault(world, kind="stale", path="/v1/job*", count=3)
    await world.register(make_job("later"))
    await world.http.delete("/v1/job/app", params={"purge": "true"})
    assert [job["ID"] for job in await world.get("/v1/jobs")] == ["app"]
    assert (await world.get("/v1/job/app"))["Stop"] is False
    assert (await world.http.get("/v1/job/later")).status_code == 404
    assert [job["ID"] for job in await world.get("/v1/jobs")] == ["later"]


async def test_an_index_rollback(world: World) -> None:
    await world.register(make_job())
    before = int((await world.http.get("/v1/jobs")).headers["X-Nomad-Index"])
    await world.http.put("/v1/double/restore", params={"index": 2})
    after = int((await world.http.get("/v1/jobs")).headers["X-Nomad-Index"])
    assert after == 2 < before
    assert [job["ID"] for job in await world.get("/v1/jobs")] == ["app"]


async def test_enforce_index_can_be_turned_atomic_while_it_runs(world: World) -> None:
    assert (await world.get("/v1/double/cas")) == {"atomic": False}
    await world.http.put("/v1/double/cas", params={"atomic": "true"})
    assert world.double.server.atomic_cas is True


async def test_the_log_names_each_accepted_register_with_its_spec_and_indexes(world: World) -> None:
    first = await world.register(make_job())
    again = await world.register(make_job())
    changed = await world.register(make_job(memory_mb=200))
    refused = await world.http.put("/v1/jobs", json={"Job": {"ID": "bad"}})
    assert refused.status_code == 500
    log = [entry for entry in await world.get("/v1/double/log") if entry["Path"] == "/v1/jobs"]
    assert len(log) == 3
    hashes = [entry["SpecHash"] for entry in log]
    assert hashes[0] == hashes[1] != hashes[2]
    indexes = [(entry["JobModifyIndexBefore"], entry["JobModifyIndex"]) for entry in log]
    one, two = first["JobModifyIndex"], changed["JobModifyIndex"]
    assert indexes == [(0, one), (one, one), (one, two)]
    entries = await world.get("/v1/double/journal", kind="register", job="app")
    assert [entry["Changed"] for entry in entries] == [True, False, True]
    assert [entry["EvalID"] for entry in entries] == [first["EvalID"], again["EvalID"], changed["EvalID"]]


async def test_the_journal_tells_what_became_of_an_allocation_and_of_its_process(world: World) -> None:
    await world.register(make_job())
    alloc = await world.last_alloc("app")
    await world.http.delete("/v1/job/app")
    await world.settle()
    seen = [entry for entry in await world.get("/v1/double/journal", job="app") if entry.get("AllocID")]
    assert {entry["AllocID"] for entry in seen} == {alloc["ID"]}
    told = [
        (entry["Kind"], entry.get("DesiredStatus"), entry.get("ClientStatus"), entry["Runs"])
        for entry in seen
    ]
    assert told == [
        ("allocation", "run", "pending", False),
        ("process", None, None, True),
        ("allocation", "run", "running", True),
        ("allocation", "stop", "running", True),
        ("process", None, None, False),
        ("allocation", "stop", "complete", False),
    ]
    assert [entry["Time"] for entry in seen] == sorted(entry["Time"] for entry in seen)


async def test_faults_that_nobody_understands(world: World) -> None:
    reply = await world.http.put("/v1/double/faults", json={"kind": "explode"})
    assert reply.status_code == 400
    assert "explode" in reply.text
    assert (await world.http.put("/v1/double/streams/bend")).status_code == 404


@pytest.fixture
async def served(tmp_path: Path) -> Any:
    settings = DoubleSettings(delays=Delays.none())
    async with running_nomad_double(settings, data_dir=tmp_path, registrar=NullServiceRegistrar()) as running:
        yield running


def no_job(job_id: str) -> dict[str, Any]:
    """A job that nothing can be placed for: only its own events matter."""
    job = make_job(job_id)
    return {**job, "Datacenters": ["nowhere"]}


async def test_events_are_dropped_doubled_and_cut_as_told(served: Any) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=10, trust_env=False) as http:
        for body in (
            {"kind": "drop-events", "topic": "Job", "job": "one", "count": 1},
            {"kind": "duplicate-events", "topic": "Job", "job": "two", "count": 1},
            {"kind": "cut-stream", "topic": "Job", "job": "three", "text": ""},
        ):
            assert (await http.put("/v1/double/faults", json=body)).status_code == 200
        seen: list[str] = []
        async with http.stream("GET", "/v1/event/stream", params={"topic": "Job"}) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "{}"
            for name in ("one", "two", "three"):
                await http.put("/v1/jobs", json={"Job": no_job(name)})
            async for line in lines:
                seen += [event["Key"] for event in json.loads(line).get("Events", ())]
        assert seen[:2] == ["two", "two"]
        assert "three" not in seen
        assert seen.count("one") <= 1, "its first line was dropped; later ones only tell of its status"


@pytest.mark.parametrize(("word", "last"), [("cut", ""), ("overflow", DROPPED)])
async def test_all_streams_end(served: Any, word: str, last: str) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=10, trust_env=False) as http:
        async with http.stream("GET", "/v1/event/stream", params={"topic": "Node"}) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "{}"
            reply = await http.put(f"/v1/double/streams/{word}")
            assert reply.json() == {"streams": 1}
            rest = [line async for line in lines]
        words = [line for line in rest if not line.startswith("{")]
        assert words == ([last] if last else [])


async def test_a_stream_of_2_0_goes_silent_where_1_10_says_why_it_ends(tmp_path: Path) -> None:
    settings = DoubleSettings(delays=Delays.none(), version="2.0.5", heartbeat_s=0.1)
    async with (
        running_nomad_double(settings, data_dir=tmp_path, registrar=NullServiceRegistrar()) as running,
        httpx.AsyncClient(base_url=running.url, timeout=10, trust_env=False) as http,
    ):
        patience = httpx.Timeout(10, read=1.0)
        async with http.stream(
            "GET", "/v1/event/stream", params={"topic": "Job"}, timeout=patience
        ) as stream:
            lines = stream.aiter_lines()
            assert [await anext(lines), await anext(lines)] == ["{}", "{}"]
            await http.put("/v1/double/restore", params={"index": 1})
            with pytest.raises(httpx.ReadTimeout):
                await _last_of(lines)


async def _last_of(lines: AsyncIterator[str]) -> None:
    """Read to the end; nothing but heartbeats may come before it."""
    async for line in lines:
        assert line == "{}"


async def test_a_connection_is_really_cut(served: Any) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=10, trust_env=False) as http:
        for kind in ("cut", "lose-reply"):
            body = {"kind": kind, "path": "/v1/jobs", "method": "PUT", "count": 1}
            assert (await http.put("/v1/double/faults", json=body)).status_code == 200
            with pytest.raises(httpx.TransportError):
                await http.put("/v1/jobs", json={"Job": no_job(kind)})
        assert [job["ID"] for job in (await http.get("/v1/jobs")).json()] == ["lose-reply"]
