"""Hosts that fall silent: what the servers make of it, what the client does, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.nomad_double import NullServiceRegistrar
from sandbox.nomad_double.clock import VirtualClock
from tests.unit.nomad_double.conftest import SECOND, Build, Tasks, World, make_job

S = 60
GIVEN_UP = 31
"""The longest time, in seconds, after which a host is given up: TTL of at most 20 s, and 10 s of grace."""


def fenced(job_id: str = "app", *, kill_s: int = 20) -> dict[str, Any]:
    """A job that its client stops after S seconds of silence."""
    job = make_job(job_id, Disconnect={"StopOnClientAfter": S * SECOND})
    job["TaskGroups"][0]["Tasks"][0]["KillTimeout"] = kill_s * SECOND
    return job


async def placed(world: World, job: dict[str, Any]) -> dict[str, Any]:
    await world.register(job)
    return await world.last_alloc(job["ID"])


async def tell(world: World, host: str, verb: str) -> dict[str, Any]:
    reply = await world.http.put(f"/v1/double/host/{host}/{verb}")
    assert reply.status_code == 200, reply.text
    await world.settle()
    body: dict[str, Any] = reply.json()
    return body


async def node(world: World, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await world.get(f"/v1/node/{node_id}")
    return found


def life(world: World, alloc: dict[str, Any]) -> bool:
    """Does the task really run, whatever anybody believes."""
    return world.double.clients[alloc["NodeID"]].running_tasks(alloc["ID"])


def alive(world: World) -> int:
    """Allocations with a running task."""
    clients = world.double.clients.values()
    return sum(client.running_tasks(alloc) for client in clients for alloc in world.double.state.allocs)


async def test_a_healthy_host_is_never_given_up(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await fleet.clock.advance(3600)
    assert (await node(fleet, alloc["NodeID"]))["Status"] == "ready"
    assert len(await fleet.allocs("app")) == 1
    assert alive(fleet) == 1


@pytest.mark.parametrize("verb", ["cut-off", "freeze", "kill-agent", "kill"])
async def test_a_lost_allocation_is_replaced_after_the_time_its_client_has_to_stop_it(
    fleet: World, verb: str
) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], verb)
    await fleet.clock.advance(9)
    assert (await node(fleet, alloc["NodeID"]))["Status"] == "ready"
    await fleet.clock.advance(GIVEN_UP - 9)
    gone = await node(fleet, alloc["NodeID"])
    assert gone["Status"] == "down"
    assert gone["Events"][-1]["Message"] == "Node heartbeat missed"
    [lost] = await fleet.allocs("app")
    assert (lost["ClientStatus"], lost["DesiredStatus"]) == ("lost", "stop")
    assert lost["DesiredDescription"] == "alloc is lost since its node is down"
    followup = await fleet.get(f"/v1/evaluation/{lost['FollowupEvalID']}")
    assert (followup["Status"], followup["TriggeredBy"]) == ("pending", "alloc-failure")
    await fleet.clock.advance(S + 20 - GIVEN_UP)
    assert len(await fleet.allocs("app")) == 1
    await fleet.clock.advance(GIVEN_UP + 1)
    old, new = await fleet.allocs("app")
    assert new["NodeID"] != old["NodeID"]
    assert new["ClientStatus"] == "running"
    whole = await fleet.get(f"/v1/allocation/{new['ID']}")
    assert "PreviousAllocation" not in whole
    assert life(fleet, old) is (verb in ("freeze", "kill-agent"))


async def test_a_client_in_silence_stops_its_tasks_after_s(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "cut-off")
    await fleet.clock.advance(S - 21)
    assert life(fleet, alloc)
    await fleet.clock.advance(21 + 1)
    assert not life(fleet, alloc)
    [lost] = await fleet.allocs("app")
    assert lost["ClientStatus"] == "lost"
    assert fleet.registrar.services == {}


async def test_another_evaluation_skips_the_wait(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "freeze")
    await fleet.clock.advance(GIVEN_UP)
    assert len(await fleet.allocs("app")) == 1
    await fleet.http.put("/v1/job/app/evaluate", json={"JobID": "app"})
    await fleet.settle()
    assert len(await fleet.allocs("app")) == 2
    assert life(fleet, alloc)
    assert alive(fleet) == 2


async def test_an_unchanged_register_skips_the_wait_too(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "kill")
    await fleet.clock.advance(GIVEN_UP)
    await fleet.register(fenced())
    assert len(await fleet.allocs("app")) == 2


async def test_without_s_the_replacement_comes_at_once(fleet: World) -> None:
    alloc = await placed(fleet, make_job())
    await tell(fleet, alloc["NodeName"], "cut-off")
    await fleet.clock.advance(GIVEN_UP)
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], new["ClientStatus"]) == ("lost", "running")
    assert (await fleet.get(f"/v1/allocation/{new['ID']}"))["PreviousAllocation"] == old["ID"]
    assert life(fleet, old), "nobody told its client to stop it"


async def test_a_pending_allocation_of_a_silent_host_is_lost_as_well(fleet: World) -> None:
    other = fleet.double.settings.hosts[1].name
    ids = {one["Name"]: one["ID"] for one in await fleet.get("/v1/nodes")}
    await fleet.http.put(f"/v1/node/{ids[other]}/eligibility", json={"Eligibility": "ineligible"})
    await tell(fleet, "host-1", "cut-off")
    alloc = await placed(fleet, fenced())
    assert alloc["ClientStatus"] == "pending"
    await fleet.clock.advance(GIVEN_UP)
    [lost] = await fleet.allocs("app")
    assert (lost["ClientStatus"], lost["FollowupEvalID"] != "") == ("lost", True)
    await tell(fleet, "host-1", "back")
    # The return of its host is an evaluation too, so the wait is over; what was lost is never started.
    _, new = await fleet.allocs("app")
    assert [spec.alloc_id for spec in fleet.tasks.started] == [new["ID"]]


@pytest.mark.parametrize("verb", ["freeze", "kill-agent"])
async def test_the_way_back_lost_then_told_to_stop_then_complete(fleet: World, verb: str) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], verb)
    await fleet.clock.advance(GIVEN_UP + S + 21)
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], new["ClientStatus"]) == ("lost", "running")
    assert alive(fleet) == 2
    await tell(fleet, alloc["NodeName"], "back")
    await fleet.clock.advance(1)
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], new["ClientStatus"]) == ("complete", "running")
    back = await node(fleet, alloc["NodeID"])
    assert (back["Status"], back["Events"][-1]["Message"]) == ("ready", "Node reregistered by heartbeat")
    assert alive(fleet) == 1


async def test_a_dead_host_comes_back_with_nothing_running(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "kill")
    assert not life(fleet, alloc)
    assert (await fleet.last_alloc("app"))["ClientStatus"] == "running", "nobody knows yet"
    await fleet.clock.advance(GIVEN_UP + 1)
    await tell(fleet, alloc["NodeName"], "back")
    assert (await fleet.allocs("app"))[0]["ClientStatus"] == "complete"


async def test_a_host_that_is_back_in_time_goes_on_with_what_it_ran(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    for verb in ("cut-off", "freeze", "kill-agent"):
        await tell(fleet, alloc["NodeName"], verb)
        await fleet.clock.advance(5)
        await tell(fleet, alloc["NodeName"], "back")
    await tell(fleet, alloc["NodeName"], "restart")
    await fleet.clock.advance(120)
    [same] = await fleet.allocs("app")
    assert (same["ID"], same["ClientStatus"]) == (alloc["ID"], "running")
    assert life(fleet, alloc)
    assert len(fleet.tasks.started) == 1


async def test_a_host_that_died_and_is_back_in_time_starts_its_task_again(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "kill")
    await fleet.clock.advance(3)
    await tell(fleet, alloc["NodeName"], "back")
    await fleet.clock.advance(1)
    [same] = await fleet.allocs("app")
    assert (same["ID"], same["ClientStatus"]) == (alloc["ID"], "running")
    assert [spec.alloc_id for spec in fleet.tasks.started] == [alloc["ID"]] * 2


async def test_s_below_the_heartbeat_makes_a_healthy_client_stop_its_task(fleet: World) -> None:
    job = make_job(Disconnect={"StopOnClientAfter": 5 * SECOND})
    await placed(fleet, job)
    await fleet.clock.advance(30)
    alloc = await fleet.last_alloc("app")
    # No evaluation follows, so nothing replaces it until somebody looks at the job.
    assert (alloc["ClientStatus"], alloc["DesiredStatus"]) == ("complete", "run")
    assert alive(fleet) == 0


async def test_a_frozen_agent_neither_restarts_nor_reports(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "freeze")
    fleet.tasks.end(alloc["ID"], 1)
    await fleet.clock.advance(8)
    assert (await fleet.last_alloc("app"))["ClientStatus"] == "running"
    assert len(fleet.tasks.started) == 1
    await tell(fleet, alloc["NodeName"], "back")
    await fleet.clock.advance(20)
    assert len(fleet.tasks.started) == 2
    assert (await fleet.last_alloc("app"))["ClientStatus"] == "running"


async def test_what_was_told_to_stop_before_the_silence_is_lost_as_well(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "freeze")
    await fleet.http.delete("/v1/job/app")
    await fleet.settle()
    state = fleet.double.state
    stopped = state.allocs[alloc["ID"]]
    assert (stopped.desired_status, stopped.client_status) == ("stop", "running")
    assert not stopped.client_terminal, "its port is held until its client says that it has ended"
    await fleet.clock.advance(GIVEN_UP)
    assert (state.allocs[alloc["ID"]].client_status, alive(fleet)) == ("lost", 1)
    await tell(fleet, alloc["NodeName"], "back")
    await fleet.clock.advance(1)
    assert (state.allocs[alloc["ID"]].client_status, alive(fleet)) == ("complete", 0)


async def test_a_lost_allocation_holds_no_port(fleet: World) -> None:
    alloc = await placed(fleet, fenced())
    await tell(fleet, alloc["NodeName"], "freeze")
    await fleet.clock.advance(GIVEN_UP)
    assert fleet.double.state.allocs[alloc["ID"]].client_terminal


async def test_a_purged_node_makes_its_allocations_lost(fleet: World) -> None:
    alloc = await placed(fleet, make_job())
    await tell(fleet, alloc["NodeName"], "kill")
    await fleet.http.put(f"/v1/node/{alloc['NodeID']}/purge")
    await fleet.clock.advance(1)
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], new["ClientStatus"]) == ("lost", "running")


async def test_lost_after_makes_it_unknown_and_one_of_the_two_is_stopped_on_return(fleet: World) -> None:
    alloc = await placed(fleet, make_job(Disconnect={"LostAfter": 600 * SECOND}))
    await tell(fleet, alloc["NodeName"], "freeze")
    await fleet.clock.advance(GIVEN_UP)
    assert (await node(fleet, alloc["NodeID"]))["Status"] == "disconnected"
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], old["DesiredStatus"]) == ("unknown", "run")
    assert new["ClientStatus"] == "running"
    await tell(fleet, alloc["NodeName"], "back")
    await fleet.clock.advance(1)
    old, new = await fleet.allocs("app")
    assert (old["ClientStatus"], new["ClientStatus"]) == ("complete", "running")


async def test_lost_after_gives_up_in_the_end(fleet: World) -> None:
    alloc = await placed(fleet, make_job(Disconnect={"LostAfter": 60 * SECOND}))
    await tell(fleet, alloc["NodeName"], "kill")
    await fleet.clock.advance(GIVEN_UP + 90)
    assert (await node(fleet, alloc["NodeID"]))["Status"] == "down"
    assert (await fleet.allocs("app"))[0]["ClientStatus"] == "lost"


async def test_speed_divides_every_wait(
    build: Build, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
) -> None:
    double = build(hosts=2, speed=10.0)
    await double.start()
    world = World(double, clock, tasks, registrar)
    try:
        alloc = await placed(world, fenced())
        await tell(world, alloc["NodeName"], "cut-off")
        await clock.advance(GIVEN_UP / 10)
        assert (await world.last_alloc("app"))["ClientStatus"] == "lost"
        await clock.advance((S + 21) / 10)
        assert [one["ClientStatus"] for one in await world.allocs("app")] == ["lost", "running"]
        assert alive(world) == 1
    finally:
        await world.http.aclose()
        await double.stop()


async def test_a_host_nobody_knows_and_a_word_nobody_understands(fleet: World) -> None:
    reply = await fleet.http.put("/v1/double/host/nowhere/kill")
    assert (reply.status_code, reply.text) == (404, "there is no host 'nowhere'; there are host-1, host-2")
    reply = await fleet.http.put("/v1/double/host/host-1/vanish")
    assert reply.status_code == 404
    assert "cut-off" in reply.text
    listed = await fleet.get("/v1/double/hosts")
    assert [(one["Name"], one["State"], one["Status"]) for one in listed] == [
        ("host-1", "up", "ready"),
        ("host-2", "up", "ready"),
    ]
