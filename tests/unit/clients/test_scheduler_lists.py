"""Lists of everything: page by page, ours alone, and nothing concluded from half a list."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from core.clients.scheduler import NomadScheduler
from core.domain.facts import ClientStatus
from core.errors import Rejected, Unavailable
from tests.unit.clients.test_scheduler import JOB, NS, PORTS, SETTINGS, Answer, Wire, stub

OTHER = JOB[:-1] + "2"
NOT_OURS = "somebody_elses_job"


def job_stub(job_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "ID": job_id,
        "JobModifyIndex": 7,
        "ModifyIndex": 9,
        "SubmitTime": 1_700_000_000 * NS,
        "Status": "running",
        "Stop": False,
        **changes,
    }


class Pages(Wire):
    """Serves lists of one path in pages; `token -> (elements, next token)`."""

    def __init__(self, pages: Mapping[str, tuple[list[Any], str] | tuple[int, bytes]]) -> None:
        super().__init__(self._page)
        self._pages = pages
        self.asked: list[dict[str, list[str]]] = []

    def _page(self, request: requests.PreparedRequest) -> Answer:
        query = parse_qs(urlsplit(request.url or "").query)
        self.asked.append(query)
        first, second = self._pages[query.get("next_token", [""])[0]]
        self.headers = {}
        if isinstance(first, int):
            assert isinstance(second, bytes)
            return first, second
        if second:
            self.headers = {"X-Nomad-NextToken": str(second)}
        return 200, json.dumps(first).encode()


Make = Callable[[Mapping[str, Any]], tuple[NomadScheduler, Pages]]


@pytest.fixture
async def nomad() -> AsyncIterator[Make]:
    made: list[NomadScheduler] = []

    def make(pages: Mapping[str, Any]) -> tuple[NomadScheduler, Pages]:
        wire = Pages(pages)
        made.append(NomadScheduler(SETTINGS, threads=2, adapter=wire))
        return made[-1], wire

    yield make
    for client in made:
        await client.aclose()


async def test_jobs_of_every_page_are_listed_once_and_ours_alone(nomad: Make) -> None:
    client, wire = nomad(
        {
            "": ([job_stub(NOT_OURS), job_stub(OTHER, Stop=True, Status="dead")], "waha.next"),
            # Pages are separate snapshots: what moved meanwhile comes twice, and the later word counts.
            "waha.next": ([job_stub(OTHER, JobModifyIndex=8), job_stub(JOB, Stop=None)], ""),
        }
    )
    one, two = await client.jobs()
    assert (one.job_id, one.modify_index, one.stopped, one.status) == (JOB, 7, False, "running")
    assert one.submitted_at.timestamp() == 1_700_000_000
    assert (two.job_id, two.modify_index, two.stopped) == (OTHER, 8, False)
    assert [query["prefix"] for query in wire.asked] == [["waha_plus_user_"]] * 2
    assert [query["per_page"] for query in wire.asked] == [["1000"]] * 2
    assert wire.asked[1]["next_token"] == ["waha.next"]


async def test_allocations_are_listed_with_their_ports_oldest_first(nomad: Make) -> None:
    older = stub(ID="a1", JobID=OTHER, ClientStatus="lost", CreateIndex=3)
    memory = {"waha_plus": {"Cpu": {"CpuShares": 200}, "Memory": {"MemoryMB": 300, "MemoryMaxMB": 1024}}}
    newer = stub(ID="a2", JobID=JOB, AllocatedResources={**PORTS, "Tasks": memory})
    client, wire = nomad({"": ([newer, stub(ID="x", JobID=NOT_OURS)], "9.a1"), "9.a1": ([older], "")})
    first, second = await client.all_allocations()
    assert (first.job_id, first.allocation.id, first.allocation.client) == (OTHER, "a1", ClientStatus.LOST)
    assert (first.allocation.port, first.memory_mb) == (None, None)
    assert second.memory_mb == 300
    assert (second.job_id, second.allocation.address, second.allocation.port) == (JOB, "10.0.0.1", 3107)
    assert [(query["resources"], query["task_states"]) for query in wire.asked] == [(["true"], ["false"])] * 2


async def test_variables_are_listed_by_their_paths(nomad: Make) -> None:
    ours = f"nomad/jobs/{JOB}"
    client, wire = nomad({"": ([{"Path": "nomad/jobs/else"}, {"Path": ours, "CreateIndex": 4}], "")})
    assert await client.variable_paths() == (ours,)
    assert wire.asked[0]["prefix"] == ["nomad/jobs/waha_plus_user_"]


async def test_half_a_list_is_no_list(nomad: Make) -> None:
    client, _ = nomad({"": ([job_stub(JOB)], "next"), "next": (500, b"No cluster leader")})
    with pytest.raises(Unavailable):
        await client.jobs()


async def test_a_list_that_runs_in_a_circle_is_given_up(nomad: Make) -> None:
    client, wire = nomad({"": ([], "same"), "same": ([], "same")})
    with pytest.raises(Unavailable, match="does not come to an end"):
        await client.jobs()
    assert len(wire.asked) == 2


async def test_a_refused_list_is_a_refusal(nomad: Make) -> None:
    client, _ = nomad({"": (403, b"Permission denied")})
    with pytest.raises(Rejected):
        await client.variable_paths()


@pytest.mark.parametrize("odd", [{"SubmitTime": -1}, {"SubmitTime": 10**30}, {"ID": None}])
async def test_an_element_that_cannot_be_read_makes_the_list_unreadable(nomad: Make, odd: Any) -> None:
    client, _ = nomad({"": ([job_stub(JOB, **odd) if "ID" not in odd else odd], "")})
    with pytest.raises(Unavailable):
        await client.jobs()
