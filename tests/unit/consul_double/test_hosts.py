"""Several hosts behind one Consul double: instances of a dead one leave, those of a dead Nomad agent stay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sandbox.consul_double.server import RunningDouble, running_consul_double

HTTP_CHECK = {"TTL": "60s", "Status": "passing"}


@pytest.fixture
async def consul() -> AsyncIterator[tuple[RunningDouble, httpx.AsyncClient]]:
    async with (
        running_consul_double() as running,
        httpx.AsyncClient(base_url=running.url, timeout=10, trust_env=False) as http,
    ):
        yield running, http


Consul = tuple[RunningDouble, httpx.AsyncClient]


async def register(http: httpx.AsyncClient, service_id: str, host: str) -> None:
    body = {"ID": service_id, "Name": "web", "Port": 80, "Check": HTTP_CHECK}
    answer = await http.put("/v1/agent/service/register", json=body, headers={"X-Double-Node": host})
    assert answer.status_code == 200


async def passing(http: httpx.AsyncClient) -> list[str]:
    entries = (await http.get("/v1/health/service/web", params={"passing": "1"})).json()
    return [entry["Service"]["ID"] for entry in entries]


async def test_instances_belong_to_the_node_of_their_agent(consul: Consul) -> None:
    _, http = consul
    await register(http, "one", "host-1")
    await register(http, "two", "host-2")
    await register(http, "own", "")
    entries = {entry["Service"]["ID"]: entry for entry in (await http.get("/v1/health/service/web")).json()}
    assert {key: entry["Node"]["Node"] for key, entry in entries.items()} == {
        "one": "host-1",
        "two": "host-2",
        "own": "sandbox",
    }
    for entry in entries.values():
        assert {check["CheckID"] for check in entry["Checks"]} == {
            "serfHealth",
            f"service:{entry['Service']['ID']}",
        }
        assert {check["Node"] for check in entry["Checks"]} == {entry["Node"]["Node"]}
    nodes = (await http.get("/v1/catalog/nodes")).json()
    assert [node["Node"] for node in nodes] == ["sandbox", "host-1", "host-2"]
    assert len({node["ID"] for node in nodes}) == 3
    rows = (await http.get("/v1/catalog/service/web")).json()
    assert {row["ServiceID"]: row["Node"] for row in rows} == {
        "one": "host-1",
        "two": "host-2",
        "own": "sandbox",
    }
    checks = (await http.get("/v1/health/node/host-1")).json()
    assert {check["CheckID"] for check in checks} == {"serfHealth", "service:one"}


async def test_a_dead_host_takes_its_own_instances_out_and_no_others(consul: Consul) -> None:
    running, http = consul
    await register(http, "one", "host-1")
    await register(http, "two", "host-2")
    index = int((await http.get("/v1/health/service/web")).headers["X-Consul-Index"])
    await http.put("/double/serf-health/critical", params={"node": "host-1"})
    assert await passing(http) == ["two"]
    assert int((await http.get("/v1/health/service/web")).headers["X-Consul-Index"]) > index
    # What its agent would have seen of its checks reaches nobody.
    running.double.report("service:one", "critical", "gone")
    await http.put("/double/serf-health/passing", params={"node": "host-1"})
    assert await passing(http) == ["one", "two"]


async def test_the_catalog_forgets_an_instance_of_the_node_that_is_named(consul: Consul) -> None:
    _, http = consul
    await register(http, "one", "host-1")
    for node, left in (("sandbox", ["one"]), ("host-1", [])):
        body = {"Node": node, "ServiceID": "one"}
        assert (await http.put("/v1/catalog/deregister", json=body)).json() is True
        assert await passing(http) == left


async def fault(http: httpx.AsyncClient, **body: Any) -> None:
    assert (await http.put("/double/faults", json=body)).status_code == 200


async def test_empty_and_stale_answers(consul: Consul) -> None:
    _, http = consul
    await register(http, "one", "host-1")
    await fault(http, kind="empty", path="/v1/health/service/*", count=1)
    assert await passing(http) == []
    assert await passing(http) == ["one"]
    await fault(http, kind="stale", path="/v1/health/service/*", count=1)
    await register(http, "two", "host-2")
    assert await passing(http) == ["one"]
    assert await passing(http) == ["one", "two"]


async def test_refusals_and_lost_connections(consul: Consul) -> None:
    _, http = consul
    await fault(http, kind="refuse", path="/v1/catalog/*", status=429, text="too many", count=1)
    assert (await http.get("/v1/catalog/services")).status_code == 429
    assert (await http.get("/v1/catalog/services")).status_code == 200
    await fault(http, kind="cut", path="/v1/health/*", count=1)
    with pytest.raises(httpx.TransportError):
        await passing(http)
    await fault(http, kind="lose-reply", path="/v1/agent/service/register", method="PUT", count=1)
    with pytest.raises(httpx.TransportError):
        await register(http, "one", "")
    assert await passing(http) == ["one"]
    assert (await http.put("/double/faults", json={"kind": "odd"})).status_code == 400
    assert len((await http.get("/double/faults")).json()) == 3
    assert (await http.request("DELETE", "/double/faults")).json() == {"removed": 3}
