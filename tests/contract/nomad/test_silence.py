"""Hosts that fall silent, on two hosts: given up, replaced after the wait or without it, and back again.

Heartbeats are short here (see fleet.py), so that a real cluster shows in seconds what takes minutes elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.nomad.cluster import SECOND, Cluster
from tests.contract.nomad.conftest import DOUBLE_RELEASE, first_port
from tests.contract.nomad.fleet import DoubleFleet, Fleet, RealFleet
from tests.contract.nomad.recorder import ConsulRecorder
from tests.real_agents import require_programs

S = 6
KILL = 5
"""Seconds that a client is given to kill a task, at least."""


@pytest.fixture(scope="module", params=["double", "real"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp(f"fleet-{request.param}")
    made: Fleet
    if request.param == "real":
        require_programs("nomad")
        made = RealFleet(folder, first_port(40))
    else:
        made = DoubleFleet(folder, first_port(60), DOUBLE_RELEASE)
    yield made
    made.close()


@pytest.fixture
def cluster(fleet: Fleet, record_property: Callable[[str, object], None]) -> Iterator[Cluster]:
    kind = "real" if isinstance(fleet, RealFleet) else "double"
    if kind == "real":
        record_property("nomad_version", fleet.version)
    recorder = ConsulRecorder()
    cluster = Cluster(fleet.url, kind, fleet.version, recorder)
    cluster.until(lambda: all(node["Status"] == "ready" for node in cluster.get("/v1/nodes")))
    yield cluster
    cluster.clean()
    cluster.http.close()
    recorder.close()


@pytest.fixture
def beats(tmp_path: Path) -> Path:
    """Where tasks of `fenced` leave a mark five times a second."""
    return tmp_path


def fenced(cluster: Cluster, beats: Path, s: int | None = S) -> dict[str, Any]:
    """A job whose allocations are stopped after `s` seconds of silence, and that shows whether it runs."""
    command = f"while :; do touch {beats}/$NOMAD_ALLOC_ID; sleep 0.2; done"
    block = {"Disconnect": {"StopOnClientAfter": s * SECOND}} if s is not None else {}
    return cluster.job(cluster.name(), command, group=block)


def runs(beats: Path, alloc: dict[str, Any]) -> bool:
    """Has the task left a mark within the last second?"""
    mark = beats / alloc["ID"]
    return bool(mark.exists() and time.time() - mark.stat().st_mtime < 1.0)


def placed(cluster: Cluster, job: dict[str, Any], beats: Path) -> dict[str, Any]:
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.until(lambda: runs(beats, alloc))
    return alloc


def lost(cluster: Cluster, job_id: str) -> dict[str, Any]:
    return cluster.until(
        lambda: next((a for a in cluster.allocs(job_id) if a["ClientStatus"] == "lost"), None)
    )


def settled(cluster: Cluster, alloc: dict[str, Any]) -> dict[str, Any]:
    """The allocation once its client says that it has ended."""
    return cluster.until(lambda: (a := cluster.alloc(alloc["ID"]))["ClientStatus"] == "complete" and a)


def test_a_frozen_host_is_given_up_and_its_place_is_held(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    job = fenced(cluster, beats)
    alloc = placed(cluster, job, beats)
    fleet.freeze(alloc["NodeName"])
    try:
        gone = lost(cluster, job["ID"])
        lost_at = time.monotonic()
        assert gone["DesiredStatus"] == "stop"
        assert gone["DesiredDescription"] == "alloc is lost since its node is down"
        node = cluster.get(f"/v1/node/{alloc['NodeID']}")
        assert (node["Status"], node["SchedulingEligibility"]) == ("down", "eligible")
        assert node["Events"][-1]["Message"] == "Node heartbeat missed"
        followup = cluster.get(f"/v1/evaluation/{gone['FollowupEvalID']}")
        assert (followup["Status"], followup["TriggeredBy"]) == ("pending", "alloc-failure")
        assert followup["WaitUntil"]
        assert followup["StatusDescription"] == "created for delayed rescheduling"
        triggers = {e["TriggeredBy"] for e in cluster.get(f"/v1/job/{job['ID']}/evaluations")}
        assert triggers == {"job-register", "node-update", "alloc-failure"}
        new = cluster.running(job["ID"], after=alloc["CreateIndex"])
        assert S + KILL - 1 < time.monotonic() - lost_at < S + KILL + 6
        assert new["NodeID"] != alloc["NodeID"]
        whole = cluster.alloc(new["ID"])
        assert "PreviousAllocation" not in whole
        assert cluster.alloc(alloc["ID"])["FollowupEvalID"] == gone["FollowupEvalID"]
        assert "NextAllocation" not in cluster.alloc(alloc["ID"])
        # Nobody stopped the old one: its agent does nothing, and no server can reach it.
        assert runs(beats, alloc)
        assert runs(beats, new)
    finally:
        fleet.thaw(alloc["NodeName"])
    ended = settled(cluster, alloc)
    assert ended["DesiredStatus"] == "stop"
    cluster.until(lambda: not runs(beats, alloc))
    cluster.until(lambda: cluster.get(f"/v1/node/{alloc['NodeID']}")["Status"] == "ready")
    messages = [event["Message"] for event in cluster.get(f"/v1/node/{alloc['NodeID']}")["Events"]]
    assert messages[-1] == "Node reregistered by heartbeat"
    assert cluster.alloc(new["ID"])["ClientStatus"] == "running"


def test_another_evaluation_or_register_skips_the_wait(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    evaluated, registered = fenced(cluster, beats), fenced(cluster, beats)
    first = placed(cluster, evaluated, beats)
    cluster.http.put(f"/v1/node/{other_node(cluster, first)}/eligibility", json={"Eligibility": "ineligible"})
    second = placed(cluster, registered, beats)
    cluster.http.put(f"/v1/node/{other_node(cluster, first)}/eligibility", json={"Eligibility": "eligible"})
    fleet.kill_agent(first["NodeName"])
    try:
        for job, alloc in ((evaluated, first), (registered, second)):
            lost(cluster, job["ID"])
            reply = cluster.http.get(f"/v1/client/allocation/{alloc['ID']}/stats")
            assert (reply.status_code, reply.text) == (404, "No path to node")
            started = time.monotonic()
            assert len(cluster.allocs(job["ID"])) == 1
            if job is evaluated:
                cluster.http.put(f"/v1/job/{job['ID']}/evaluate", json={"JobID": job["ID"]})
            else:
                cluster.register(job)
            new = cluster.running(job["ID"], after=alloc["CreateIndex"])
            assert time.monotonic() - started < S
            assert runs(beats, alloc)
            cluster.until(lambda one=new: runs(beats, one))  # type: ignore[misc]
    finally:
        fleet.start_agent(first["NodeName"])
    for alloc in (first, second):
        settled(cluster, alloc)
        cluster.until(lambda one=alloc: not runs(beats, one))  # type: ignore[misc]


def test_without_s_the_replacement_comes_at_once(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    job = fenced(cluster, beats, None)
    alloc = placed(cluster, job, beats)
    fleet.freeze(alloc["NodeName"])
    try:
        new = cluster.running(job["ID"], after=alloc["CreateIndex"])
        assert cluster.alloc(new["ID"])["PreviousAllocation"] == alloc["ID"]
        old = cluster.alloc(alloc["ID"])
        assert (old["ClientStatus"], old["NextAllocation"]) == ("lost", new["ID"])
        assert "FollowupEvalID" not in old
    finally:
        fleet.thaw(alloc["NodeName"])
    settled(cluster, alloc)


def test_what_was_told_to_stop_is_lost_with_its_host(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    job = fenced(cluster, beats)
    alloc = placed(cluster, job, beats)
    fleet.freeze(alloc["NodeName"])
    try:
        cluster.http.delete(f"/v1/job/{job['ID']}")
        cluster.until(lambda: cluster.alloc(alloc["ID"])["DesiredStatus"] == "stop")
        gone = lost(cluster, job["ID"])
        assert gone["DesiredDescription"] == "alloc is lost since its node is down"
        cluster.until(lambda: cluster.get(f"/v1/job/{job['ID']}")["Status"] == "dead")
        assert runs(beats, alloc), "the servers call the job dead while its task runs"
    finally:
        fleet.thaw(alloc["NodeName"])
    settled(cluster, alloc)


def test_an_agent_that_is_back_in_time_goes_on(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    job = fenced(cluster, beats, 60)
    alloc = placed(cluster, job, beats)
    fleet.freeze(alloc["NodeName"])
    time.sleep(0.4)
    fleet.thaw(alloc["NodeName"])
    time.sleep(2.5 * KILL / 5)
    [same] = cluster.allocs(job["ID"])
    assert (same["ID"], same["DesiredStatus"], runs(beats, alloc)) == (alloc["ID"], "run", True)


def test_s_below_the_heartbeat_ends_the_task_and_nothing_follows(cluster: Cluster, beats: Path) -> None:
    # Nothing evaluates the job, so what its client ended stays the newest there is.
    job = fenced(cluster, beats)
    job["TaskGroups"][0]["Disconnect"]["StopOnClientAfter"] = SECOND // 5
    cluster.register(job)
    done = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "complete"), None)
    )
    assert done["DesiredStatus"] == "run"
    time.sleep(1)
    [same] = cluster.allocs(job["ID"])
    assert (same["ID"], same["ClientStatus"]) == (done["ID"], "complete")
    cluster.http.put(f"/v1/job/{job['ID']}/evaluate", json={"JobID": job["ID"]})
    cluster.until(lambda: len(cluster.allocs(job["ID"])) > 1)


def test_a_purged_node_is_forgotten(cluster: Cluster, fleet: Fleet, beats: Path) -> None:
    job = fenced(cluster, beats, 30)
    alloc = placed(cluster, job, beats)
    fleet.kill_agent(alloc["NodeName"])
    try:
        lost(cluster, job["ID"])
        reply = cluster.http.put(f"/v1/node/{alloc['NodeID']}/purge")
        assert reply.status_code == 200
        if cluster.release >= (2,):
            # An allocation that is over for everybody makes no evaluation any more (since 1.11.2).
            assert reply.json()["EvalIDs"] is None
            time.sleep(2)
            assert len(cluster.allocs(job["ID"])) == 1
        else:
            assert reply.json()["EvalIDs"]
            cluster.running(job["ID"], after=alloc["CreateIndex"])
        assert cluster.http.get(f"/v1/node/{alloc['NodeID']}").status_code == 404
    finally:
        fleet.start_agent(alloc["NodeName"])
    cluster.until(lambda: not runs(beats, alloc))


def test_a_drain_waits_until_health_is_known(cluster: Cluster, beats: Path) -> None:
    job = fenced(cluster, beats, 60)
    alloc = placed(cluster, job, beats)
    path = f"/v1/node/{alloc['NodeID']}/drain"
    try:
        cluster.http.put(path, json={"DrainSpec": {"Deadline": 60 * SECOND}})
        node = cluster.get(f"/v1/node/{alloc['NodeID']}")
        assert (node["Drain"], node["SchedulingEligibility"]) == (True, "ineligible")
        assert node["DrainStrategy"]["Deadline"] == 60 * SECOND
        time.sleep(1.5)
        assert cluster.alloc(alloc["ID"])["DesiredStatus"] == "run"
        old = settled(cluster, alloc)
        assert old["DeploymentStatus"]["Healthy"] is True
        new = cluster.running(job["ID"], after=alloc["CreateIndex"])
        whole = cluster.alloc(new["ID"])
        assert whole["PreviousAllocation"] == alloc["ID"]
        assert old["TaskStates"]["main"]["FinishedAt"] <= whole["TaskStates"]["main"]["StartedAt"]
        cluster.until(lambda: not cluster.get(f"/v1/node/{alloc['NodeID']}")["Drain"])
    finally:
        cluster.http.put(path, json={"DrainSpec": None, "MarkEligible": True})


@pytest.mark.parametrize("deadline_s", [1, -1])
def test_at_the_deadline_or_by_force_nothing_is_waited_for(
    cluster: Cluster, beats: Path, deadline_s: int
) -> None:
    job = fenced(cluster, beats, 60)
    alloc = placed(cluster, job, beats)
    path = f"/v1/node/{alloc['NodeID']}/drain"
    try:
        cluster.http.put(
            path, json={"DrainSpec": {"Deadline": deadline_s * SECOND if deadline_s > 0 else -1}}
        )
        old = settled(cluster, alloc)
        assert old["DesiredDescription"] == "alloc is being migrated"
        node = cluster.until(
            lambda: (n := cluster.get(f"/v1/node/{alloc['NodeID']}")) and not n["Drain"] and n
        )
        assert (node["SchedulingEligibility"], node["LastDrain"]["Status"]) == ("ineligible", "complete")
        cluster.running(job["ID"], after=alloc["CreateIndex"])
    finally:
        cluster.http.put(path, json={"DrainSpec": None, "MarkEligible": True})


def test_evaluations_of_a_job_may_be_those_of_a_longer_id(cluster: Cluster, beats: Path) -> None:
    job = fenced(cluster, beats)
    longer = {**fenced(cluster, beats), "ID": f"{job['ID']}-2"}
    cluster._jobs.append(longer["ID"])
    cluster.register(job)
    cluster.register(longer)
    found = {e["JobID"] for e in cluster.get(f"/v1/job/{job['ID']}/evaluations")}
    # 1.10.5 looks them up by the beginning of the id.
    assert found == ({job["ID"]} if cluster.release >= (2,) else {job["ID"], longer["ID"]})
    cluster.running(longer["ID"])
    assert {a["JobID"] for a in cluster.allocs(job["ID"])} <= {job["ID"]}


def other_node(cluster: Cluster, alloc: dict[str, Any]) -> str:
    [other] = [node["ID"] for node in cluster.get("/v1/nodes") if node["ID"] != alloc["NodeID"]]
    return str(other)
