"""Blocking queries and the event stream."""

from __future__ import annotations

import threading
import time

import httpx

from tests.contract.nomad.cluster import Cluster


def test_every_read_carries_its_index(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    for path in (
        "/v1/jobs",
        f"/v1/job/{job['ID']}",
        f"/v1/job/{job['ID']}/allocations",
        f"/v1/job/{job['ID']}/evaluations",
        f"/v1/job/{job['ID']}/summary",
        f"/v1/job/{job['ID']}/versions",
        "/v1/allocations",
        f"/v1/allocation/{alloc['ID']}",
        "/v1/evaluations",
        "/v1/nodes",
        f"/v1/node/{alloc['NodeID']}",
        "/v1/vars",
        "/v1/namespaces",
    ):
        headers = cluster.http.get(path).headers
        assert int(headers["X-Nomad-Index"]) >= 0, path
        assert headers["X-Nomad-KnownLeader"] == "true"
        assert headers["X-Nomad-LastContact"] == "0"
    single = cluster.http.get(f"/v1/allocation/{alloc['ID']}")
    assert int(single.headers["X-Nomad-Index"]) == single.json()["ModifyIndex"]


def test_a_blocking_query_returns_after_its_wait(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    cluster.running(job["ID"])
    index = cluster.http.get(f"/v1/job/{job['ID']}").headers["X-Nomad-Index"]
    started = time.monotonic()
    reply = cluster.http.get(f"/v1/job/{job['ID']}", params={"index": index, "wait": "500ms"})
    assert time.monotonic() - started >= 0.5
    assert (reply.status_code, reply.headers["X-Nomad-Index"]) == (200, index)


def test_a_blocking_query_above_the_newest_index_blocks_and_answers_lower(cluster: Cluster) -> None:
    started = time.monotonic()
    reply = cluster.http.get("/v1/jobs", params={"index": "999999999", "wait": "300ms"})
    assert time.monotonic() - started >= 0.3
    assert int(reply.headers["X-Nomad-Index"]) < 999999999


def test_a_blocking_query_on_a_missing_object_returns_when_it_appears(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    missing = cluster.http.get(f"/v1/job/{job['ID']}")
    assert missing.status_code == 404
    index = max(1, int(missing.headers["X-Nomad-Index"]))
    answers: list[httpx.Response] = []

    def wait() -> None:
        while not answers or answers[-1].status_code == 404:
            params = {"index": str(index), "wait": "10s"}
            answers.append(cluster.http.get(f"/v1/job/{job['ID']}", params=params))

    waiter = threading.Thread(target=wait)
    waiter.start()
    cluster.register(job)
    waiter.join(15)
    assert answers[-1].json()["ID"] == job["ID"]


def test_allocation_lists_wake_for_every_allocation(cluster: Cluster) -> None:
    watched, other = cluster.job(cluster.name()), cluster.job(cluster.name())
    cluster.register(watched)
    cluster.running(watched["ID"])
    path = f"/v1/job/{watched['ID']}/allocations"
    index = int(cluster.http.get(path).headers["X-Nomad-Index"])
    answers: list[httpx.Response] = []
    waiter = threading.Thread(
        target=lambda: answers.append(cluster.http.get(path, params={"index": str(index), "wait": "20s"}))
    )
    waiter.start()
    cluster.register(other)
    waiter.join(15)
    assert int(answers[0].headers["X-Nomad-Index"]) > index


def test_bad_blocking_parameters(cluster: Cluster) -> None:
    for params, text in (
        ({"index": "x"}, "Invalid index"),
        ({"index": "1", "wait": "x"}, "Invalid wait time"),
        ({"index": "1", "wait": "10"}, "Invalid wait time"),
    ):
        reply = cluster.http.get("/v1/jobs", params=params)
        assert (reply.status_code, reply.text) == (400, text)


def test_the_stream_begins_with_an_empty_line(cluster: Cluster) -> None:
    with cluster.stream("Nothing") as stream:
        cluster.until(lambda: stream.lines)
        assert stream.lines[0] == {}
        assert stream.content_type == "application/json"


def test_the_events_of_a_jobs_life(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    with cluster.stream(f"Job:{job['ID']}", f"Allocation:{job['ID']}", f"Evaluation:{job['ID']}") as stream:
        cluster.until(lambda: stream.lines)
        cluster.register(job)
        alloc = cluster.running(job["ID"])
        cluster.stop_and_wait(job["ID"])
        cluster.until(
            lambda: any(
                e["Topic"] == "Allocation" and e["Payload"]["Allocation"]["ClientStatus"] == "complete"
                for e in stream.events
            )
        )
        events = stream.events
    kinds = [(event["Topic"], event["Type"]) for event in events]
    for expected in (
        ("Job", "JobRegistered"),
        ("Evaluation", "JobRegistered"),
        ("Allocation", "PlanResult"),
        ("Evaluation", "PlanResult"),
        ("Job", "PlanResult"),
        ("Evaluation", "EvaluationUpdated"),
        ("Allocation", "AllocationUpdated"),
        ("Job", "JobDeregistered"),
        ("Evaluation", "JobDeregistered"),
    ):
        assert expected in kinds, expected
    indexes = [event["Index"] for event in events]
    assert indexes == sorted(indexes)
    by_line = [(line["Index"], [event["Topic"] for event in line["Events"]]) for line in stream.lines if line]
    assert by_line[:2] == [(events[0]["Index"], ["Job"]), (events[0]["Index"], ["Evaluation"])]
    assert by_line[2][1] == ["Evaluation", "Allocation", "Job"]
    placed = next(e for e in events if e["Topic"] == "Allocation" and e["Key"] == alloc["ID"])
    assert placed["Namespace"] == "default"
    assert placed["FilterKeys"] == [job["ID"], ""]
    payload = placed["Payload"]["Allocation"]
    assert "Job" not in payload
    assert (payload["JobID"], payload["DesiredStatus"]) == (job["ID"], "run")
    registered = next(e for e in events if e["Type"] == "JobRegistered" and e["Topic"] == "Job")
    assert (registered["Key"], registered["FilterKeys"]) == (job["ID"], None)
    assert registered["Payload"]["Job"]["ID"] == job["ID"]
    statuses = [e["Payload"]["Job"]["Status"] for e in events if e["Topic"] == "Job"]
    assert statuses[0] == "pending"
    assert "running" in statuses
    assert statuses[-1] == "dead"


def test_a_stream_without_an_index_replays_what_is_buffered(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    reply = cluster.register(job)
    cluster.running(job["ID"])
    with cluster.stream(f"Job:{job['ID']}") as stream:
        cluster.until(lambda: stream.events)
    assert stream.events[0]["Index"] == reply["JobModifyIndex"]


def test_resuming_at_an_index_repeats_it(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    reply = cluster.register(job)
    cluster.running(job["ID"])
    with cluster.stream("Job", index=reply["JobModifyIndex"]) as stream:
        cluster.until(lambda: stream.events)
    assert stream.events[0]["Index"] == reply["JobModifyIndex"]


def test_an_index_in_the_future_waits_for_news(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    with cluster.stream(f"Job:{job['ID']}", index=999_999_999) as stream:
        cluster.until(lambda: stream.lines)
        cluster.register(job)
        cluster.until(lambda: stream.events)
    assert stream.events[0]["Key"] == job["ID"]


def test_filters_of_the_stream(cluster: Cluster) -> None:
    job, other = cluster.job(cluster.name()), cluster.job(cluster.name())
    with (
        cluster.stream(f"Job:{job['ID']}") as mine,
        cluster.stream("Job", namespace="elsewhere") as elsewhere,
    ):
        cluster.until(lambda: mine.lines and elsewhere.lines)
        cluster.register(other)
        cluster.register(job)
        cluster.until(lambda: mine.events)
        cluster.running(job["ID"])
        assert {event["Key"] for event in mine.events} == {job["ID"]}
        assert elsewhere.events == []
    reply = cluster.http.get("/v1/event/stream", params={"topic": "Job:a:b"})
    assert reply.status_code == 400
    assert cluster.http.get("/v1/event/stream", params={"index": "x"}).status_code == 400


def test_allocation_updates_mark_their_node(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    with cluster.stream("Node") as stream:
        cluster.until(lambda: stream.lines)
        cluster.register(job)
        alloc = cluster.running(job["ID"])
        cluster.until(lambda: [e for e in stream.events if e["Type"] == "AllocationUpdated"])
    event = stream.events[-1]
    assert (event["Topic"], event["Key"], event["Namespace"]) == ("Node", alloc["NodeID"], "")
