"""The life of an allocation and of its task."""

from __future__ import annotations

import base64
import json

from tests.contract.nomad.cluster import SECOND, Cluster

NOBODY = "00000000-0000-0000-0000-000000000000"


def test_stub_and_full_allocation(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    evaluation = cluster.evaluation(cluster.register(job)["EvalID"])
    stub = cluster.running(job["ID"])
    assert stub.keys() == {
        *(
            "ID",
            "EvalID",
            "Name",
            "Namespace",
            "NodeID",
            "NodeName",
            "JobID",
            "JobType",
            "JobVersion",
            "TaskGroup",
        ),
        *("AllocatedResources", "DesiredStatus", "DesiredDescription", "ClientStatus", "ClientDescription"),
        *("DesiredTransition", "TaskStates", "DeploymentStatus", "FollowupEvalID", "NextAllocation"),
        *("RescheduleTracker", "PreemptedAllocations", "PreemptedByAllocation"),
        *("CreateIndex", "ModifyIndex", "CreateTime", "ModifyTime"),
    }
    assert (stub["Name"], stub["JobType"], stub["EvalID"]) == (
        f"{job['ID']}.app[0]",
        "service",
        evaluation["ID"],
    )
    assert stub["AllocatedResources"] is None
    assert (stub["ClientDescription"], stub["DesiredDescription"]) == ("Tasks are running", "")
    full = cluster.alloc(stub["ID"])
    assert full.keys() == {
        *(
            "ID",
            "Namespace",
            "EvalID",
            "Name",
            "NodeID",
            "NodeName",
            "JobID",
            "Job",
            "TaskGroup",
            "Resources",
        ),
        *(
            "SharedResources",
            "TaskResources",
            "AllocatedResources",
            "Metrics",
            "DesiredStatus",
            "ClientStatus",
        ),
        *("ClientDescription", "TaskStates", "NetworkStatus", "SigningKeyID"),
        *("CreateIndex", "ModifyIndex", "AllocModifyIndex", "CreateTime", "ModifyTime"),
    }
    assert full["Job"]["ID"] == job["ID"]
    assert full["AllocatedResources"]["Tasks"]["main"] == {
        "Cpu": {"CpuShares": 10, "ReservedCores": None},
        "Memory": {"MemoryMB": 16, "MemoryMaxMB": 0},
        "Networks": None,
        "Devices": None,
    }
    assert full["Metrics"].keys() == {
        *("NodesEvaluated", "NodesFiltered", "NodesInPool", "NodePool", "NodesAvailable", "ClassFiltered"),
        *("ConstraintFiltered", "NodesExhausted", "ClassExhausted", "DimensionExhausted", "QuotaExhausted"),
        *("ResourcesExhausted", "Scores", "ScoreMetaData", "AllocationTime", "CoalescedFailures"),
    }


def test_lists_of_allocations(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    [bare] = cluster.get("/v1/allocations", prefix=alloc["ID"][:8], resources="true", task_states="false")
    assert bare["TaskStates"] is None
    assert bare["AllocatedResources"]["Shared"]["Ports"][0]["Label"] == "http"
    found = cluster.get("/v1/allocations", filter=f'JobID == "{job["ID"]}"')
    assert [a["ID"] for a in found] == [alloc["ID"]]
    assert cluster.get("/v1/allocations", namespace="elsewhere") == []
    assert alloc["ID"] in {a["ID"] for a in cluster.get("/v1/allocations", namespace="*")}
    [full] = [a for a in cluster.get(f"/v1/node/{alloc['NodeID']}/allocations") if a["ID"] == alloc["ID"]]
    assert full["ClientStatus"] == "running"
    [by_eval] = cluster.get(f"/v1/evaluation/{alloc['EvalID']}/allocations")
    assert by_eval["ID"] == alloc["ID"]


def test_pages_of_allocations(cluster: Cluster) -> None:
    jobs = [cluster.name() for _ in range(3)]
    for job_id in jobs:
        cluster.register(cluster.job(job_id))
        cluster.running(job_id)
    expected = [a["ID"] for a in cluster.get("/v1/allocations")]
    seen: list[str] = []
    token = ""
    for _ in range(len(expected) + 1):
        reply = cluster.http.get("/v1/allocations", params={"per_page": 2, "next_token": token})
        seen += [a["ID"] for a in reply.json()]
        token = reply.headers.get("X-Nomad-NextToken", "")
        if not token:
            break
    assert seen == expected
    assert len(seen) >= 3


def test_ids_that_are_none(cluster: Cluster) -> None:
    short = "alloc lookup failed: index error: UUID must be 36 characters"
    odd = "index error: Input (without hyphens) must be even length"
    for path, status, text in (
        ("/v1/allocation/nope", 500, short),
        (f"/v1/allocation/{NOBODY}", 404, "alloc not found"),
        ("/v1/evaluation/nope", 500, f"failed to lookup eval: {short.replace('alloc', 'eval')}"),
        (f"/v1/evaluation/{NOBODY}", 404, "eval not found"),
        ("/v1/deployment/nope", 500, short.replace("alloc", "deployment")),
        (f"/v1/deployment/{NOBODY}", 404, "deployment not found"),
        ("/v1/node/nope", 500, short.replace("alloc", "node")),
        (f"/v1/node/{NOBODY}", 404, "node not found"),
        ("/v1/allocations?prefix=abc", 500, f"alloc lookup failed: {odd}"),
        ("/v1/nodes?prefix=abc", 500, f"node lookup failed: {odd}"),
        (f"/v1/client/allocation/{NOBODY}/stats", 404, f'Unknown allocation "{NOBODY}"'),
        ("/v1/client/allocation/nope/stats", 500, short),
    ):
        reply = cluster.http.get(path)
        assert (reply.status_code, reply.text) == (status, text), path
    reply = cluster.http.put(f"/v1/allocation/{NOBODY}/stop")
    assert (reply.status_code, reply.text) == (404, "allocation not found")
    reply = cluster.http.put("/v1/allocation/nope/stop")
    assert (reply.status_code, reply.text) == (500, short)


def test_the_steps_to_running(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    state = cluster.running(job["ID"])["TaskStates"]["main"]
    assert [event["Type"] for event in state["Events"]] == ["Received", "Task Setup", "Started"]
    assert [event["DisplayMessage"] for event in state["Events"]] == [
        "Task received by client",
        "Building Task Directory",
        "Task started by client",
    ]
    assert (state["State"], state["Failed"], state["Restarts"], state["FinishedAt"]) == (
        "running",
        False,
        0,
        None,
    )
    assert state["StartedAt"].endswith("Z")


def test_the_environment_of_a_task(cluster: Cluster) -> None:
    job_id = cluster.name()
    env = {
        "FROM_ALLOC": "${NOMAD_ALLOC_ID}",
        "FROM_NODE": "${node.unique.name}/${node.datacenter}/${attr.unique.network.ip-address}",
        "FROM_PORT": "${NOMAD_ADDR_my-port}",
        "UNKNOWN": "${meta.nothing}",
    }
    network = [{"DynamicPorts": [{"Label": "my-port"}]}]
    task = {"Env": env, "Meta": {"owner": "x"}}
    group = {"Networks": network}
    cluster.register(cluster.job(job_id, "env; exec sleep 600", task=task, group=group))
    stub = cluster.running(job_id)
    cluster.until(lambda: "NOMAD_TASK_NAME" in cluster.stdout(stub["ID"]))
    seen = dict(line.partition("=")[::2] for line in cluster.stdout(stub["ID"]).splitlines())
    alloc = cluster.alloc(stub["ID"])
    [port] = alloc["AllocatedResources"]["Shared"]["Ports"]
    ip, value = port["HostIP"], str(port["Value"])
    expected = {
        "NOMAD_ALLOC_ID": alloc["ID"],
        "NOMAD_SHORT_ALLOC_ID": alloc["ID"][:8],
        "NOMAD_ALLOC_NAME": alloc["Name"],
        "NOMAD_ALLOC_INDEX": "0",
        "NOMAD_JOB_ID": job_id,
        "NOMAD_JOB_NAME": job_id,
        "NOMAD_GROUP_NAME": "app",
        "NOMAD_TASK_NAME": "main",
        "NOMAD_NAMESPACE": "default",
        "NOMAD_REGION": "global",
        "NOMAD_DC": "dc1",
        "NOMAD_CPU_LIMIT": "10",
        "NOMAD_MEMORY_LIMIT": "16",
        "NOMAD_META_owner": "x",
        "NOMAD_META_OWNER": "x",
        "NOMAD_PORT_my_port": value,
        "NOMAD_HOST_PORT_my_port": value,
        "NOMAD_IP_my_port": ip,
        "NOMAD_ADDR_my_port": f"{ip}:{value}",
        "FROM_ALLOC": alloc["ID"],
        "FROM_PORT": f"{ip}:{value}",
        "UNKNOWN": "${meta.nothing}",
    }
    assert {key: seen.get(key) for key in expected} == expected
    node = cluster.get(f"/v1/node/{alloc['NodeID']}")
    address = node["Attributes"]["unique.network.ip-address"]
    assert seen["FROM_NODE"] == f"{node['Name']}/dc1/{address}"
    for folder, end in (("ALLOC", "/alloc"), ("TASK", "/main/local"), ("SECRETS", "/main/secrets")):
        assert seen[f"NOMAD_{folder}_DIR"].endswith(end)


def test_logs(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), "echo out; echo err >&2; exec sleep 600")
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.until(lambda: cluster.stdout(alloc["ID"]) == "out\n")
    path = f"/v1/client/fs/logs/{alloc['ID']}"
    frames = cluster.until(lambda: cluster.http.get(path, params={"task": "main", "type": "stderr"}).text)
    frame = json.loads(frames)
    assert base64.b64decode(frame["Data"]) == b"err\n"
    assert (frame["File"], frame["Offset"]) == ("alloc/logs/main.stderr.0", 4)
    tail = {"task": "main", "type": "stdout", "plain": "true", "origin": "end", "offset": "2"}
    assert cluster.http.get(path, params=tail).text == "t\n"
    for params, text in (
        ({"type": "stdout"}, "must provide task name"),
        ({"task": "main", "type": "odd"}, "must provide log type (stdout/stderr)"),
        ({"task": "other", "type": "stdout"}, 'unknown task name "other"'),
    ):
        reply = cluster.http.get(path, params=params)
        assert (reply.status_code, reply.text) == (400, text)


def test_stopping_an_allocation_brings_a_new_one(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    old = cluster.running(job["ID"])
    reply = cluster.http.put(f"/v1/allocation/{old['ID']}/stop").json()
    assert cluster.evaluation(reply["EvalID"])["TriggeredBy"] == "alloc-stop"
    new = cluster.running(job["ID"], after=old["CreateIndex"])
    gone = cluster.alloc(old["ID"])
    assert gone["DesiredDescription"] == "alloc is being migrated"
    assert gone["DesiredTransition"]["Migrate"] is True
    assert (gone["NextAllocation"], gone["ClientStatus"]) == (new["ID"], "complete")
    assert cluster.alloc(new["ID"])["PreviousAllocation"] == old["ID"]
    assert gone["TaskStates"]["main"]["FinishedAt"] <= new["TaskStates"]["main"]["StartedAt"]


def test_a_task_that_ignores_its_signal_is_killed(cluster: Cluster) -> None:
    job = cluster.job(
        cluster.name(), "trap '' INT; sleep 600 & wait; sleep 600", task={"KillTimeout": SECOND}
    )
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.stop_and_wait(job["ID"])
    events = cluster.alloc(alloc["ID"])["TaskStates"]["main"]["Events"][-3:]
    assert [event["Type"] for event in events] == ["Killing", "Terminated", "Killed"]
    assert events[0]["DisplayMessage"] == "Sent interrupt. Waiting 1s before force killing"
    assert (events[1]["ExitCode"], events[1]["Signal"]) == (137, 9)
    assert events[2]["DisplayMessage"] == "Task successfully killed"


def test_the_kill_signal_is_the_jobs_choice(cluster: Cluster) -> None:
    for signal, name in (("SIGTERM", "TERM"), ("", "INT")):
        command = f"trap 'echo got {name}; exit 0' {name}; while true; do sleep 0.1; done"
        job = cluster.job(cluster.name(), command, task={"KillSignal": signal})
        cluster.register(job)
        alloc = cluster.running(job["ID"])
        cluster.stop_and_wait(job["ID"])
        assert cluster.stdout(alloc["ID"]) == f"got {name}\n"


def test_restart_policy_then_failure(cluster: Cluster) -> None:
    restart = {"Attempts": 2, "Interval": 60 * SECOND, "Delay": SECOND // 4, "Mode": "fail"}
    job = cluster.job(cluster.name(), "echo run; exit 3", group={"RestartPolicy": restart})
    cluster.register(job)
    alloc = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "failed"), None)
    )
    assert alloc["ClientDescription"] == "Failed tasks"
    assert alloc["DesiredStatus"] == "run"
    state = alloc["TaskStates"]["main"]
    assert (state["State"], state["Failed"], state["Restarts"]) == ("dead", True, 2)
    ended = [event for event in state["Events"] if event["Type"] == "Terminated"]
    assert ended[-1]["DisplayMessage"] == "Exit Code: 3"
    again = [event for event in state["Events"] if event["Type"] == "Restarting"]
    assert {event["RestartReason"] for event in again} == {"Restart within policy"}
    last = state["Events"][-1]
    assert (last["Type"], last["FailsTask"]) == ("Not Restarting", True)
    assert last["DisplayMessage"] == 'Exceeded allowed attempts 2 in interval 1m0s and mode is "fail"'
    # Without a reschedule policy it stays so.
    assert len(cluster.allocs(job["ID"])) == 1
    assert cluster.get(f"/v1/job/{job['ID']}")["Status"] == "dead"
    assert cluster.stdout(alloc["ID"]) == "run\n" * 3


def test_a_clean_exit_of_a_service_is_a_failure_too(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), "exit 0")
    cluster.register(job)
    alloc = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "failed"), None)
    )
    last = alloc["TaskStates"]["main"]["Events"][-1]
    assert (last["Type"], last["DisplayMessage"]) == ("Not Restarting", "Policy allows no restarts")


