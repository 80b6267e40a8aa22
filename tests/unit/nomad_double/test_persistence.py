"""A double that starts again on the same folder."""

from __future__ import annotations

from typing import Any

from tests.unit.nomad_double.conftest import Build, Tasks, World, make_job


async def test_everything_is_there_again_and_tasks_come_back(
    build: Build, clock: Any, tasks: Tasks, registrar: Any
) -> None:
    double = build()
    await double.start()
    world = World(double, clock, tasks, registrar)
    await world.http.put("/v1/var/nomad/jobs/app", json={"Items": {"key": "v"}})
    service = {"Name": "web", "PortLabel": "http"}
    await world.register(make_job(Services=[service]), Submission={"Source": "job {}", "Format": "hcl2"})
    await world.register(make_job("stopped"))
    await world.http.delete("/v1/job/stopped")
    await world.settle()
    before = await world.last_alloc("app")
    ports = double.state.allocs[before["ID"]].ports
    job = await world.get("/v1/job/app")
    index = double.state.index
    await world.http.aclose()
    await double.stop()
    assert registrar.services == {}
    assert tasks.started[0].alloc_id == before["ID"]

    again = build()
    assert again.state.index >= index
    world = World(again, clock, tasks, registrar)
    assert await world.get("/v1/job/app") == job
    assert (await world.get("/v1/job/app/submission", version="0"))["Source"] == "job {}"
    assert (await world.get("/v1/var/nomad/jobs/app"))["Items"] == {"key": "v"}
    assert (await world.get("/v1/job/app/summary"))["Summary"]["app"]["Running"] == 1
    await again.start()
    await world.settle()
    after = await world.last_alloc("app")
    assert (after["ID"], after["ClientStatus"]) == (before["ID"], "running")
    assert again.state.allocs[after["ID"]].ports == ports
    state = after["TaskStates"]["main"]
    assert [event["Type"] for event in state["Events"][-2:]] == ["Failed Restoring Task", "Started"]
    assert state["Restarts"] == 0
    assert tasks.started[-1].alloc_id == before["ID"]
    assert len(registrar.services) == 1
    assert (await world.last_alloc("stopped"))["ClientStatus"] == "complete"
    await world.register(make_job("new"))
    assert (await world.last_alloc("new"))["ClientStatus"] == "running"
    await world.http.aclose()
    await again.stop()


async def test_a_killed_double_lost_nothing_it_had_answered(
    build: Build, clock: Any, tasks: Tasks, registrar: Any
) -> None:
    """Nothing is written at the end: the first double is simply left where it stands."""
    double = build()
    await double.start()
    world = World(double, clock, tasks, registrar)
    await world.register(make_job())
    reply = await world.http.put("/v1/var/a", json={"Items": {"k": "v"}})
    again = build()
    assert again.state.variables["default", "a"].modify_index == reply.json()["ModifyIndex"]
    assert ("default", "app") in again.state.jobs
    again.state.close()
    await world.http.aclose()
    await double.stop()


async def test_a_job_that_was_stopping_ends_after_the_restart(
    build: Build, clock: Any, tasks: Tasks, registrar: Any
) -> None:
    double = build()
    await double.start()
    world = World(double, clock, tasks, registrar)
    await world.register(make_job())
    # Stopped, but the double is gone before its client could do anything about it.
    double.clients.clear()
    await world.http.delete("/v1/job/app")
    await world.settle()
    assert (await world.last_alloc("app"))["ClientStatus"] == "running"
    await world.http.aclose()
    await double.stop()
    again = build()
    await again.start()
    world = World(again, clock, tasks, registrar)
    await world.settle()
    assert (await world.last_alloc("app"))["ClientStatus"] == "complete"
    assert len(tasks.started) == 1
    await world.http.aclose()
    await again.stop()
