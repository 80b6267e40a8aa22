"""Nothing but our errors comes out of the Nomad client, and no secret in any of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clients.scheduler import NomadScheduler
from core.clients.scheduler_errors import of_response
from core.errors import DependencyError, Throttled
from tests.unit.clients.test_scheduler import ALLOC, JOB, TOKEN, Answer, Wire, scheduler, stub


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("answer", [(403, b"Permission denied"), requests.ConnectionError("refused")])
async def test_no_token_and_no_secret_survives_in_an_error(answer: Answer) -> None:
    client, _ = scheduler(lambda _: answer)
    try:
        with pytest.raises(DependencyError) as caught:
            await client.write_variables(f"nomad/jobs/{JOB}", {"hook_key": "top secret"})
    finally:
        await client.aclose()
    for error in chain(caught.value):
        assert TOKEN not in str(error)
        assert "top secret" not in str(error)
        for holder in (error, getattr(error, "nomad_resp", None)):
            request = getattr(holder, "request", None)
            if request is not None:
                assert TOKEN not in str(request.headers)
                assert not request.body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*stub(), "JobModifyIndex", "FailedTGAllocs", "x"]), inner, max_size=6
        )
    ),
    max_leaves=12,
)


ANSWERS = st.one_of(
    st.tuples(
        st.sampled_from([200, 200, 201, 204, 301, 400, 403, 404, 409, 429, 500, 503]), st.binary(max_size=60)
    ),
    st.tuples(st.just(200), JSON.map(lambda value: json.dumps(value).encode())),
    st.tuples(st.just(200), st.just(json.dumps([stub(CreateTime=-1), stub(ModifyTime=10**30)]).encode())),
    st.sampled_from(
        [
            requests.ConnectionError("refused"),
            requests.ReadTimeout("slow"),
            requests.ConnectTimeout("slow"),
            requests.exceptions.ChunkedEncodingError("cut"),
            requests.exceptions.InvalidURL("odd"),
            OSError("socket"),
            ValueError("odd"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
        ]
    ),
)


CALLS: dict[str, Callable[[NomadScheduler], Any]] = {
    "job": lambda n: n.job(JOB),
    "allocations": lambda n: n.allocations(JOB),
    "newest_placement": lambda n: n.newest_placement(JOB),
    "allocation": lambda n: n.allocation(ALLOC),
    "register": lambda n: n.register({"ID": JOB}, 0),
    "evaluate": lambda n: n.evaluate(JOB),
    "stop": lambda n: n.stop(JOB),
    "purge": lambda n: n.purge(JOB),
    "write_variables": lambda n: n.write_variables(f"nomad/jobs/{JOB}", {}),
    "delete_variables": lambda n: n.delete_variables(f"nomad/jobs/{JOB}"),
    "leader": lambda n: n.leader(),
    "jobs": lambda n: n.jobs(),
    "all_allocations": lambda n: n.all_allocations(),
    "variable_paths": lambda n: n.variable_paths(),
}


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[NomadScheduler, Wire]]:
    """One client for all examples: making python-nomad's 28 parts costs more than an example."""
    client, wire = scheduler(lambda _: (200, b""))
    yield client, wire
    asyncio.run(client.aclose())


@given(call=st.sampled_from(sorted(CALLS)), answers=st.lists(ANSWERS, min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
async def test_nothing_but_our_errors_comes_out(
    fuzzed: tuple[NomadScheduler, Wire], call: str, answers: list[Answer]
) -> None:
    client, wire = fuzzed
    left = list(answers)
    wire.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]
    client._addresses.clear()
    with suppress(DependencyError):
        await CALLS[call](client)


@given(status=st.integers(300, 599), text=st.text(max_size=40), retry=st.none() | st.text(max_size=8))
def test_every_status_has_an_error(status: int, text: str, retry: str | None) -> None:
    error = of_response(status, text, retry)
    if isinstance(error, Throttled):
        assert 0 <= error.after_s <= 60