def test_a_command_that_does_not_exist(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), task={"Config": {"command": "/no/such/program"}})
    cluster.register(job)
    alloc = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "failed"), None)
    )
    kinds = [event["Type"] for event in alloc["TaskStates"]["main"]["Events"]]
    assert kinds == ["Received", "Task Setup", "Driver Failure", "Not Restarting"]


def test_a_failed_allocation_is_replaced_after_its_delay(cluster: Cluster) -> None:
    policy = {"Delay": 5 * SECOND, "DelayFunction": "constant", "Unlimited": True}
    job = cluster.job(cluster.name(), "exit 1", group={"ReschedulePolicy": policy})
    cluster.register(job)
    old = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "failed"), None)
    )
    waiting = cluster.until(lambda: (a := cluster.alloc(old["ID"])).get("FollowupEvalID") and a)
    follow_up = cluster.get(f"/v1/evaluation/{waiting['FollowupEvalID']}")
    trigger = "alloc-reschedule" if cluster.release >= (2,) else "alloc-failure"
    assert (follow_up["Status"], follow_up["TriggeredBy"]) == ("pending", trigger)
    assert follow_up["StatusDescription"] == "created for delayed rescheduling"
    assert follow_up["WaitUntil"]
    new = cluster.until(lambda: next((a for a in cluster.allocs(job["ID"]) if a["ID"] != old["ID"]), None))
    gone = cluster.alloc(old["ID"])
    assert (gone["NextAllocation"], gone["DesiredStatus"]) == (new["ID"], "stop")
    assert "DesiredDescription" not in gone
    full = cluster.alloc(new["ID"])
    assert full["PreviousAllocation"] == old["ID"]
    [event] = full["RescheduleTracker"]["Events"]
    assert (event["PrevAllocID"], event["PrevNodeID"], event["Delay"]) == (
        old["ID"],
        old["NodeID"],
        5 * SECOND,
    )
    failed_at = gone["TaskStates"]["main"]["FinishedAt"]
    assert event["RescheduleTime"] > 0
    assert failed_at


