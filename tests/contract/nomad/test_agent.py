"""What the agent says of itself and its cluster."""

from __future__ import annotations

import re

from tests.contract.nomad.cluster import Cluster


def test_leader_and_peers(cluster: Cluster) -> None:
    leader = cluster.get("/v1/status/leader")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", leader)
    assert cluster.get("/v1/status/peers") == [leader]
    assert cluster.get("/v1/regions") == ["global"]


def test_agent_self_names_the_release(cluster: Cluster) -> None:
    told = cluster.get("/v1/agent/self")
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["config"]["Version"]["Version"])
    assert told["config"]["Server"]["Enabled"] is True
    assert told["config"]["ACL"]["Enabled"] is False
    assert told["member"]["Tags"]["role"] == "nomad"
    assert told["stats"]["nomad"]["leader"] == "true"
    assert cluster.get("/v1/agent/health") == {
        "client": {"message": "ok", "ok": True},
        "server": {"message": "ok", "ok": True},
    }


def test_namespaces(cluster: Cluster) -> None:
    [default] = cluster.get("/v1/namespaces")
    assert (default["Name"], default["Description"]) == ("default", "Default shared namespace")
    assert cluster.get("/v1/namespace/default")["Name"] == "default"
    reply = cluster.http.get("/v1/namespace/none")
    assert (reply.status_code, reply.text) == (404, "Namespace not found")


def test_nodes(cluster: Cluster) -> None:
    [stub] = cluster.get("/v1/nodes")
    assert stub.keys() == {
        *("Address", "ID", "Attributes", "Datacenter", "Name", "NodePool", "NodeClass", "Version", "Drain"),
        *("SchedulingEligibility", "Status", "StatusDescription", "Drivers", "HostVolumes", "NodeResources"),
        *("ReservedResources", "LastDrain", "CreateIndex", "ModifyIndex"),
    }
    assert (stub["Status"], stub["SchedulingEligibility"], stub["Name"]) == ("ready", "eligible", "host-1")
    assert (stub["Attributes"], stub["NodeResources"]) == (None, None)
    assert stub["Drivers"]["raw_exec"]["Healthy"] is True
    [more] = cluster.get("/v1/nodes", resources="true", os="true")
    assert more["NodeResources"]["MinDynamicPort"] <= more["NodeResources"]["MaxDynamicPort"]
    assert more["Attributes"].keys() == {"os.name"}
    node = cluster.get(f"/v1/node/{stub['ID']}")
    assert node["Attributes"]["kernel.name"] == "linux"
    assert node["Attributes"]["driver.raw_exec"] == "1"
    assert "consul.version" in node["Attributes"]
    assert (node["Drain"], node["DrainStrategy"], node["SecretID"]) == (False, None, "")
    assert cluster.get("/v1/nodes", prefix=stub["ID"][:8])[0]["ID"] == stub["ID"]


def test_lists_of_evaluations(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    reply = cluster.register(job)
    cluster.evaluation(reply["EvalID"])
    [found] = cluster.get("/v1/evaluations", job=job["ID"])
    assert (found["ID"], found["TriggeredBy"], found["Type"]) == (reply["EvalID"], "job-register", "service")
    assert cluster.get("/v1/evaluations", prefix=reply["EvalID"][:8])[0]["ID"] == reply["EvalID"]
    refused = cluster.http.get("/v1/evaluations", params={"job": "x", "filter": 'JobID == "x"'})
    assert (refused.status_code, refused.text) == (
        400,
        "Filter expression cannot be used with other filter parameters",
    )


def test_statuses_of_jobs(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    reply = cluster.http.post("/v1/jobs/statuses", json={"Jobs": [{"ID": job["ID"], "Namespace": "default"}]})
    [status] = reply.json()
    assert (status["ID"], status["GroupCountSum"], status["Stop"]) == (job["ID"], 1, False)
    assert [(a["ID"], a["ClientStatus"], a["Group"]) for a in status["Allocs"]] == [
        (alloc["ID"], "running", "app")
    ]
