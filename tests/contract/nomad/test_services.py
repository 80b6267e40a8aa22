"""What Nomad tells Consul."""

from __future__ import annotations

import re
from typing import Any

from tests.contract.nomad.cluster import SECOND, Cluster


def _service(**more: Any) -> dict[str, Any]:
    check = {
        "Name": "ping",
        "Type": "http",
        "Path": "/ping",
        "Interval": 2 * SECOND,
        "Timeout": SECOND,
        "Method": "GET",
        "Header": {"X-Test": ["a"]},
    }
    return {
        "Name": "web",
        "PortLabel": "http",
        "Tags": ["t-${NOMAD_GROUP_NAME}"],
        "Meta": {"alloc": "${NOMAD_ALLOC_ID}", "node": "${node.unique.name}"},
        "Checks": [check],
        **more,
    }


def test_a_service_is_registered_and_withdrawn(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), group={"Services": [_service()]})
    cluster.register(job)
    alloc = cluster.alloc(cluster.running(job["ID"])["ID"])
    [registered] = cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    [port] = alloc["AllocatedResources"]["Shared"]["Ports"]
    ip, value = port["HostIP"], port["Value"]
    [check] = registered.pop("Checks")
    assert registered.pop("Check", None) is None
    assert registered.pop("EnableTagOverride", False) is False
    assert registered == {
        "ID": f"_nomad-task-{alloc['ID']}-group-app-web-http",
        "Name": "web",
        "Tags": ["t-app"],
        "Port": value,
        "Address": ip,
        "Meta": {"alloc": alloc["ID"], "node": alloc["NodeName"], "external-source": "nomad"},
    }
    assert re.fullmatch("_nomad-check-[0-9a-f]{40,64}", check.pop("CheckID"))
    assert check == {
        "Name": "ping",
        "Interval": "2s",
        "Timeout": "1s",
        "HTTP": f"http://{ip}:{value}/ping",
        "Method": "GET",
        "Header": {"X-Test": ["a"]},
    }
    cluster.stop_and_wait(job["ID"])
    cluster.until(lambda: not cluster.consul.of_alloc(alloc["ID"]))
    assert f"_nomad-task-{alloc['ID']}-group-app-web-http" in cluster.consul.deregistered


def test_a_service_is_known_before_its_task_starts(cluster: Cluster) -> None:
    job_id = cluster.name()
    template = {
        "EmbeddedTmpl": f'{{{{ with nomadVar "nomad/jobs/{job_id}" }}}}A={{{{ .a }}}}{{{{ end }}}}',
        "DestPath": "secrets/a.env",
        "Envvars": True,
    }
    cluster.register(cluster.job(job_id, group={"Services": [_service()]}, task={"Templates": [template]}))
    alloc = cluster.until(lambda: next(iter(cluster.allocs(job_id)), None))
    cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    assert cluster.alloc(alloc["ID"])["ClientStatus"] == "pending"


def test_changed_meta_reaches_consul_without_a_new_allocation(cluster: Cluster) -> None:
    job_id = cluster.name()
    cluster.register(cluster.job(job_id, group={"Services": [_service()]}))
    alloc = cluster.running(job_id)
    cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    cluster.register(cluster.job(job_id, group={"Services": [_service(Meta={"gen": "2"})]}))
    cluster.until(lambda: [s for s in cluster.consul.of_alloc(alloc["ID"]) if s["Meta"].get("gen") == "2"])
    assert [a["ID"] for a in cluster.allocs(job_id)] == [alloc["ID"]]


def test_a_service_survives_the_restart_of_its_task(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), group={"Services": [_service()]})
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    [before] = cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    cluster.http.put(f"/v1/client/allocation/{alloc['ID']}/restart", json={"TaskName": "main"})
    cluster.until(lambda: cluster.alloc(alloc["ID"])["TaskStates"]["main"]["Restarts"] == 1)
    cluster.until(lambda: cluster.alloc(alloc["ID"])["ClientStatus"] == "running")
    [after] = cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    assert after["ID"] == before["ID"]


def test_a_failed_task_leaves_consul(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), "sleep 1; exit 1", group={"Services": [_service()]})
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    cluster.until(lambda: cluster.alloc(alloc["ID"])["ClientStatus"] == "failed")
    cluster.until(lambda: not cluster.consul.of_alloc(alloc["ID"]))
