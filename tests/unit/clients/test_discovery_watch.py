"""Consul's index rules, and the watch that follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from core.clients import discovery as subject
from core.clients import discovery_entries as entries
from core.clients.discovery import ConsulDiscovery, next_index
from core.errors import Unavailable
from tests.unit.clients.test_discovery import SETTINGS, TOKEN, FakeClock, entry


@pytest.mark.parametrize(
    ("sent", "header", "following"),
    [
        (0, "12", 12),
        (12, "12", 12),
        (12, "13", 13),
        (12, "11", 0),  # restored from a snapshot: start over
        (0, "0", 1),  # 0 would not block
        (9, "10", 10),  # numbers, not texts
    ],
)
def test_index_rules(sent: int, header: str, following: int) -> None:
    assert next_index(sent, header) == following


@pytest.mark.parametrize("header", [None, "", "twelve"])
def test_an_index_that_is_none_is_a_malformed_answer(header: str | None) -> None:
    with pytest.raises(Unavailable):
        next_index(3, header)


class Script:
    """Answers to the watch, one after the other; the last one holds for ever."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def indexes(self) -> list[str | None]:
        return [request.url.params.get("index") for request in self.requests]


def ok(index: str, *entries: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(200, json=list(entries), headers={"X-Consul-Index": index, **(headers or {})})


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], ConsulDiscovery]:
    def make(script: Script) -> ConsulDiscovery:
        made = ConsulDiscovery(SETTINGS, clock=FakeClock())
        real = made._watch_client

        def client() -> httpx.AsyncClient:
            with_headers = real()
            return httpx.AsyncClient(
                base_url=with_headers.base_url,
                headers=with_headers.headers,
                transport=httpx.MockTransport(script),
            )

        monkeypatch.setattr(made, "_watch_client", client)
        return made

    return make


async def take(discovery: ConsulDiscovery, count: int) -> list[list[str]]:
    """The allocation ids of the first `count` lists that a watch gives."""
    lists: list[list[str]] = []
    async with asyncio.timeout(5), aclosing(discovery.watch()) as found:
        while len(lists) < count:
            lists.append([one.allocation_id for one in await anext(found)])
    return lists


async def test_the_watch_gives_every_answer_for_each_is_a_sign_of_life(scripted: Any) -> None:
    script = Script(
        ok("5", entry("u1", "a1")),
        ok("5", entry("u1", "a1")),  # the wait ran out
        ok("9", entry("u1", "a1")),  # woken for nothing
        ok("10", entry("u1", "a1"), entry("u2", "a2")),
        ok("11"),
    )
    assert await take(scripted(script), 5) == [["a1"], ["a1"], ["a1"], ["a1", "a2"], []]
    assert script.indexes() == [None, "5", "5", "9", "10"]
    assert script.requests[1].url.params["wait"] == "30000ms"
    assert script.requests[0].headers["X-Consul-Token"] == TOKEN


async def test_an_index_that_goes_backwards_starts_over(scripted: Any) -> None:
    script = Script(ok("50", entry("u1", "a1")), ok("3"), ok("3", entry("u1", "a2")))
    assert await take(scripted(script), 3) == [["a1"], [], ["a2"]]
    assert script.indexes() == [None, "50", None]


async def test_index_zero_does_not_spin(scripted: Any) -> None:
    script = Script(ok("0"), ok("1", entry("u1", "a1")))
    made = scripted(script)
    await take(made, 2)
    assert script.indexes() == [None, "1"]


async def test_queries_that_return_at_once_are_spaced_out(scripted: Any) -> None:
    script = Script(*(ok(str(n)) for n in range(1, 40)), ok("40", entry("u1", "a1")))
    made = scripted(script)
    await take(made, 40)
    assert made._clock.t >= 39 * 0.1 - 1e-6


async def test_the_longer_reading_takes_the_longer_changes_gather(scripted: Any) -> None:
    made = scripted(Script(ok("1"), ok("2"), ok("3", entry("u1", "a1"))))
    reading_s = 0.04
    async with asyncio.timeout(5), aclosing(made.watch()) as found:
        for _ in range(3):
            await anext(found)
            made._clock.t += reading_s  # whoever listens to the watch compares the lists
    assert made._clock.t == pytest.approx(3 * reading_s + 2 * 19 * reading_s)
    assert subject._rest_s(60.0) == subject._LONGEST_PAUSE_S


def test_what_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = entries._instance

    def counted(one: Any) -> Any:
        read.append(one.service.id)
        return real(one)

    monkeypatch.setattr(entries, "_instance", counted)
    listed = entries.Listed()
    failing = entry("u2", "a2", statuses=("critical",))
    first = listed.read(ok("1", entry("u1", "a1"), failing).content)
    assert listed.read(ok("2", entry("u1", "a1"), failing).content) == first
    assert len(read) == 2
    later = listed.read(ok("3", entry("u1", "a1"), entry("u2", "a2")).content)
    assert len(read) == 3
    assert [(one.user_id, one.passing) for one in (*first, *later)] == [
        *(("u1", True), ("u2", False)),
        *(("u1", True), ("u2", True)),
    ]


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        httpx.Response(500, text="No cluster leader"),
        httpx.Response(403, text="Permission denied"),
        httpx.Response(200, text="<html>", headers={"X-Consul-Index": "1"}),
        httpx.Response(200, json=[{"Service": None}], headers={"X-Consul-Index": "1"}),
        httpx.Response(200, json=[]),
    ],
    ids=["refused", "timeout", "cut", "500", "403", "not JSON", "other shape", "no index"],
)
async def test_the_watch_outlives_trouble_and_then_gives_the_list_again(scripted: Any, trouble: Any) -> None:
    script = Script(ok("5", entry("u1", "a1")), trouble, ok("5", entry("u1", "a1")))
    made = scripted(script)
    assert await take(made, 2) == [["a1"], ["a1"]]
    assert script.indexes() == [None, "5", None]


async def test_the_watch_backs_off_while_consul_is_away(scripted: Any) -> None:
    script = Script(*(httpx.ConnectError("refused") for _ in range(12)), ok("1"))
    made = scripted(script)
    await take(made, 1)
    pauses = made._clock.slept
    assert len(pauses) == 12
    assert all(0.1 <= pause <= 5.0 for pause in pauses)
    assert pauses[0] <= 0.2
    assert all(pause >= 2.5 for pause in pauses[-5:])


async def test_the_watch_waits_as_long_as_it_is_told(scripted: Any) -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "20"}), ok("1"))
    made = scripted(script)
    await take(made, 1)
    assert made._clock.slept[0] >= 10


async def test_a_list_that_acls_cut_is_logged_once(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(subject._log, "warning", lambda event, **_: warned.append(event), raising=False)
    cut = {"X-Consul-Results-Filtered-By-ACLs": "true"}
    await take(scripted(Script(ok("1", headers=cut), ok("2", headers=cut), ok("3", entry("u", "a")))), 3)
    assert warned == ["consul_results_filtered"]
