"""Placement, updates, exhaustion and wake-up, failures and replacements, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.nomad_double.conftest import SECOND, Build, Tasks, World, make_job


async def test_the_ports_of_a_host_run_out_and_come_back(world: World) -> None:
    for number in range(5):
        await world.register(make_job(f"job-{number}"))
    ports = {(await world.last_alloc(f"job-{n}"))["ID"] for n in range(4)}
    assert len(ports) == 4
    assert await world.allocs("job-4") == []
    [evaluation] = [e for e in await world.get("/v1/job/job-4/evaluations") if e["Status"] == "complete"]
    metric = evaluation["FailedTGAllocs"]["app"]
    assert metric["DimensionExhausted"] == {"network: dynamic port selection failed": 1}
    freed = (await world.last_alloc("job-2"))["ID"]
    await world.http.delete("/v1/job/job-2")
    await world.settle()
    placed = await world.last_alloc("job-4")
    assert placed["ClientStatus"] == "running"
    port = world.double.state.allocs[placed["ID"]].ports
    assert port == world.double.state.allocs[freed].ports


async def test_memory_runs_out_before_ports(world: World) -> None:
    await world.register(make_job("big", memory_mb=950))
    await world.register(make_job("small", memory_mb=100))
    [evaluation] = [e for e in await world.get("/v1/job/small/evaluations") if e["Status"] == "complete"]
    assert evaluation["FailedTGAllocs"]["app"]["DimensionExhausted"] == {"memory": 1}


async def test_jobs_spread_over_hosts_by_room(build: Build, clock: Any, tasks: Tasks, registrar: Any) -> None:
    double = build(hosts=3, ports=2)
    await double.start()
    world = World(double, clock, tasks, registrar)
    for number in range(6):
        await world.register(make_job(f"job-{number}"))
    seen = set()
    for alloc in double.state.allocs.values():
        [port] = alloc.ports
        assert port["HostIP"] == double.state.nodes[alloc.node_id].address
        seen.add((port["HostIP"], port["Value"]))
    assert len(seen) == 6
    await world.http.aclose()
    await double.stop()


async def test_a_failing_task_is_restarted_then_replaced(world: World) -> None:
    restart = {"Attempts": 1, "Interval": 60 * SECOND, "Delay": 2 * SECOND, "Mode": "fail"}
    reschedule = {"Delay": 30 * SECOND, "DelayFunction": "constant", "Unlimited": True}
    await world.register(make_job(RestartPolicy=restart, ReschedulePolicy=reschedule))
    first = await world.last_alloc("app")
    world.tasks.end(first["ID"], 1)
    await world.settle()
    assert (await world.last_alloc("app"))["TaskStates"]["main"]["State"] == "pending"
    await world.clock.advance(3)
    again = await world.last_alloc("app")
    assert (again["ClientStatus"], again["TaskStates"]["main"]["Restarts"]) == ("running", 1)
    world.tasks.end(first["ID"], 1)
    await world.settle()
    failed = await world.last_alloc("app")
    assert failed["ClientStatus"] == "failed"
    assert failed["FollowupEvalID"]
    await world.clock.advance(29)
    assert len(await world.allocs("app")) == 1
    await world.clock.advance(2)
    old, new = await world.allocs("app")
    assert (new["ClientStatus"], old["NextAllocation"]) == ("running", new["ID"])
    full = await world.get(f"/v1/allocation/{new['ID']}")
    assert full["PreviousAllocation"] == old["ID"]


async def test_a_destructive_update_waits_for_the_old_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register(make_job())
    old = await world.last_alloc("app")
    handle = world.double.runner(world.double.state.allocs[old["ID"]])
    assert handle is not None
    # The old task does not listen: it ends when its kill timeout is over.
    inline: Any = handle.tasks["main"]._handle
    monkeypatch.setattr(inline, "signal", lambda number: None)
    changed = make_job()
    changed["Meta"] = {"a": "1"}
    await world.register(changed)
    new = await world.last_alloc("app")
    assert (new["ClientStatus"], new["TaskStates"]) == ("pending", None)
    assert len(world.tasks.started) == 1
    await world.clock.advance(4)
    assert len(world.tasks.started) == 1
    await world.clock.advance(2)
    assert (await world.last_alloc("app"))["ClientStatus"] == "running"
    gone = (await world.allocs("app"))[0]["TaskStates"]["main"]
    assert [event["Type"] for event in gone["Events"][-3:]] == ["Killing", "Terminated", "Killed"]


async def test_stale_writes_race_unless_they_are_atomic(
    build: Build, clock: Any, tasks: Tasks, registrar: Any
) -> None:
    """Two create-only registers at once: both win before 2.0.1, one of them from then on."""
    import asyncio

    from sandbox.nomad_double import Delays

    for atomic, accepted in ((False, 2), (True, 1)):
        double = build(
            atomic_cas=atomic, delays=Delays(raft_s=0.01, scheduling_s=0, task_start_s=0, client_update_s=0)
        )
        await double.start()
        world = World(double, clock, tasks, registrar)
        body = {"Job": make_job(f"race-{atomic}"), "EnforceIndex": True, "JobModifyIndex": 0}
        attempts = [asyncio.ensure_future(world.http.put("/v1/jobs", json=body)) for _ in range(2)]
        await clock.advance(1)
        replies = await asyncio.gather(*attempts)
        assert sum(reply.status_code == 200 for reply in replies) == accepted
        assert len(double.writes_of(f"race-{atomic}")) == accepted
        await world.http.aclose()
        await double.stop()


async def test_a_seed_replays_exactly(
    build: Build, clock: Any, tasks: Tasks, registrar: Any, tmp_path: Any
) -> None:
    import shutil

    seen = []
    for _ in range(2):
        double = build(seed=7)
        await double.start()
        world = World(double, clock, tasks, registrar)
        await world.register(make_job())
        seen.append([(alloc.id, alloc.ports) for alloc in double.state.allocs.values()])
        await world.http.aclose()
        await double.stop()
        shutil.rmtree(tmp_path)
    assert seen[0] == seen[1]


async def test_a_purge_frees_the_port_while_the_task_still_ends(world: World) -> None:
    await world.register(make_job())
    await world.http.delete("/v1/job/app", params={"purge": "true"})
    assert world.double.state.allocs == {}
    await world.settle()
    assert world.tasks.started[0].alloc_id not in world.double.state.allocs
