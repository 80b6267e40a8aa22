"""The agent, the catalog, and how they refuse."""

from __future__ import annotations

from typing import Any

import httpx

from tests.contract.consul.conftest import Registry
from tests.polling import eventually


async def test_there_is_a_leader(consul: httpx.AsyncClient) -> None:
    leader = (await consul.get("/v1/status/leader")).json()
    host, _, port = leader.rpartition(":")
    assert host
    assert port.isdigit()
    assert leader in (await consul.get("/v1/status/peers")).json()


async def test_the_agent_names_itself(consul: httpx.AsyncClient) -> None:
    config = (await consul.get("/v1/agent/self")).json()["Config"]
    assert config["Datacenter"] == "dc1"
    assert config["Server"] is True
    assert config["Version"]
    nodes = (await consul.get("/v1/catalog/nodes")).json()
    assert [node["Node"] for node in nodes] == [config["NodeName"]]
    assert nodes[0]["ID"] == config["NodeID"]


async def test_services_and_checks_of_the_agent(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(
        ID=f"{name}-1",
        Name=name,
        Address="127.0.0.9",
        Port=3107,
        Tags=["a"],
        Meta={"user": "42"},
        Checks=[{"CheckID": f"{name}-c", "Name": "ping", "TCP": "127.0.0.1:1", "Interval": "60s"}],
    )
    service = (await consul.get("/v1/agent/services")).json()[f"{name}-1"]
    assert service["Service"] == name
    assert (service["Address"], service["Port"]) == ("127.0.0.9", 3107)
    assert service["Tags"] == ["a"]
    assert service["Meta"] == {"user": "42"}
    check = (await consul.get("/v1/agent/checks")).json()[f"{name}-c"]
    assert check["ServiceID"] == f"{name}-1"
    assert check["Status"] == "critical"
    one = await consul.get(f"/v1/agent/service/{name}-1")
    assert one.json()["Service"] == name


async def test_the_agents_services_can_be_filtered(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(ID=f"{name}-1", Name=name, Meta={"user": "1"})
    await registry.register(ID=f"{name}-2", Name=name, Meta={"user": "2"})
    answer = await consul.get(
        "/v1/agent/services", params={"filter": f'Service == "{name}" and Meta.user == "2"'}
    )
    assert list(answer.json()) == [f"{name}-2"]


async def test_an_unknown_service_of_the_agent(name: str, consul: httpx.AsyncClient) -> None:
    answer = await consul.get(f"/v1/agent/service/{name}")
    assert answer.status_code == 404
    assert answer.text == f"unknown service ID: {name}"


async def test_the_catalog_lists_services_with_their_tags(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(ID=f"{name}-1", Name=name, Tags=["a"])
    await registry.register(ID=f"{name}-2", Name=name, Tags=["b"])
    services = (await consul.get("/v1/catalog/services")).json()
    assert sorted(services[name]) == ["a", "b"]
    assert "consul" in services


async def test_the_catalog_lists_instances_whatever_their_health(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(
        ID=f"{name}-1",
        Name=name,
        Address="127.0.0.9",
        Port=3107,
        Tags=["a"],
        Meta={"user": "42"},
        Check={"TCP": "127.0.0.1:1", "Interval": "60s"},
    )
    (one,) = (await consul.get(f"/v1/catalog/service/{name}")).json()
    assert one["ServiceID"] == f"{name}-1"
    assert one["ServiceName"] == name
    assert (one["ServiceAddress"], one["ServicePort"]) == ("127.0.0.9", 3107)
    assert one["ServiceTags"] == ["a"]
    assert one["ServiceMeta"] == {"user": "42"}
    assert one["Address"] == "127.0.0.1"
    assert "Checks" not in one
    assert (await consul.get(f"/v1/catalog/service/{name}-absent")).json() == []
    filtered = await consul.get(f"/v1/catalog/service/{name}", params={"filter": 'ServiceMeta.user == "43"'})
    assert filtered.json() == []


async def test_field_names_are_taken_whatever_their_case(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    body = {"id": name, "name": name, "port": 3107, "meta": {"user": "1"}, "check": {"ttl": "60s"}}
    assert (await consul.put("/v1/agent/service/register", json=body)).status_code == 200
    service = (await consul.get(f"/v1/agent/service/{name}")).json()
    assert (service["Port"], service["Meta"]) == (3107, {"user": "1"})
    await registry.deregister(name)


async def test_registering_the_same_again_changes_no_index(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    body: dict[str, Any] = {"ID": name, "Name": name, "Meta": {"a": "1"}, "Port": 3107}
    await registry.register(**body)

    async def modified() -> tuple[int, int]:
        (entry,) = (await consul.get(f"/v1/health/service/{name}")).json()
        return entry["Service"]["CreateIndex"], entry["Service"]["ModifyIndex"]

    before = await modified()
    await registry.register(**body)
    await registry.register(Name=f"{name}-other")  # the agent hands over in order: the repetition is done
    assert await modified() == before
    await registry.register(**{**body, "Meta": {"a": "2"}})

    async def newer() -> bool:
        return (await modified())[1] > before[1]

    await eventually(newer)
    assert (await modified())[0] == before[0]


async def test_a_check_can_be_added_and_taken_away(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(ID=name, Name=name)
    check = {"ID": f"{name}-c", "Name": "extra", "ServiceID": name, "TCP": "127.0.0.1:1", "Interval": "60s"}
    assert (await consul.put("/v1/agent/check/register", json=check)).status_code == 200

    async def passing() -> list[Any]:
        answer = await consul.get(f"/v1/health/service/{name}", params={"passing": "1"})
        found: list[Any] = answer.json()
        return found

    async def withdrawn() -> bool:
        return await passing() == []

    await eventually(withdrawn)
    assert (await consul.put(f"/v1/agent/check/deregister/{name}-c")).status_code == 200
    await eventually(passing)


async def test_deregistering_what_is_not_there(name: str, consul: httpx.AsyncClient) -> None:
    answer = await consul.put(f"/v1/agent/service/deregister/{name}")
    assert answer.status_code in (200, 404)  # 200 on Consul 1.8


async def test_bad_registrations_are_refused(name: str, consul: httpx.AsyncClient) -> None:
    for body, text in (
        (b"{}", "Missing service name"),
        (b"", "Request decode failed: EOF"),
        (b"xx", "Request decode failed: invalid character 'x' looking for beginning of value"),
        (b'{"Name":"%b","Bogus":1}' % name.encode(), 'Request decode failed: json: unknown field "Bogus"'),
        (
            b'{"Name":"%b","Check":{"HTTP":"http://127.0.0.1:1"}}' % name.encode(),
            "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks",
        ),
    ):
        answer = await consul.put("/v1/agent/service/register", content=body)
        assert (answer.status_code, answer.text) == (400, text)
        assert answer.headers["Content-Type"].startswith("text/plain")
    wrong = await consul.put("/v1/agent/service/register", json={"Name": name, "Port": "x"})
    assert wrong.status_code == 400
    assert wrong.text.startswith("Request decode failed: json: cannot unmarshal string into Go struct field")
    assert (await consul.get(f"/v1/health/service/{name}")).json() == []


async def test_methods_and_paths_that_are_not_there(name: str, consul: httpx.AsyncClient) -> None:
    for method, path in (
        ("POST", "/v1/agent/service/register"),
        ("GET", "/v1/agent/service/deregister/x"),
        ("DELETE", f"/v1/health/service/{name}"),
        ("POST", f"/v1/kv/{name}"),
    ):
        answer = await consul.request(method, path)
        assert (answer.status_code, answer.text) == (405, f"method {method} not allowed")
    answer = await consul.get("/v1/nope")
    assert (answer.status_code, answer.content) == (404, b"")
    answer = await consul.get("/v1/health/service/")
    assert (answer.status_code, answer.text) == (400, "Missing service name")
    answer = await consul.put("/v1/agent/check/pass/nope")
    assert answer.status_code >= 400
    assert "does not have associated TTL" in answer.text