def test_forced_rescheduling_skips_the_delay(cluster: Cluster) -> None:
    policy = {"Delay": 3600 * SECOND, "DelayFunction": "constant", "Unlimited": True}
    job = cluster.job(cluster.name(), "exit 1", group={"ReschedulePolicy": policy})
    cluster.register(job)
    old = cluster.until(
        lambda: next((a for a in cluster.allocs(job["ID"]) if a["ClientStatus"] == "failed"), None)
    )
    cluster.until(lambda: cluster.alloc(old["ID"]).get("FollowupEvalID"))
    body = {"JobID": job["ID"], "EvalOptions": {"ForceReschedule": True}}
    cluster.http.put(f"/v1/job/{job['ID']}/evaluate", json=body)
    new = cluster.until(lambda: next((a for a in cluster.allocs(job["ID"]) if a["ID"] != old["ID"]), None))
    assert cluster.alloc(new["ID"])["PreviousAllocation"] == old["ID"]


def test_restarting_a_task_by_request(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), "echo $NOMAD_PORT_http; exec sleep 600")
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    path = f"/v1/client/allocation/{alloc['ID']}/restart"
    reply = cluster.http.put(path, json={"TaskName": "other"})
    assert (reply.status_code, reply.text) == (500, "Could not find task runner for task: other")
    reply = cluster.http.put(path, json={"TaskName": "main"})
    assert (reply.status_code, reply.json()) == (200, {"Index": 0})

    def restarted() -> bool:
        state = cluster.alloc(alloc["ID"])["TaskStates"]["main"]
        return bool(state["Restarts"] == 1 and state["State"] == "running")

    cluster.until(restarted)
    kinds = cluster.events_of(alloc["ID"])
    assert kinds[3:] == ["Restart Signaled", "Terminated", "Restarting", "Started"]
    cluster.until(lambda: len(cluster.stdout(alloc["ID"]).split()) == 2)
    assert len(set(cluster.stdout(alloc["ID"]).split())) == 1, "the port is kept"
    cluster.stop_and_wait(job["ID"])
    reply = cluster.http.put(path, json={"TaskName": "main"})
    assert (reply.status_code, reply.text) == (500, "Task not running")


