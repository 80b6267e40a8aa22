"""Blocking queries, tokens, variables, templates and the log of writes, over the ASGI app."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox.nomad_double import NomadDouble
from tests.unit.nomad_double.conftest import Build, Tasks, World, make_job


async def test_a_blocking_query_waits_for_its_index_or_its_time(world: World) -> None:
    await world.register(make_job())
    # After ten seconds its client reports it as healthy, which is a change too.
    await world.clock.advance(11)
    index = int((await world.http.get("/v1/allocations")).headers["X-Nomad-Index"])
    waiting = asyncio.ensure_future(world.http.get("/v1/allocations", params={"index": index, "wait": "60s"}))
    await world.settle()
    assert not waiting.done()
    await world.clock.advance(59)
    assert not waiting.done()
    await world.clock.advance(5)
    assert (await waiting).headers["X-Nomad-Index"] == str(index)


async def test_a_blocking_query_wakes_with_the_write(world: World) -> None:
    await world.register(make_job())
    index = int((await world.http.get("/v1/jobs")).headers["X-Nomad-Index"])
    waiting = asyncio.ensure_future(world.http.get("/v1/jobs", params={"index": index, "wait": "60s"}))
    await world.settle()
    await world.register(make_job("other"))
    assert [job["ID"] for job in (await waiting).json()] == ["app", "other"]


async def test_other_tables_do_not_wake_it(world: World) -> None:
    await world.register(make_job())
    index = int((await world.http.get("/v1/jobs")).headers["X-Nomad-Index"])
    waiting = asyncio.ensure_future(world.http.get("/v1/jobs", params={"index": index, "wait": "60s"}))
    await world.settle()
    await world.http.put("/v1/var/a", json={"Items": {"k": "v"}})
    await world.settle()
    assert not waiting.done()
    waiting.cancel()


async def test_a_restored_snapshot_lowers_the_index(world: World) -> None:
    await world.register(make_job())
    world.double.state.restore(1)
    assert (await world.http.get("/v1/jobs")).headers["X-Nomad-Index"] == "1"


async def test_tokens(build: Build, clock: Any, tasks: Tasks, registrar: Any) -> None:
    double = build(token="secret")
    world = World(double, clock, tasks, registrar)
    for headers, status, text in (
        ({}, 403, "Permission denied"),
        ({"X-Nomad-Token": "wrong"}, 403, "Permission denied"),
        ({"X-Nomad-Token": "secret"}, 200, "[]"),
        ({"Authorization": "Bearer secret"}, 200, "[]"),
    ):
        reply = await world.http.get("/v1/jobs", headers=headers)
        assert (reply.status_code, reply.text) == (status, text)
    assert (await world.http.get("/v1/status/leader")).status_code == 200
    await world.http.aclose()
    double.state.close()


async def test_a_task_waits_for_its_variable_and_says_so(world: World) -> None:
    job = make_job()
    job["TaskGroups"][0]["Tasks"][0]["Templates"] = [
        {
            "EmbeddedTmpl": '{{ with nomadVar "nomad/jobs/app" }}KEY={{ .key }}{{ end }}',
            "DestPath": "secrets/k.env",
            "Envvars": True,
        }
    ]
    await world.register(job)
    await world.clock.advance(4)
    waiting = await world.last_alloc("app")
    assert waiting["ClientStatus"] == "pending"
    events = waiting["TaskStates"]["main"]["Events"]
    assert events[-1]["DisplayMessage"] == "Missing: nomad.var.block(nomad/jobs/app@default.global)"
    await world.http.put("/v1/var/nomad/jobs/app", json={"Items": {"key": "one"}})
    await world.settle()
    assert world.tasks.started[-1].env["KEY"] == "one"
    await world.http.put("/v1/var/nomad/jobs/app", json={"Items": {"key": "two"}})
    await world.clock.advance(12)
    assert world.tasks.started[-1].env["KEY"] == "two"
    alloc = await world.last_alloc("app")
    assert (alloc["ClientStatus"], alloc["TaskStates"]["main"]["Restarts"]) == ("running", 1)


async def test_an_unknown_template_directive_is_refused_at_once(world: World) -> None:
    job = make_job()
    job["TaskGroups"][0]["Tasks"][0]["Templates"] = [
        {"EmbeddedTmpl": '{{ key "x" }}', "DestPath": "local/x", "Envvars": True}
    ]
    reply = await world.http.put("/v1/jobs", json={"Job": job})
    assert reply.status_code == 500
    assert 'not {{ key "x" }}; run the job on a real Nomad agent' in reply.text


async def test_hcl_is_not_parsed(world: World) -> None:
    reply = await world.http.post("/v1/jobs/parse", json={"JobHCL": "job x {}"})
    assert reply.status_code == 501
    assert "no HCL parser" in reply.text


async def test_the_log_of_writes_keeps_what_was_accepted(world: World) -> None:
    await world.register(make_job())
    refused = {"Job": make_job(), "EnforceIndex": True, "JobModifyIndex": 0}
    assert (await world.http.put("/v1/jobs", json=refused)).status_code == 500
    await world.http.put("/v1/job/app/plan", json={"Job": make_job()})
    await world.http.put("/v1/var/nomad/jobs/app", json={"Items": {"password": "hunter2"}})
    await world.http.delete("/v1/job/app")
    log = await world.get("/v1/double/log")
    assert [(entry["Method"], entry["Path"], entry["JobId"]) for entry in log] == [
        ("PUT", "/v1/jobs", "app"),
        ("PUT", "/v1/var/nomad/jobs/app", ""),
        ("DELETE", "/v1/job/app", "app"),
    ]
    assert [entry["Index"] for entry in log] == sorted({entry["Index"] for entry in log})
    assert "hunter2" not in (world.double.data_dir / "writes.ndjson").read_text()
    assert len(await world.get("/v1/double/log", job="app")) == 2


async def test_services_come_and_go_with_the_allocation(world: World) -> None:
    service = {"Name": "web", "PortLabel": "http", "Meta": {"alloc": "${NOMAD_ALLOC_ID}"}}
    await world.register(make_job(Services=[service]))
    alloc = await world.last_alloc("app")
    [registered] = world.registrar.services.values()
    assert registered["ID"] == f"_nomad-task-{alloc['ID']}-group-app-web-http"
    assert registered["Meta"] == {"alloc": alloc["ID"], "external-source": "nomad"}
    await world.http.delete("/v1/job/app")
    await world.settle()
    assert world.registrar.services == {}


async def test_without_consul_a_job_with_services_is_not_placed(
    build: Build, clock: Any, tasks: Tasks, registrar: Any, tmp_path: Any
) -> None:
    settings = build().settings
    double = NomadDouble(settings, tmp_path / "other", clock=clock)
    await double.start()
    world = World(double, clock, tasks, registrar)
    await world.register(make_job(Services=[{"Name": "web", "PortLabel": "http"}]))
    [done] = [e for e in await world.get("/v1/job/app/evaluations") if e["Status"] == "complete"]
    assert done["FailedTGAllocs"]["app"]["ConstraintFiltered"] == {
        "${attr.consul.version} semver >= 1.8.0": 1
    }
    await world.http.aclose()
    await double.stop()


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('ID == "app"', True),
        ('ID != "app"', False),
        ('not (ID == "app") or Type == "service"', True),
        ('ID matches "^a" and Stop == false', True),
        ('"*" in Datacenters', True),
        ('"dc9" not in Datacenters', True),
        ("Meta is empty", True),
        ("Meta is not empty", False),
        ('Nothing == "x"', False),
        ('Datacenters contains "*"', True),
        ('ID not matches "^b"', True),
    ],
)
async def test_filters(world: World, expression: str, found: bool) -> None:
    await world.register(make_job())
    assert bool(await world.get("/v1/jobs", filter=expression)) is found


@pytest.mark.parametrize("expression", ["ID ==", "ID = x", "(ID == a", '"x"', 'ID matches "("'])
async def test_bad_filters(world: World, expression: str) -> None:
    await world.register(make_job())
    assert (await world.http.get("/v1/jobs", params={"filter": expression})).status_code == 400
