"""Drains: when an allocation is moved, in which order, and when the drain is over."""

from __future__ import annotations

from typing import Any

from tests.unit.nomad_double.conftest import SECOND, World, make_job

HEALTHY = 11
"""Seconds after which a running allocation counts as healthy (migrate.min_healthy_time, and a bit)."""


async def drain(world: World, node_id: str, deadline_s: int | None, **more: Any) -> None:
    spec = None if deadline_s is None else {"Deadline": deadline_s * SECOND}
    reply = await world.http.put(f"/v1/node/{node_id}/drain", json={"DrainSpec": spec, **more})
    assert reply.status_code == 200, reply.text
    await world.settle()


async def test_what_is_healthy_moves_at_once_and_the_old_one_stops_first(fleet: World) -> None:
    await fleet.register(make_job())
    old = await fleet.last_alloc("app")
    await fleet.clock.advance(HEALTHY)
    await drain(fleet, old["NodeID"], 60)
    gone, new = await fleet.allocs("app")
    assert (gone["ClientStatus"], new["ClientStatus"]) == ("complete", "running")
    assert gone["DesiredDescription"] == "alloc is being migrated"
    assert new["NodeID"] != old["NodeID"]
    assert (await fleet.get(f"/v1/allocation/{new['ID']}"))["PreviousAllocation"] == old["ID"]
    ended = gone["TaskStates"]["main"]["FinishedAt"]
    assert ended <= new["TaskStates"]["main"]["StartedAt"]
    node = await fleet.get(f"/v1/node/{old['NodeID']}")
    assert (node["Drain"], node["SchedulingEligibility"]) == (False, "ineligible")
    assert [event["Message"] for event in node["Events"]][-2:] == [
        "Node drain strategy set",
        "Node drain complete",
    ]


async def test_a_young_one_is_moved_when_it_is_known_to_be_healthy(fleet: World) -> None:
    await fleet.register(make_job())
    old = await fleet.last_alloc("app")
    await drain(fleet, old["NodeID"], 60)
    node = await fleet.get(f"/v1/node/{old['NodeID']}")
    assert (node["Drain"], node["SchedulingEligibility"]) == (True, "ineligible")
    assert len(await fleet.allocs("app")) == 1
    await fleet.clock.advance(HEALTHY)
    assert [one["ClientStatus"] for one in await fleet.allocs("app")] == ["complete", "running"]


async def test_at_the_deadline_everything_goes_and_the_drain_is_over_before_the_tasks_are(
    fleet: World,
) -> None:
    await fleet.register(make_job())
    old = await fleet.last_alloc("app")
    await drain(fleet, old["NodeID"], 3)
    await fleet.clock.advance(2)
    assert len(await fleet.allocs("app")) == 1
    await fleet.clock.advance(1)
    assert [one["DesiredStatus"] for one in await fleet.allocs("app")] == ["stop", "run"]
    assert (await fleet.get(f"/v1/node/{old['NodeID']}"))["Drain"] is False


async def test_force_waits_for_nothing(fleet: World) -> None:
    await fleet.register(make_job())
    old = await fleet.last_alloc("app")
    await drain(fleet, old["NodeID"], -1)
    assert [one["ClientStatus"] for one in await fleet.allocs("app")] == ["complete", "running"]
    node = await fleet.get(f"/v1/node/{old['NodeID']}")
    assert (node["Drain"], node["LastDrain"]["Status"]) == (False, "complete")


async def test_a_drain_that_is_called_off_moves_nothing(fleet: World) -> None:
    await fleet.register(make_job())
    old = await fleet.last_alloc("app")
    await drain(fleet, old["NodeID"], 5)
    await drain(fleet, old["NodeID"], None, MarkEligible=True)
    await fleet.clock.advance(60)
    [same] = await fleet.allocs("app")
    assert same["ClientStatus"] == "running"
    node = await fleet.get(f"/v1/node/{old['NodeID']}")
    assert (node["Drain"], node["SchedulingEligibility"], node["LastDrain"]["Status"]) == (
        False,
        "eligible",
        "canceled",
    )


async def test_a_group_moves_one_at_a_time(fleet: World) -> None:
    node_id, other = [one["ID"] for one in await fleet.get("/v1/nodes")]
    await fleet.http.put(f"/v1/node/{other}/eligibility", json={"Eligibility": "ineligible"})
    await fleet.register(make_job(Count=3))
    await fleet.http.put(f"/v1/node/{other}/eligibility", json={"Eligibility": "eligible"})
    await fleet.clock.advance(HEALTHY)
    await drain(fleet, node_id, 600)
    moved = [one for one in await fleet.allocs("app") if one["DesiredStatus"] == "stop"]
    assert len(moved) == 1
    await fleet.clock.advance(2 * HEALTHY + 2)
    assert sum(one["DesiredStatus"] == "stop" for one in await fleet.allocs("app")) == 3
