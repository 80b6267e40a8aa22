"""/v1/health/service/:name: what is listed, what passes, and what `filter` keeps."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.contract.consul.conftest import Health, Registry, Target
from tests.polling import eventually

Probe = Callable[[], Awaitable[bool]]


def statuses(entry: dict[str, Any]) -> dict[str, str]:
    return {check["CheckID"]: check["Status"] for check in entry["Checks"]}


def passing(health: Health, name: str) -> Probe:
    async def probe() -> bool:
        return len(await health(name, passing="1")) == 1

    return probe


def not_passing(health: Health, name: str) -> Probe:
    async def probe() -> bool:
        return await health(name, passing="1") == []

    return probe


async def test_an_entry_has_node_service_and_checks(name: str, registry: Registry, health: Health) -> None:
    await registry.register(
        ID=f"{name}-1",
        Name=name,
        Address="127.0.0.9",
        Port=3107,
        Tags=["a", "b"],
        Meta={"user": "42", "allocation": "x"},
    )
    (entry,) = await health(name)
    assert {"ID", "Node", "Address", "Datacenter", "Meta"} <= entry["Node"].keys()
    service = entry["Service"]
    assert service["ID"] == f"{name}-1"
    assert service["Service"] == name
    assert service["Address"] == "127.0.0.9"
    assert service["Port"] == 3107
    assert service["Tags"] == ["a", "b"]
    assert service["Meta"] == {"user": "42", "allocation": "x"}
    assert service["Weights"] == {"Passing": 1, "Warning": 1}
    assert service["CreateIndex"] > 0
    assert service["ModifyIndex"] >= service["CreateIndex"]
    assert statuses(entry) == {"serfHealth": "passing"}


async def test_an_address_may_be_empty_and_the_node_has_one(
    name: str, registry: Registry, health: Health
) -> None:
    await registry.register(Name=name, Port=3107)
    (entry,) = await health(name)
    assert entry["Service"]["ID"] == name
    assert entry["Service"]["Address"] == ""
    assert entry["Node"]["Address"] == "127.0.0.1"


async def test_an_absent_service_is_an_empty_list(name: str, health: Health) -> None:
    assert await health(name) == []


async def test_a_service_without_checks_passes(name: str, registry: Registry, health: Health) -> None:
    await registry.register(Name=name, Port=3107)
    assert len(await health(name, passing="1")) == 1


async def test_a_fresh_check_is_critical(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    url = f"http://127.0.0.1:{target.port}/ping"
    check = {"CheckID": f"{name}-check", "Name": "ping", "HTTP": url, "Interval": "60s"}
    await registry.register(Name=name, Checks=[check])
    (entry,) = await health(name)
    found = next(one for one in entry["Checks"] if one["CheckID"] == f"{name}-check")
    assert found["Name"] == "ping"
    assert found["Status"] == "critical"
    assert found["ServiceID"] == found["ServiceName"] == name
    assert found["Output"] == ""
    assert await health(name, passing="1") == []


async def test_a_check_may_begin_with_another_status(name: str, registry: Registry, health: Health) -> None:
    check = {"HTTP": "http://127.0.0.1:1/", "Interval": "60s", "Status": "passing"}
    await registry.register(Name=name, Check=check)
    assert len(await health(name, passing="1")) == 1


async def test_an_http_check_is_really_asked(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    check = {
        "CheckID": f"{name}-check",
        "HTTP": f"http://127.0.0.1:{target.port}/ping?x=1",
        "Header": {"X-Api-Key": ["k"]},
        "Interval": "100ms",
        "Timeout": "1s",
    }
    await registry.register(Name=name, Checks=[check])
    await eventually(passing(health, name))
    head = target.requests[0].lower()
    assert head.startswith("get /ping?x=1 http/1.1")
    assert "x-api-key: k\r\n" in head
    assert "user-agent: consul health check\r\n" in head
    assert "connection: close\r\n" in head
    (entry,) = await health(name)
    output = next(one["Output"] for one in entry["Checks"] if one["CheckID"] == f"{name}-check")
    assert output.startswith(f"HTTP GET http://127.0.0.1:{target.port}/ping?x=1: 200")
    assert output.endswith("Output: pong")
    asked = len(target.requests)

    async def asked_again() -> bool:
        return len(target.requests) > asked + 1

    await eventually(asked_again)


async def test_a_check_that_fails_withdraws_and_returns(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    url = f"http://127.0.0.1:{target.port}/"
    await registry.register(Name=name, Check={"HTTP": url, "Interval": "100ms"})
    await eventually(passing(health, name))
    target.status = 503
    await eventually(not_passing(health, name))
    (entry,) = await health(name)
    assert statuses(entry)[f"service:{name}"] == "critical"
    target.status = 200
    await eventually(passing(health, name))


async def test_status_429_is_a_warning_and_does_not_pass(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    target.status = 429
    url = f"http://127.0.0.1:{target.port}/"
    await registry.register(Name=name, Check={"HTTP": url, "Interval": "100ms"})

    async def warned() -> bool:
        (entry,) = await health(name)
        return statuses(entry)[f"service:{name}"] == "warning"

    await eventually(warned)
    assert await health(name, passing="1") == []


async def test_a_check_that_hangs_is_critical_after_its_timeout(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    url = f"http://127.0.0.1:{target.port}/"
    await registry.register(Name=name, Check={"HTTP": url, "Interval": "100ms", "Timeout": "200ms"})
    await eventually(passing(health, name))
    target.hang = True
    await eventually(not_passing(health, name), within_s=5)


async def test_a_tcp_check_is_really_connected(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    place = f"127.0.0.1:{target.port}"
    await registry.register(Name=name, Check={"TCP": place, "Interval": "100ms", "Timeout": "1s"})
    await eventually(passing(health, name))
    await target.close()
    await eventually(not_passing(health, name))
    await target.open()
    await eventually(passing(health, name))


async def test_a_ttl_check_is_told(name: str, registry: Registry, health: Health, consul: Any) -> None:
    await registry.register(Name=name, Check={"TTL": "60s"})
    assert await health(name, passing="1") == []
    assert (await consul.put(f"/v1/agent/check/pass/service:{name}")).status_code == 200
    await eventually(passing(health, name))
    assert (await consul.put(f"/v1/agent/check/fail/service:{name}")).status_code == 200
    await eventually(not_passing(health, name))


async def test_a_ttl_check_that_nobody_renews_runs_out(
    name: str, registry: Registry, health: Health, consul: Any
) -> None:
    await registry.register(Name=name, Check={"TTL": "1s"})
    await consul.put(f"/v1/agent/check/pass/service:{name}")
    await eventually(passing(health, name))
    await eventually(not_passing(health, name))


async def test_all_checks_must_pass(name: str, registry: Registry, health: Health, target: Target) -> None:
    good = {"TCP": f"127.0.0.1:{target.port}", "Interval": "100ms"}
    bad = {"TCP": "127.0.0.1:1", "Interval": "100ms"}
    await registry.register(Name=name, Checks=[good, bad])

    async def one_passes() -> bool:
        (entry,) = await health(name)
        found = statuses(entry)
        return (found[f"service:{name}:1"], found[f"service:{name}:2"]) == ("passing", "critical")

    await eventually(one_passes)
    assert await health(name, passing="1") == []


async def test_two_instances_of_one_user_may_both_pass(name: str, registry: Registry, health: Health) -> None:
    for allocation in ("a1", "a2"):
        await registry.register(
            ID=f"{name}-{allocation}", Name=name, Meta={"user": "42", "alloc": allocation}
        )
    assert len(await health(name, passing="1")) == 2


async def test_registering_again_keeps_what_was_seen(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    check = {"CheckID": f"{name}-c", "TCP": f"127.0.0.1:{target.port}", "Interval": "100ms"}
    await registry.register(Name=name, Meta={"spec": "1"}, Checks=[check])
    await eventually(passing(health, name))
    await registry.register(Name=name, Meta={"spec": "2"}, Checks=[check])

    async def changed() -> bool:
        entries = await health(name)
        return bool(entries[0]["Service"]["Meta"] == {"spec": "2"})

    await eventually(changed)
    assert len(await health(name, passing="1")) == 1


async def test_a_deregistered_instance_is_gone(name: str, registry: Registry, health: Health) -> None:
    await registry.register(ID=f"{name}-1", Name=name)
    await registry.register(ID=f"{name}-2", Name=name)
    await registry.deregister(f"{name}-1")

    async def one_left() -> bool:
        return [entry["Service"]["ID"] for entry in await health(name)] == [f"{name}-2"]

    await eventually(one_left)


async def test_tag_keeps_instances_that_have_it(name: str, registry: Registry, health: Health) -> None:
    await registry.register(ID=f"{name}-1", Name=name, Tags=["red"])
    await registry.register(ID=f"{name}-2", Name=name, Tags=["blue"])
    assert [entry["Service"]["ID"] for entry in await health(name, tag="blue")] == [f"{name}-2"]


FILTERS = [
    ('Service.Meta.user == "42"', ["1", "3"]),
    ('Service.Meta["user"] == "42"', ["1", "3"]),
    ("Service.Meta.user == `42`", ["1", "3"]),
    ('Service.Meta.user != "42"', ["2", "4"]),
    ('Service.Meta.user == "42" and Service.Meta.allocation == "c"', ["3"]),
    ('Service.Meta.user == "43" or Service.Meta.allocation == "c"', ["2", "3"]),
    ('not Service.Meta.user == "42"', ["2", "4"]),
    ('not (Service.Meta.user == "42" or Service.Meta.user == "43")', ["4"]),
    ("user in Service.Meta", ["1", "2", "3"]),
    ("user not in Service.Meta", ["4"]),
    ("Service.Meta contains user", ["1", "2", "3"]),
    ("Service.Meta is empty", ["4"]),
    ("Service.Meta is not empty", ["1", "2", "3"]),
    # Releases differ on `matches` for a key that is missing, so only instances that have it are asked.
    ('Service.Meta.allocation matches "^[ab]$" and user in Service.Meta', ["1", "2"]),
    ('Service.Meta.allocation not matches "^[ab]$" and user in Service.Meta', ["3"]),
    ('"red" in Service.Tags', ["1"]),
    ('Checks.Status == "critical"', ["4"]),
    ('Checks.Status != "critical"', ["1", "2", "3", "4"]),
    ("Service.Port == 3102", ["2"]),
    ('Service.Meta.nobody == "42"', []),
]


@pytest.fixture
async def four(name: str, registry: Registry, health: Health) -> str:
    for number, (user, allocation) in enumerate((("42", "a"), ("43", "b"), ("42", "c")), start=1):
        await registry.register(
            ID=f"{name}-{number}",
            Name=name,
            Port=3100 + number,
            Meta={"user": user, "allocation": allocation},
            Tags=["red"] if number == 1 else [],
        )
    check = {"TCP": "127.0.0.1:1", "Interval": "60s"}
    await registry.register(ID=f"{name}-4", Name=name, Check=check)
    return name


async def test_filter(four: str, health: Health) -> None:
    found = {
        expression: sorted(
            entry["Service"]["ID"].rpartition("-")[2] for entry in await health(four, filter=expression)
        )
        for expression, _ in FILTERS
    }
    assert found == dict(FILTERS)


async def test_filter_on_the_id(four: str, health: Health) -> None:
    found = await health(four, filter=f'Service.ID == "{four}-2"')
    assert [entry["Service"]["ID"] for entry in found] == [f"{four}-2"]
    assert len(await health(four, filter=f'Service.ID matches "^{four}-"')) == 4


async def test_filter_and_passing_together(four: str, health: Health) -> None:
    expression = 'Service.ID matches "-[34]$"'
    assert len(await health(four, filter=expression)) == 2
    assert len(await health(four, filter=expression, passing="1")) == 1


async def test_a_filter_that_cannot_be_read_is_refused(name: str, consul: httpx.AsyncClient) -> None:
    for expression in ("Service.Meta.user ==", 'Service.Nope == "1"', "any", 'Service.ID == "x" and'):
        answer = await consul.get(f"/v1/health/service/{name}", params={"filter": expression})
        assert answer.status_code in (400, 500), expression
        assert "Failed to create boolean expression evaluator" in answer.text
        assert answer.headers["Content-Type"].startswith("text/plain")


async def test_the_checks_of_a_service_and_of_everything(four: str, consul: httpx.AsyncClient) -> None:
    checks = (await consul.get(f"/v1/health/checks/{four}")).json()
    assert [check["ServiceID"] for check in checks] == [f"{four}-4"]
    critical = (await consul.get("/v1/health/state/critical")).json()
    assert f"{four}-4" in {check["ServiceID"] for check in critical}
    everything = (await consul.get("/v1/health/state/any")).json()
    assert "serfHealth" in {check["CheckID"] for check in everything}


async def test_the_first_look_comes_within_the_interval(
    name: str, registry: Registry, health: Health, target: Target
) -> None:
    started = time.monotonic()
    await registry.register(Name=name, Check={"TCP": f"127.0.0.1:{target.port}", "Interval": "1s"})
    await eventually(passing(health, name), within_s=5)
    assert time.monotonic() - started < 2.5
