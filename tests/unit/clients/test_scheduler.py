"""The Nomad client: what is sent, and what is read."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from core.clients.scheduler import NomadScheduler
from core.domain.facts import ClientStatus
from core.errors import DependencyError, Missing, Rejected, StaleWrite, Throttled, Unavailable
from core.settings import NomadSettings, Secret

USER = "0b7f6c1e-4c66-4d1a-9f6b-3b8a1f0f0001"
JOB = f"waha_plus_user_{USER}"
ALLOC = "11111111-2222-3333-4444-555555555555"
TOKEN = "a-token-that-must-not-leak"
NS = 1_000_000_000

SETTINGS = NomadSettings(
    address="http://nomad.test:4646",
    token=Secret(TOKEN),
    namespace="waha",
    timeout_s=5.0,
    watch_wait_s=30.0,
    ca_file=None,
)

Answer = tuple[int, bytes] | Exception


class Wire(BaseAdapter):
    """Answers requests from a function and remembers them."""

    def __init__(self, answer: Callable[[requests.PreparedRequest], Answer]) -> None:
        super().__init__()
        self.answer = answer
        self.sent: list[requests.PreparedRequest] = []
        self.options: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.threads: set[str] = set()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.sent.append(request.copy())
        self.options.append(options)
        self.threads.add(threading.current_thread().name)
        answer = self.answer(request)
        if isinstance(answer, Exception):
            if isinstance(answer, requests.RequestException):
                answer.request = request
            raise answer
        response = requests.Response()
        response.status_code, content = answer
        response.raw = io.BytesIO(content)
        response._content = content
        response.request = request
        response.headers.update(self.headers)
        response.url = request.url or ""
        return response

    def close(self) -> None:
        return


def routes(table: dict[str, Any]) -> Callable[[requests.PreparedRequest], Answer]:
    """Answers by `METHOD path`; a value is JSON, a tuple is (status, text)."""

    def answer(request: requests.PreparedRequest) -> Answer:
        found = table[f"{request.method} {request.path_url.split('?')[0]}"]
        if isinstance(found, tuple):
            return found[0], str(found[1]).encode()
        return 200, json.dumps(found).encode()

    return answer


def scheduler(answer: Callable[[requests.PreparedRequest], Answer]) -> tuple[NomadScheduler, Wire]:
    wire = Wire(answer)
    return NomadScheduler(SETTINGS, threads=2, adapter=wire), wire


@pytest.fixture
async def nomad() -> AsyncIterator[Callable[[dict[str, Any]], tuple[NomadScheduler, Wire]]]:
    made: list[NomadScheduler] = []

    def make(table: dict[str, Any]) -> tuple[NomadScheduler, Wire]:
        client, wire = scheduler(routes(table))
        made.append(client)
        return client, wire

    yield make
    for client in made:
        await client.aclose()


Make = Callable[[dict[str, Any]], tuple[NomadScheduler, Wire]]


def stub(**changes: Any) -> dict[str, Any]:
    return {
        "ID": ALLOC,
        "NodeID": "n1",
        "NodeName": "host-1",
        "DesiredStatus": "run",
        "ClientStatus": "running",
        "CreateIndex": 12,
        "CreateTime": 1_700_000_000 * NS,
        "ModifyTime": 1_700_000_001 * NS,
        "TaskStates": None,
        "FollowupEvalID": "",
        **changes,
    }


PORTS = {
    "Shared": {
        "Ports": [
            {"Label": "other", "Value": 1, "HostIP": "10.0.0.1"},
            {"Label": "http", "Value": 3107, "HostIP": "10.0.0.1", "To": 3000},
        ]
    }
}


async def test_every_call_names_its_namespace_and_timeout_and_checks_certificates(nomad: Make) -> None:
    job = {"ID": JOB, "JobModifyIndex": 7, "Status": "running", "Stop": False}
    client, wire = nomad(
        {
            f"GET /v1/job/{JOB}": job,
            f"GET /v1/job/{JOB}/allocations": [],
            f"GET /v1/job/{JOB}/evaluations": [{"ID": "e", "Status": "complete", "CreateIndex": 1}],
            f"GET /v1/allocation/{ALLOC}": stub(AllocatedResources=PORTS),
            "PUT /v1/jobs": {"EvalID": "e"},
            f"DELETE /v1/job/{JOB}": {"EvalID": "e"},
            f"PUT /v1/var/nomad/jobs/{JOB}": {"Path": "p"},
            f"DELETE /v1/var/nomad/jobs/{JOB}": (204, ""),
            "GET /v1/status/leader": "127.0.0.1:4647",
            "GET /v1/jobs": [],
            "GET /v1/allocations": [],
            "GET /v1/vars": [],
        }
    )
    await client.job(JOB)
    await client.allocations(JOB)
    await client.newest_placement(JOB)
    await client.allocation(ALLOC)
    await client.register({"ID": JOB}, 0)
    await client.stop(JOB)
    await client.purge(JOB)
    await client.write_variables(f"nomad/jobs/{JOB}", {"k": "v"})
    await client.delete_variables(f"nomad/jobs/{JOB}")
    await client.leader()
    await client.jobs()
    await client.all_allocations()
    await client.variable_paths()
    assert len(wire.sent) == 14
    for request, options in zip(wire.sent, wire.options, strict=True):
        assert request.url is not None
        assert "namespace=waha" in request.url
        assert request.headers["X-Nomad-Token"] == TOKEN
        assert 0 < options["timeout"] <= 5.0
        assert options["verify"] is True
    assert all(name.startswith("scheduler") for name in wire.threads)


async def test_register_sends_the_index_and_reads_the_job_back(nomad: Make) -> None:
    client, wire = nomad(
        {
            "PUT /v1/jobs": {"EvalID": "e", "JobModifyIndex": 99},
            f"GET /v1/job/{JOB}": {"ID": JOB, "JobModifyIndex": 41, "Status": "pending"},
        }
    )
    seen = await client.register({"ID": JOB}, 40, {"Source": "job {}", "Format": "hcl2"})
    assert seen.modify_index == 41  # not the reply's: an unchanged register names another one there
    body = json.loads(wire.sent[0].body or b"")
    assert body == {
        "Job": {"ID": JOB},
        "EnforceIndex": True,
        "JobModifyIndex": 40,
        "Submission": {"Source": "job {}", "Format": "hcl2"},
    }


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (500, "Enforcing job modify index 0: job already exists", StaleWrite),
        (500, "Enforcing job modify index 7: job does not exist", StaleWrite),
        (500, "1 error occurred:\n\t* Missing job datacenters\n\n", Rejected),
        (400, "Job must be specified", Rejected),
        (403, "Permission denied", Rejected),
        (404, "job not found", Missing),
        (409, "{}", StaleWrite),
        (429, "too many connections", Throttled),
        (500, "No cluster leader", Unavailable),
        (500, "rpc error: EOF", Unavailable),
        (502, "bad gateway", Unavailable),
    ],
)
async def test_refusals_become_our_errors(
    nomad: Make, status: int, text: str, error: type[DependencyError]
) -> None:
    client, _ = nomad({"PUT /v1/jobs": (status, text)})
    with pytest.raises(error) as caught:
        await client.register({"ID": JOB}, 0)
    assert caught.value.system == "nomad"


async def test_a_job_that_is_gone_is_not_evaluated(nomad: Make) -> None:
    client, wire = nomad({f"GET /v1/job/{JOB}": (404, "job not found")})
    await client.evaluate(JOB)
    assert [request.method for request in wire.sent] == ["GET"]


async def test_what_is_gone_already_is_a_success_for_removals(nomad: Make) -> None:
    client, wire = nomad(
        {
            f"DELETE /v1/job/{JOB}": (404, "job not found"),
            f"DELETE /v1/var/nomad/jobs/{JOB}": (404, "variable not found"),
        }
    )
    await client.stop(JOB)
    await client.purge(JOB)
    await client.delete_variables(f"nomad/jobs/{JOB}")
    assert [request.url and "purge=true" in request.url for request in wire.sent] == [False, True, False]


async def test_ports_are_read_for_live_allocations_alone_and_once(nomad: Make) -> None:
    dead = "99999999-2222-3333-4444-555555555555"
    client, wire = nomad(
        {
            f"GET /v1/job/{JOB}/allocations": [
                stub(),
                stub(ID=dead, ClientStatus="complete", DesiredStatus="stop", CreateIndex=3),
            ],
            f"GET /v1/allocation/{ALLOC}": stub(AllocatedResources=PORTS),
        }
    )
    for _ in range(3):
        old, live = await client.allocations(JOB)
        assert (old.id, old.address, old.client) == (dead, None, ClientStatus.COMPLETE)
        assert (live.address, live.port) == ("10.0.0.1", 3107)
        assert live.created_at.timestamp() == 1_700_000_000
    assert sum(request.path_url.startswith("/v1/allocation/") for request in wire.sent) == 1
    assert sum("all=true" in request.path_url for request in wire.sent) == 3


async def test_an_allocation_without_a_port_yet_is_asked_again(nomad: Make) -> None:
    table: dict[str, Any] = {
        f"GET /v1/job/{JOB}/allocations": [stub(ClientStatus="pending")],
        f"GET /v1/allocation/{ALLOC}": stub(ClientStatus="pending"),
    }
    client, _ = nomad(table)
    assert (await client.allocations(JOB))[0].port is None
    table[f"GET /v1/allocation/{ALLOC}"] = stub(AllocatedResources=PORTS)
    assert (await client.allocations(JOB))[0].port == 3107


async def test_task_events_and_restarts_are_read(nomad: Make) -> None:
    states = {
        "waha_plus": {
            "State": "dead",
            "Failed": True,
            "Restarts": 2,
            "Events": [{"Type": "Driver Failure", "Time": 5 * NS, "DisplayMessage": "no image"}],
        }
    }
    client, _ = nomad({f"GET /v1/allocation/{ALLOC}": stub(TaskStates=states, ClientStatus="failed")})
    fact = await client.allocation(ALLOC)
    assert (fact.restarts, fact.task_state) == (2, "dead")
    assert [(event.type, event.message) for event in fact.events] == [("Driver Failure", "no image")]


def evaluation(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "ID": f"e{index}",
        "Status": "complete",
        "TriggeredBy": "job-register",
        "CreateIndex": index,
    } | changes


FULL = {"waha_plus": {"NodesEvaluated": 2, "NodesExhausted": 2, "DimensionExhausted": {"memory": 2}}}


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([evaluation(3), evaluation(5, FailedTGAllocs=FULL)], ("e5", {"memory": 2})),
        ([evaluation(3, FailedTGAllocs=FULL), evaluation(5)], ("e5", None)),
        # One that the scheduler has not worked on says nothing, and a cancelled one never did.
        ([evaluation(3, FailedTGAllocs=FULL), evaluation(5, Status="pending")], ("e3", {"memory": 2})),
        ([evaluation(3, FailedTGAllocs=FULL), evaluation(5, Status="canceled")], ("e3", {"memory": 2})),
        # Older servers leave the reason with the evaluation that was blocked.
        (
            [evaluation(3, FailedTGAllocs=FULL, BlockedEval="e5"), evaluation(5, Status="blocked")],
            ("e5", {"memory": 2}),
        ),
    ],
)
async def test_the_newest_evaluation_that_spoke(nomad: Make, evaluations: list[Any], expected: Any) -> None:
    client, _ = nomad({f"GET /v1/job/{JOB}/evaluations": evaluations})
    fact = await client.newest_placement(JOB)
    assert (fact.id, dict(fact.failure.dimensions) if fact.failure else None) == expected


async def test_no_evaluation_is_missing(nomad: Make) -> None:
    client, _ = nomad({f"GET /v1/job/{JOB}/evaluations": []})
    with pytest.raises(Missing):
        await client.newest_placement(JOB)


async def test_no_leader_is_unavailable(nomad: Make) -> None:
    client, _ = nomad({"GET /v1/status/leader": ""})
    with pytest.raises(Unavailable):
        await client.leader()


async def test_a_name_that_would_change_the_path_is_never_sent(nomad: Make) -> None:
    client, wire = nomad({})
    for name in ("a/../b", "a?b", "a#b", "", "a b"):
        with pytest.raises(Rejected):
            await client.job(name)
    assert wire.sent == []
