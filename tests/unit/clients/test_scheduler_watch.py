"""The event stream: whom its frames are about, and how every end of it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clients.scheduler_watch import RELIST, Heard, JobWatch, Relist, users_of
from core.errors import DependencyError, Rejected, Throttled, Unavailable
from core.settings import NomadSettings, Secret

U1 = "0b7f6c1e-4c66-4d1a-9f6b-3b8a1f0f0001"
U2 = "0b7f6c1e-4c66-4d1a-9f6b-3b8a1f0f0002"
SETTINGS = NomadSettings("http://nomad.test", Secret("token-x"), "waha", 5.0, 30.0, None)


def job(user: str) -> str:
    return f"waha_plus_user_{user}"


def frame(index: int, *events: dict[str, Any]) -> bytes:
    return json.dumps({"Index": index, "Events": list(events)}).encode()


JOB_EVENT = {"Topic": "Job", "Type": "JobRegistered", "Key": job(U1), "Payload": {"Job": {"ID": job(U1)}}}
ALLOC_EVENT = {
    "Topic": "Allocation",
    "Key": "a1",
    "FilterKeys": [job(U2), "d1"],
    "Payload": {"Allocation": {"ID": "a1", "JobID": job(U2)}},
}
FOREIGN = {"Topic": "Job", "Key": "redis", "FilterKeys": None, "Payload": {"Job": {"ID": "redis"}}}


def test_users_are_found_by_key_by_filter_key_and_by_payload() -> None:
    assert users_of(frame(5, JOB_EVENT, ALLOC_EVENT, FOREIGN), 4) == (5, frozenset({U1, U2}))
    by_payload = {"Topic": "Evaluation", "Key": "e", "Payload": {"Evaluation": {"ID": "e", "JobID": job(U1)}}}
    assert users_of(frame(6, by_payload), 5) == (6, frozenset({U1}))


def test_an_older_frame_and_a_heartbeat_name_nobody() -> None:
    assert users_of(frame(4, JOB_EVENT), 5) == (5, frozenset())
    assert users_of(b"{}", 5) == (5, frozenset())


def test_a_second_frame_of_one_index_is_heard() -> None:
    assert users_of(frame(5, ALLOC_EVENT), 5) == (5, frozenset({U2}))


def allocation(client: str, events: int = 1, *, healthy: bool = False, restarts: int = 0) -> dict[str, Any]:
    task = {
        "State": client,
        "Restarts": restarts,
        "Events": [{"Type": "x", "Time": n} for n in range(events)],
    }
    told: dict[str, Any] = {"ID": "a1", "JobID": job(U2), "DesiredStatus": "run", "ClientStatus": client}
    told["TaskStates"] = {"waha_plus": task}
    told["DeploymentStatus"] = {"Healthy": True} if healthy else None
    return ALLOC_EVENT | {"Payload": {"Allocation": told}}


def test_an_allocation_of_which_only_the_deployment_learnt_something_is_no_news() -> None:
    heard = Heard()
    told = [
        (allocation("pending"), True),
        (allocation("running"), True),
        (allocation("running", healthy=True), False),
        (allocation("running", events=2, healthy=True), True),
        (allocation("running", events=2, restarts=1), True),
        (allocation("failed", events=2, restarts=1), True),
    ]
    for index, (event, news) in enumerate(told):
        assert users_of(frame(index, event), 0, heard) == (index, frozenset({U2} if news else ()))
    # What cannot be compared is news each time, and another stream knows nothing yet.
    assert users_of(frame(9, ALLOC_EVENT), 0, heard) == users_of(frame(9, ALLOC_EVENT), 0, heard)
    assert users_of(frame(9, ALLOC_EVENT), 0, heard)[1] == {U2}
    assert users_of(frame(9, told[-1][0]), 0, Heard())[1] == {U2}


@given(st.binary(max_size=200))
def test_what_is_no_frame_is_refused_by_one_error(data: bytes) -> None:
    try:
        users_of(data, 0)
    except msgspec.DecodeError:
        return


class Body(httpx.AsyncByteStream):
    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


def watch(stream: httpx.Response | Exception, index: str = "4") -> tuple[JobWatch, list[httpx.Request]]:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        if request.url.path == "/v1/jobs":
            return httpx.Response(200, json=[], headers={"X-Nomad-Index": index})
        if isinstance(stream, Exception):
            raise stream
        return stream

    return JobWatch(SETTINGS, transport=httpx.MockTransport(answer)), sent


async def heard(watching: JobWatch) -> tuple[list[Any], DependencyError]:
    news: list[frozenset[str] | Relist] = []
    try:
        async for item in watching.news():
            news.append(item)
    except DependencyError as error:
        return news, error
    finally:
        await watching.aclose()
    raise AssertionError("a stream ends only by raising")


async def test_relist_comes_first_and_frames_may_be_cut_anywhere() -> None:
    text = b"{}\n" + frame(4, JOB_EVENT) + b"\n" + frame(5, ALLOC_EVENT) + b"\n"
    for cut in range(0, len(text), 7):
        watching, sent = watch(httpx.Response(200, stream=Body(text[:cut], text[cut:])))
        news, error = await heard(watching)
        assert news == [RELIST, set(), {U1}, {U2}]  # a heartbeat is a sign of life
        assert isinstance(error, Unavailable)
    query = sent[-1].url.params
    assert (query["index"], query["namespace"]) == ("4", "waha")
    assert query.get_list("topic") == ["Job", "Allocation", "Evaluation"]
    assert sent[-1].headers["X-Nomad-Token"] == "token-x"
    # Nomad's heartbeat comes every 30 s: less patience would take a quiet stream for a dead one.
    assert sent[-1].extensions["timeout"]["read"] > 30


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(403, text="Permission denied"), Rejected),
        (httpx.Response(429, text="slow", headers={"Retry-After": "3"}), Throttled),
        (httpx.Response(500, text="No cluster leader"), Unavailable),
        (httpx.ConnectError("refused"), Unavailable),
        (httpx.Response(200, stream=Body(b"{}\n", httpx.ReadTimeout("silence"))), Unavailable),
        (httpx.Response(200, stream=Body(b"{}\n", httpx.RemoteProtocolError("cut"))), Unavailable),
        (httpx.Response(200, stream=Body(b"<html>\n")), Unavailable),
        (httpx.Response(200, stream=Body(b"")), Unavailable),
    ],
)
async def test_every_end_is_one_of_our_errors(
    answer: httpx.Response | Exception, expected: type[DependencyError]
) -> None:
    watching, _ = watch(answer)
    _, error = await heard(watching)
    assert type(error) is expected
    assert "token-x" not in str(error)


async def test_a_list_without_an_index_is_no_start() -> None:
    watching, _ = watch(httpx.Response(200, stream=Body()), index="none")
    news, error = await heard(watching)
    assert news == []
    assert isinstance(error, Unavailable)
