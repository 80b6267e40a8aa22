"""Plans, updates, ports and room."""

from __future__ import annotations

from typing import Any

from tests.contract.nomad.cluster import SECOND, Cluster


def _plan(cluster: Cluster, job: dict[str, Any], **options: Any) -> dict[str, Any]:
    reply = cluster.http.put(f"/v1/job/{job['ID']}/plan", json={"Job": job, **options})
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def _desired(plan: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in plan["Annotations"]["DesiredTGUpdates"]["app"].items() if count}


def test_what_a_plan_foresees(cluster: Cluster) -> None:
    job_id = cluster.name()
    job = cluster.job(job_id)
    fresh = _plan(cluster, job, Diff=True)
    assert _desired(fresh) == {"Place": 1}
    assert (fresh["JobModifyIndex"], fresh["FailedTGAllocs"]) == (0, None)
    assert (fresh["Diff"]["Type"], fresh["Diff"]["ID"]) == ("Added", job_id)
    assert cluster.http.get(f"/v1/job/{job_id}").status_code == 404
    cluster.register(job)
    cluster.running(job_id)
    assert _desired(_plan(cluster, job)) == {"Ignore": 1}
    assert _plan(cluster, job, Diff=True)["Diff"]["Type"] == "None"
    assert _desired(_plan(cluster, cluster.job(job_id, job={"Priority": 60}))) == {"InPlaceUpdate": 1}
    changed = _plan(cluster, cluster.job(job_id, task={"Env": {"A": "1"}}), Diff=True)
    assert _desired(changed) == {"DestructiveUpdate": 1}
    assert changed["Diff"]["Type"] == "Edited"
    assert changed["JobModifyIndex"] == cluster.get(f"/v1/job/{job_id}")["JobModifyIndex"]


def test_a_plan_without_room_says_what_is_missing(cluster: Cluster) -> None:
    plan = _plan(cluster, cluster.job(cluster.name(), memory_mb=10_000_000))
    metric = plan["FailedTGAllocs"]["app"]
    assert metric["DimensionExhausted"] == {"memory": metric["NodesExhausted"]}
    assert metric["ResourcesExhausted"]["main"]["MemoryMB"] == 10_000_000
    [created] = plan["CreatedEvals"]
    assert (created["Status"], created["TriggeredBy"]) == ("blocked", "queued-allocs")