def test_stats_have_their_shape(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    stats = cluster.get(f"/v1/client/allocation/{alloc['ID']}/stats")
    assert stats.keys() == {"ResourceUsage", "Tasks", "Timestamp"}
    assert stats["ResourceUsage"]["MemoryStats"].keys() == {
        *(
            "RSS",
            "Cache",
            "Swap",
            "MappedFile",
            "Usage",
            "MaxUsage",
            "KernelUsage",
            "KernelMaxUsage",
            "Measured",
        )
    }
    assert stats["ResourceUsage"]["CpuStats"].keys() == {
        *("SystemMode", "UserMode", "TotalTicks", "ThrottledPeriods", "ThrottledTime", "Percent", "Measured")
    }


def test_a_template_waits_for_its_variable(cluster: Cluster) -> None:
    job_id = cluster.name()
    path = f"nomad/jobs/{job_id}"
    source = f'{{{{- with nomadVar "{path}" -}}}}\nKEY={{{{ .key }}}}\nQUOTED={{{{ .other | toJSON }}}}\n{{{{- end }}}}\n'
    template = {"EmbeddedTmpl": source, "DestPath": "secrets/k.env", "Envvars": True, "ChangeMode": "noop"}
    cluster.register(
        cluster.job(job_id, 'echo "$KEY $QUOTED"; exec sleep 600', task={"Templates": [template]})
    )
    alloc = cluster.until(lambda: next((a for a in cluster.allocs(job_id) if a["TaskStates"]), None))
    cluster.until(lambda: cluster.events_of(alloc["ID"])[:2] == ["Received", "Task Setup"])
    current = cluster.alloc(alloc["ID"])
    assert (current["ClientStatus"], current["TaskStates"]["main"]["State"]) == ("pending", "pending")
    assert current["ClientDescription"] == "No tasks have started"
    assert cluster.put_variable(path, {"key": "abc", "other": 'with "quotes" # & <more>'}).status_code == 200
    running = cluster.running(job_id)
    cluster.until(lambda: cluster.stdout(running["ID"]) == 'abc with "quotes" # & <more>\n')


def test_garbage_collection(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.stop_and_wait(job["ID"])
    cluster.until(lambda: cluster.get(f"/v1/job/{job['ID']}")["Status"] == "dead")
    assert cluster.http.put("/v1/system/gc").status_code == 200
    cluster.until(lambda: cluster.http.get(f"/v1/allocation/{alloc['ID']}").status_code == 404)
    cluster.until(lambda: cluster.http.get(f"/v1/job/{job['ID']}").status_code == 404)
