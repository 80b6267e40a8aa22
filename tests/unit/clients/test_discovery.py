"""The Consul client: what it reads out of answers, and that only our errors leave it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import consul
import httpx
import pytest
import requests
from requests.adapters import HTTPAdapter

from core.clients import discovery as subject
from core.clients.discovery import ConsulDiscovery
from core.domain.facts import ServiceInstance
from core.errors import DependencyError, Missing, Rejected, Throttled, Unavailable
from core.settings import ConsulSettings, Secret

TOKEN = "7d1b2c9e-very-secret"
SETTINGS = ConsulSettings(
    address="http://consul.test:8500", token=Secret(TOKEN), timeout_s=0.2, watch_wait_s=30, ca_file=None
)


class FakeClock:
    """Time that only passes by sleeping."""

    def __init__(self) -> None:
        self.t = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.t, UTC)

    def monotonic(self) -> float:
        return self.t

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.t += seconds
        await asyncio.sleep(0)


def entry(
    user: str,
    allocation: str,
    *,
    statuses: tuple[str, ...] = ("passing", "passing"),
    address: str = "10.0.0.5",
    meta: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "Node": {"ID": "n", "Node": "host-1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": None},
        "Service": {
            "ID": f"_nomad-task-{allocation}-group-waha-waha-plus-http",
            "Service": "waha-plus",
            "Tags": None,
            "Address": address,
            "Port": 3101,
            "Meta": {"user": user, "allocation": allocation, "spec": "abc"} if meta is None else meta,
        },
        "Checks": [{"CheckID": f"c{n}", "Status": status} for n, status in enumerate(statuses)],
    }


Respond = Callable[[requests.PreparedRequest], requests.Response]


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Respond], list[requests.PreparedRequest]]:
    """Let the library talk to a function instead of a socket; the list collects what it sent."""

    def install(respond: Respond) -> list[requests.PreparedRequest]:
        seen: list[requests.PreparedRequest] = []

        def send(self: HTTPAdapter, request: requests.PreparedRequest, **_: Any) -> requests.Response:
            seen.append(request)
            return respond(request)

        monkeypatch.setattr(HTTPAdapter, "send", send)
        return seen

    return install


def http(status: int, body: object, index: str | None = "7") -> Respond:
    def respond(request: requests.PreparedRequest) -> requests.Response:
        response = requests.Response()
        response.status_code = status
        response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        response.url = request.url or ""
        response.request = request
        if index is not None:
            response.headers["X-Consul-Index"] = index
        return response

    return respond


def failing(error: Exception) -> Respond:
    def respond(request: requests.PreparedRequest) -> requests.Response:
        raise error

    return respond


@pytest.fixture
async def discovery() -> AsyncIterator[ConsulDiscovery]:
    made = ConsulDiscovery(SETTINGS, clock=FakeClock())
    yield made
    await made.close()


async def test_instances_are_read_with_their_meta(discovery: ConsulDiscovery, answer_with: Any) -> None:
    sent = answer_with(
        http(
            200,
            [
                entry("u2", "a2", statuses=("passing", "critical")),
                entry("u1", "a1"),
                entry("u3", "a3", meta={"user": "u3"}),
                entry("", "a4", meta={}),
            ],
        )
    )
    assert await discovery.instances() == (
        ServiceInstance(
            service_id="_nomad-task-a1-group-waha-waha-plus-http",
            user_id="u1",
            allocation_id="a1",
            address="10.0.0.5",
            port=3101,
            passing=True,
            spec_hash="abc",
        ),
        ServiceInstance(
            service_id="_nomad-task-a2-group-waha-waha-plus-http",
            user_id="u2",
            allocation_id="a2",
            address="10.0.0.5",
            port=3101,
            passing=False,
            spec_hash="abc",
        ),
    )
    assert sent[0].url == "http://consul.test:8500/v1/health/service/waha-plus"
    assert sent[0].headers["X-Consul-Token"] == TOKEN


async def test_a_service_without_an_address_stands_at_its_node(
    discovery: ConsulDiscovery, answer_with: Any
) -> None:
    answer_with(http(200, [entry("u1", "a1", address="")]))
    assert (await discovery.instances())[0].address == "10.0.0.1"


async def test_one_user_is_filtered_by_consul_and_again_here(
    discovery: ConsulDiscovery, answer_with: Any
) -> None:
    sent = answer_with(http(200, [entry("u1", "a1"), entry("u2", "a2")]))
    assert [one.allocation_id for one in await discovery.instances("u2")] == ["a2"]
    assert sent[0].url is not None
    assert httpx.URL(sent[0].url).params["filter"] == 'Service.Meta.user == "u2"'


async def test_what_failing_checks_say_is_read_for_one_user_alone(
    discovery: ConsulDiscovery, answer_with: Any
) -> None:
    listed = entry("u1", "a1", statuses=("passing", "critical", "warning"))
    for check, (name, output) in zip(
        listed["Checks"],
        [("Serf Health Status", "Agent alive"), ("ping", "connection refused"), ("disk", "nearly full")],
        strict=True,
    ):
        check |= {"Name": name, "Output": output}
    answer_with(http(200, [listed]))
    [one] = await discovery.instances("u1")
    assert one.output == "ping: connection refused; disk: nearly full"
    [every] = await discovery.instances()
    assert every.output == ""  # lists of everybody are compared, and words of checks move by themselves


async def test_a_passing_instance_has_nothing_to_say(discovery: ConsulDiscovery, answer_with: Any) -> None:
    listed = entry("u1", "a1")
    listed["Checks"][0] |= {"Name": "ping", "Output": "HTTP GET http://10.0.0.5:3101/ping: 200 OK"}
    answer_with(http(200, [listed]))
    assert [one.output for one in await discovery.instances("u1")] == [""]


async def test_an_id_that_would_break_the_filter_is_filtered_here_alone(
    discovery: ConsulDiscovery, answer_with: Any
) -> None:
    sent = answer_with(http(200, [entry('x" or "" == "', "a1"), entry("u2", "a2")]))
    assert [one.allocation_id for one in await discovery.instances('x" or "" == "')] == ["a1"]
    assert sent[0].url is not None
    assert "filter" not in httpx.URL(sent[0].url).params


async def test_without_the_newer_library_no_newer_keyword_is_used(
    monkeypatch: pytest.MonkeyPatch, answer_with: Any
) -> None:
    monkeypatch.setattr(subject, "_installed", lambda distribution: False)
    made: list[dict[str, Any]] = []
    real = consul.Consul

    def recording(**options: Any) -> consul.Consul:
        made.append(options)
        return real(**options)

    monkeypatch.setattr(consul, "Consul", recording)
    sent = answer_with(http(200, [entry("u1", "a1"), entry("u2", "a2")]))
    older = ConsulDiscovery(SETTINGS)
    assert [one.user_id for one in await older.instances("u1")] == ["u1"]
    assert "connections_timeout" not in made[0]
    assert sent[0].url == "http://consul.test:8500/v1/health/service/waha-plus"
    await older.close()


VENDOR_FAILURES: list[tuple[str, Respond, type[DependencyError], str]] = [
    ("refused", failing(requests.ConnectionError("refused")), Unavailable, "unavailable"),
    ("timeout", failing(requests.ReadTimeout("slow")), Unavailable, "timeout"),
    ("broken pipe", failing(BrokenPipeError()), Unavailable, "unavailable"),
    ("chunk", failing(requests.exceptions.ChunkedEncodingError()), Unavailable, "unavailable"),
    ("500", http(500, "No cluster leader"), Unavailable, "unavailable"),
    ("503", http(503, "rate limit"), Unavailable, "unavailable"),
    ("429", http(429, "slow down"), Throttled, "throttled"),
    ("403", http(403, f"Permission denied for {'x' * 5000}"), Rejected, "forbidden"),
    ("401", http(401, "ACL support disabled"), Rejected, "forbidden"),
    ("400", http(400, "bad request"), Rejected, "rejected"),
    ("418", http(418, "teapot"), Rejected, "rejected"),
    ("404", http(404, ""), Unavailable, "malformed"),
    ("not JSON", http(200, "<html>"), Unavailable, "malformed"),
    ("JSON of another shape", http(200, {"a": 1}), Unavailable, "malformed"),
    ("entries of another shape", http(200, [{"Service": 1}]), Unavailable, "malformed"),
    ("null", http(200, None), Unavailable, "malformed"),
    ("no index", http(200, [], index=None), Unavailable, "malformed"),
]


@pytest.mark.parametrize(
    ("respond", "kind", "code"),
    [pytest.param(*case[1:], id=case[0]) for case in VENDOR_FAILURES],
)
async def test_only_our_errors_leave_a_read(
    discovery: ConsulDiscovery, answer_with: Any, respond: Respond, kind: type[DependencyError], code: str
) -> None:
    answer_with(respond)
    with pytest.raises(DependencyError) as caught:
        await discovery.instances()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.system == "consul"
    assert len(str(caught.value)) <= 256 + len("consul: ")
    assert TOKEN not in str(caught.value)


async def test_a_thread_that_hangs_is_given_up(discovery: ConsulDiscovery, monkeypatch: Any) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(self: HTTPAdapter, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        raise requests.ConnectionError

    monkeypatch.setattr(HTTPAdapter, "send", hang)
    with pytest.raises(Unavailable) as caught:
        await discovery.instances()
    assert caught.value.code == "timeout"
    gate.set()


async def test_a_closed_client_says_so(discovery: ConsulDiscovery) -> None:
    await discovery.close()
    with pytest.raises(Unavailable, match="closed"):
        await discovery.instances()


def test_what_is_not_there_is_missing() -> None:
    assert isinstance(subject._refusal(404, ""), Missing)
