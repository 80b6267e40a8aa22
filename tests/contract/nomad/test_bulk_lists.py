"""Reading everything at once, page by page: what a sweep over all jobs, allocations and variables relies on."""

from __future__ import annotations

from itertools import chain
from typing import Any

from tests.contract.nomad.cluster import Cluster


def pages(cluster: Cluster, path: str, **params: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list, by following X-Nomad-NextToken."""
    found: list[list[dict[str, Any]]] = []
    token = ""
    while True:
        query = {**params, **({"next_token": token} if token else {})}
        reply = cluster.http.get(path, params=query)
        assert reply.status_code == 200, reply.text
        assert int(reply.headers["X-Nomad-Index"]) > 0
        found.append(reply.json())
        token = reply.headers.get("X-Nomad-NextToken", "")
        if not token:
            return found


def test_all_jobs_page_by_page(cluster: Cluster) -> None:
    prefix = cluster.name("bulk")
    names = [f"{prefix}-{number}" for number in range(5)]
    cluster._jobs += names
    for name in names:
        cluster.register(cluster.job(name))
    found = pages(cluster, "/v1/jobs", namespace="default", prefix=prefix, per_page=2)
    assert [[job["ID"] for job in page] for page in found] == [names[:2], names[2:4], names[4:]]
    for stub in chain.from_iterable(found):
        whole = cluster.get(f"/v1/job/{stub['ID']}")
        for field in ("JobModifyIndex", "SubmitTime", "CreateIndex", "Stop", "Namespace"):
            assert stub[field] == whole[field], field
        assert stub["SubmitTime"] > 1_600_000_000_000_000_000
        assert stub["Stop"] is False


def test_the_list_of_jobs_tells_what_was_changed(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    first = cluster.register(job)["JobModifyIndex"]
    cluster.running(job["ID"])
    [stub] = cluster.get("/v1/jobs", prefix=job["ID"])
    assert (stub["JobModifyIndex"], stub["Status"]) == (first, "running")
    cluster.register(job)
    assert cluster.get("/v1/jobs", prefix=job["ID"])[0]["JobModifyIndex"] == first
    changed = cluster.register({**job, "Priority": 60})["JobModifyIndex"]
    [stub] = cluster.get("/v1/jobs", prefix=job["ID"])
    assert stub["JobModifyIndex"] == changed > first
    cluster.http.delete(f"/v1/job/{job['ID']}")
    [stub] = cluster.get("/v1/jobs", prefix=job["ID"])
    assert stub["Stop"] is True
    assert stub["JobModifyIndex"] > changed
    cluster.until(lambda: cluster.get("/v1/jobs", prefix=job["ID"])[0]["Status"] == "dead")


def test_all_allocations_page_by_page(cluster: Cluster) -> None:
    jobs = [cluster.name() for _ in range(4)]
    for job_id in jobs:
        cluster.register(cluster.job(job_id))
        cluster.running(job_id)
    query = {"namespace": "default", "resources": "true", "task_states": "false"}
    found = pages(cluster, "/v1/allocations", **query, per_page=2)
    assert all(len(page) == 2 for page in found[:-1])
    flat = list(chain.from_iterable(found))
    assert len({alloc["ID"] for alloc in flat}) == len(flat)
    order = [(alloc["CreateIndex"], alloc["ID"]) for alloc in flat]
    assert order == sorted(order)
    mine = {alloc["JobID"]: alloc for alloc in flat if alloc["JobID"] in jobs}
    assert mine.keys() == set(jobs)
    for alloc in mine.values():
        assert alloc["TaskStates"] is None
        [port] = alloc["AllocatedResources"]["Shared"]["Ports"]
        assert (port["Label"], port["HostIP"]) == ("http", "127.0.0.1")
        assert (alloc["DesiredStatus"], alloc["ClientStatus"]) == ("run", "running")
        assert alloc["NodeName"]
        assert alloc["FollowupEvalID"] == ""
        assert alloc["ModifyTime"] >= alloc["CreateTime"] > 1_600_000_000_000_000_000


def test_a_page_goes_on_although_what_its_token_names_is_gone(cluster: Cluster) -> None:
    prefix = cluster.name("bulk")
    names = [f"{prefix}-{letter}" for letter in "abcd"]
    cluster._jobs += names
    for name in names:
        cluster.register(cluster.job(name))
    first = cluster.http.get("/v1/jobs", params={"prefix": prefix, "per_page": 2})
    token = first.headers["X-Nomad-NextToken"]
    assert token == f"default.{names[2]}"
    cluster.http.delete(f"/v1/job/{names[2]}", params={"purge": "true"})
    rest = cluster.http.get("/v1/jobs", params={"prefix": prefix, "per_page": 2, "next_token": token})
    assert [job["ID"] for job in rest.json()] == names[3:]
    assert "X-Nomad-NextToken" not in rest.headers


def test_all_variables_page_by_page(cluster: Cluster) -> None:
    base = f"nomad/jobs/{cluster.name('bulk')}"
    paths = [f"{base}_{number}" for number in range(5)]
    for path in paths:
        cluster.put_variable(path, {"a": "1"})
    found = pages(cluster, "/v1/vars", namespace="default", prefix=base, per_page=2)
    assert [[one["Path"] for one in page] for page in found] == [paths[:2], paths[2:4], paths[4:]]
    assert all(one["Namespace"] == "default" and "Items" not in one for page in found for one in page)