def test_changes_that_are_made_in_place(cluster: Cluster) -> None:
    job_id = cluster.name()
    service = {"Name": "web", "PortLabel": "http", "Meta": {"gen": "1"}}
    cluster.register(cluster.job(job_id, group={"Services": [service]}))
    alloc = cluster.running(job_id)
    harmless: list[dict[str, Any]] = [
        {"group": {"Services": [{**service, "Meta": {"gen": "2"}, "Tags": ["x"]}]}},
        {"job": {"Priority": 70}},
        {"task": {"KillTimeout": 3 * SECOND}},
        {
            "group": {
                "RestartPolicy": {"Attempts": 1, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "fail"}
            }
        },
        {"group": {"Disconnect": {"StopOnClientAfter": 90 * SECOND}}},
        {"job": {"Constraints": [{"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "linux"}]}},
        {"job": {"UI": {"Description": "somebody's"}}},
    ]
    for version, changes in enumerate(harmless, start=1):
        reply = cluster.register(cluster.job(job_id, **changes))
        cluster.evaluation(reply["EvalID"])
        [current] = cluster.allocs(job_id)
        assert (current["ID"], current["JobVersion"], current["ClientStatus"]) == (
            alloc["ID"],
            version,
            "running",
        ), changes


def test_changes_that_replace_the_allocation(cluster: Cluster) -> None:
    job_id = cluster.name()
    cluster.register(cluster.job(job_id))
    old = cluster.running(job_id)
    for changes in (
        {"job": {"Meta": {"a": "1"}}},
        {"group": {"Meta": {"b": "1"}}},
        {"task": {"Env": {"A": "1"}}},
        {"memory_mb": 20},
        {"task": {"Templates": [{"EmbeddedTmpl": "A=1", "DestPath": "local/a"}]}},
    ):
        reply = cluster.register(cluster.job(job_id, **changes))
        evaluation = cluster.evaluation(reply["EvalID"])
        new = cluster.running(job_id, after=old["CreateIndex"])
        full = cluster.alloc(new["ID"])
        assert full["PreviousAllocation"] == old["ID"], changes
        assert full["EvalID"] == evaluation["ID"]
        gone = cluster.alloc(old["ID"])
        assert gone["DesiredDescription"] == "alloc is being updated due to job update"
        assert (gone["NextAllocation"], gone["ClientStatus"]) == (new["ID"], "complete")
        # The old task was dead before the new one was started.
        ended = gone["TaskStates"]["main"]["FinishedAt"]
        assert ended <= full["TaskStates"]["main"]["StartedAt"]
        old = new


def test_a_replacement_waits_for_its_predecessor_to_die(cluster: Cluster) -> None:
    job_id = cluster.name()
    cluster.register(cluster.job(job_id, "trap '' INT; sleep 600 & wait; sleep 600"))
    old = cluster.running(job_id)
    cluster.register(cluster.job(job_id, job={"Meta": {"a": "1"}}))
    new = cluster.until(lambda: next((a for a in cluster.allocs(job_id) if a["ID"] != old["ID"]), None))
    waiting = cluster.alloc(new["ID"])
    assert waiting["ClientStatus"] == "pending"
    assert waiting.get("TaskStates") is None
    assert cluster.alloc(old["ID"])["ClientStatus"] == "running"
    started = cluster.running(job_id, after=old["CreateIndex"])
    gone = cluster.alloc(old["ID"])["TaskStates"]["main"]
    assert gone["Events"][-1]["Type"] == "Killed"
    assert gone["FinishedAt"] <= started["TaskStates"]["main"]["StartedAt"]


def test_dynamic_ports_are_unique_and_shown_everywhere(cluster: Cluster) -> None:
    ids = [cluster.name() for _ in range(3)]
    for job_id in ids:
        cluster.register(cluster.job(job_id))
    seen = set()
    for job_id in ids:
        full = cluster.alloc(cluster.running(job_id)["ID"])
        [port] = full["AllocatedResources"]["Shared"]["Ports"]
        [network] = full["AllocatedResources"]["Shared"]["Networks"]
        assert port["Label"] == "http"
        assert network["DynamicPorts"][0]["Value"] == port["Value"]
        assert network["IP"] == port["HostIP"]
        [node] = [n for n in cluster.get("/v1/nodes", resources="true") if n["ID"] == full["NodeID"]]
        assert (
            node["NodeResources"]["MinDynamicPort"]
            <= port["Value"]
            <= node["NodeResources"]["MaxDynamicPort"]
        )
        seen.add((port["HostIP"], port["Value"]))
    assert len(seen) == 3


def _fill(cluster: Cluster) -> tuple[list[str], str, dict[str, Any]]:
    """Register jobs until one finds no port: (those that run, the one that waits, its evaluation).

    On a real agent's `lo` the ports of ::1 come after those of 127.0.0.1.
    """
    running: list[str] = []
    for _ in range(20):
        job_id = cluster.name("full")
        evaluation = cluster.evaluation(cluster.register(cluster.job(job_id))["EvalID"])
        if evaluation.get("FailedTGAllocs"):
            return running, job_id, evaluation
        running.append(job_id)
    raise AssertionError("the ports never ran out")


def test_ports_run_out_and_come_back(cluster: Cluster) -> None:
    running, waiting, evaluation = _fill(cluster)
    assert evaluation["Status"] == "complete"
    metric = evaluation["FailedTGAllocs"]["app"]
    assert metric["DimensionExhausted"] == {"network: dynamic port selection failed": 1}
    assert (metric["NodesEvaluated"], metric["NodesExhausted"], metric["CoalescedFailures"]) == (1, 1, 0)
    assert evaluation["QueuedAllocations"] == {"app": 1}
    blocked = cluster.get(f"/v1/evaluation/{evaluation['BlockedEval']}")
    assert (blocked["Status"], blocked["TriggeredBy"]) == ("blocked", "queued-allocs")
    assert blocked["StatusDescription"] == "created to place remaining allocations"
    assert blocked["PreviousEval"] == evaluation["ID"]
    assert cluster.get(f"/v1/job/{waiting}")["Status"] == "pending"
    assert cluster.get(f"/v1/job/{waiting}/summary")["Summary"]["app"]["Queued"] == 1
    assert cluster.allocs(waiting) == []
    cluster.running(running[0])
    cluster.stop_and_wait(running[0])
    cluster.running(waiting)
    assert cluster.evaluation(blocked["ID"])["Status"] == "complete"
    assert cluster.get(f"/v1/job/{waiting}/summary")["Summary"]["app"]["Queued"] == 0


def test_a_second_register_replaces_the_blocked_evaluation(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), memory_mb=10_000_000)
    first = cluster.evaluation(cluster.register(job)["EvalID"])
    second = cluster.evaluation(cluster.register(job)["EvalID"])
    assert second["BlockedEval"] != first["BlockedEval"]
    old = cluster.until(
        lambda: next(
            (e for e in [cluster.get(f"/v1/evaluation/{first['BlockedEval']}")] if e["Status"] == "canceled"),
            None,
        )
    )
    assert old["StatusDescription"] == f'existing blocked evaluation exists for job "{job["ID"]}"'


def test_constraints_and_drivers_rule_nodes_out(cluster: Cluster) -> None:
    constraint = {"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "plan9"}
    job = cluster.job(cluster.name(), job={"Constraints": [constraint]})
    metric = cluster.evaluation(cluster.register(job)["EvalID"])["FailedTGAllocs"]["app"]
    assert metric["ConstraintFiltered"] == {"${attr.kernel.name} = plan9": 1}
    assert (metric["NodesFiltered"], metric["NodesExhausted"]) == (1, 0)
    job = cluster.job(cluster.name(), task={"Driver": "qemu", "Config": {"image_path": "x"}})
    metric = cluster.evaluation(cluster.register(job)["EvalID"])["FailedTGAllocs"]["app"]
    assert metric["ConstraintFiltered"] == {"missing drivers": 1}
    job = cluster.job(cluster.name(), job={"Datacenters": ["elsewhere"]})
    metric = cluster.evaluation(cluster.register(job)["EvalID"])["FailedTGAllocs"]["app"]
    assert metric["NodesEvaluated"] == 0


def test_a_stopped_job_leaves_no_blocked_evaluation(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), memory_mb=10_000_000)
    evaluation = cluster.evaluation(cluster.register(job)["EvalID"])
    cluster.http.delete(f"/v1/job/{job['ID']}")
    cluster.until(lambda: cluster.get(f"/v1/job/{job['ID']}")["Status"] == "dead")
    blocked = cluster.get(f"/v1/evaluation/{evaluation['BlockedEval']}")
    assert blocked["Status"] == "canceled"


def test_forced_evaluation(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    cluster.running(job["ID"])
    reply = cluster.http.put(f"/v1/job/{job['ID']}/evaluate", json={"JobID": job["ID"]}).json()
    evaluation = cluster.evaluation(reply["EvalID"])
    assert (evaluation["TriggeredBy"], evaluation["Status"]) == ("job-register", "complete")
    assert len(cluster.allocs(job["ID"])) == 1


def test_eligibility(cluster: Cluster) -> None:
    [node] = cluster.get("/v1/nodes")
    path = f"/v1/node/{node['ID']}/eligibility"
    job = cluster.job(cluster.name())
    try:
        assert cluster.http.put(path, json={"Eligibility": "ineligible"}).status_code == 200
        assert cluster.get(f"/v1/node/{node['ID']}")["SchedulingEligibility"] == "ineligible"
        evaluation = cluster.evaluation(cluster.register(job)["EvalID"])
        assert evaluation["FailedTGAllocs"]["app"]["NodesEvaluated"] == 0
    finally:
        cluster.http.put(path, json={"Eligibility": "eligible"})
    cluster.running(job["ID"])
    reply = cluster.http.put(path, json={"Eligibility": "odd"})
    assert (reply.status_code, reply.text) == (500, 'invalid scheduling eligibility "odd"')


def test_a_drain_stops_the_task_even_without_another_node(cluster: Cluster) -> None:
    [node] = cluster.get("/v1/nodes")
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    path = f"/v1/node/{node['ID']}/drain"
    try:
        cluster.http.put(path, json={"DrainSpec": {"Deadline": 600 * SECOND}})
        draining = cluster.get(f"/v1/node/{node['ID']}")
        assert draining["SchedulingEligibility"] == "ineligible"
        gone = cluster.until(lambda: (a := cluster.alloc(alloc["ID"]))["ClientStatus"] == "complete" and a)
        assert gone["DesiredDescription"] == "alloc is being migrated"
        assert gone["DesiredTransition"]["Migrate"] is True
        [evaluation] = [
            e for e in cluster.get(f"/v1/job/{job['ID']}/evaluations") if e["TriggeredBy"] == "node-drain"
        ]
        assert evaluation["QueuedAllocations"] == {"app": 1}
        done = cluster.until(lambda: (n := cluster.get(f"/v1/node/{node['ID']}")) and not n["Drain"] and n)
        assert (done["SchedulingEligibility"], done["LastDrain"]["Status"]) == ("ineligible", "complete")
    finally:
        cluster.http.put(path, json={"DrainSpec": None, "MarkEligible": True})
    assert cluster.get(f"/v1/node/{node['ID']}")["SchedulingEligibility"] == "eligible"
    cluster.running(job["ID"], after=alloc["CreateIndex"])
