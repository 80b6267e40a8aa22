"""Blocking queries: who wakes, who sleeps, and what the index says. Never an absolute index."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from tests.contract.consul.conftest import Registry, Target
from tests.polling import eventually


def index_of(answer: httpx.Response) -> int:
    assert answer.status_code in (200, 404), answer.text
    return int(answer.headers["X-Consul-Index"])


async def settled(consul: httpx.AsyncClient, path: str) -> int:
    """The index of `path`, once nothing moves it any more."""
    last = [0]

    async def still() -> bool:
        index = index_of(await consul.get(path))
        same = index == last[0]
        last[0] = index
        return same

    await eventually(still, every_s=0.15)
    return last[0]


async def test_headers_of_a_read(name: str, consul: httpx.AsyncClient) -> None:
    answer = await consul.get(f"/v1/health/service/{name}")
    assert int(answer.headers["X-Consul-Index"]) >= 1
    assert answer.headers["X-Consul-Knownleader"] == "true"
    assert answer.headers["X-Consul-Lastcontact"] == "0"
    assert answer.headers["X-Consul-Effective-Consistency"] == "leader"
    assert answer.headers["Content-Type"] == "application/json"


async def test_a_quiet_query_returns_after_its_wait_with_the_same_index(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=name)
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    started = time.monotonic()
    answer = await consul.get(path, params={"index": str(index), "wait": "800ms"})
    took = time.monotonic() - started
    assert index_of(answer) == index
    assert 0.75 <= took <= 3.0


async def test_a_change_wakes_a_query(name: str, consul: httpx.AsyncClient, registry: Registry) -> None:
    await registry.register(ID=f"{name}-1", Name=name)
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    waiting = asyncio.create_task(consul.get(path, params={"index": str(index), "wait": "10s"}))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await registry.register(ID=f"{name}-2", Name=name)
    async with asyncio.timeout(5):
        answer = await waiting
    assert index_of(answer) > index
    assert len(answer.json()) == 2


async def test_a_check_that_turns_wakes_a_query(
    name: str, consul: httpx.AsyncClient, registry: Registry, target: Target
) -> None:
    await registry.register(Name=name, Check={"TCP": f"127.0.0.1:{target.port}", "Interval": "100ms"})
    path = f"/v1/health/service/{name}"

    async def passes() -> bool:
        return bool((await consul.get(path, params={"passing": "1"})).json())

    await eventually(passes)
    index = await settled(consul, path)
    waiting = asyncio.create_task(
        consul.get(path, params={"index": str(index), "wait": "10s", "passing": "1"})
    )
    await asyncio.sleep(0.1)
    await target.close()
    async with asyncio.timeout(8):
        answer = await waiting
    assert index_of(answer) > index
    assert answer.json() == []


async def test_a_change_of_another_service_wakes_nobody(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=name)
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    waiting = asyncio.create_task(consul.get(path, params={"index": str(index), "wait": "2s"}))
    await registry.register(Name=f"{name}-other")
    await registry.deregister(f"{name}-other")
    answer = await waiting
    assert index_of(answer) == index


async def test_an_absent_name_blocks_and_wakes_when_any_last_instance_vanishes(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=f"{name}-first")
    await registry.deregister(f"{name}-first")
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    quiet = await consul.get(path, params={"index": str(index), "wait": "500ms"})
    assert (index_of(quiet), quiet.json()) == (index, [])
    await registry.register(Name=f"{name}-second")
    waiting = asyncio.create_task(consul.get(path, params={"index": str(index), "wait": "10s"}))
    await asyncio.sleep(0.3)
    assert not waiting.done()  # a service that comes is no news for another name
    await registry.deregister(f"{name}-second")
    async with asyncio.timeout(5):
        woken = await waiting
    assert index_of(woken) > index
    assert woken.json() == []


async def test_an_absent_name_wakes_when_it_appears(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=f"{name}-first")
    await registry.deregister(f"{name}-first")
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    waiting = asyncio.create_task(consul.get(path, params={"index": str(index), "wait": "10s"}))
    await asyncio.sleep(0.1)
    await registry.register(Name=name)
    async with asyncio.timeout(5):
        answer = await waiting
    assert index_of(answer) > index
    assert len(answer.json()) == 1


async def test_an_index_ahead_of_everything_blocks_and_answers_with_the_lower_one(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=name)
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    answer = await consul.get(path, params={"index": str(index + 100_000), "wait": "300ms"})
    assert index_of(answer) == index


async def test_wait_without_index_is_ignored(name: str, consul: httpx.AsyncClient) -> None:
    started = time.monotonic()
    await consul.get(f"/v1/health/service/{name}", params={"wait": "10s"})
    assert time.monotonic() - started < 3


async def test_a_filter_does_not_keep_a_query_asleep(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(ID=f"{name}-1", Name=name, Meta={"user": "1"})
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    params = {"index": str(index), "wait": "10s", "filter": 'Service.Meta.user == "1"'}
    waiting = asyncio.create_task(consul.get(path, params=params))
    await asyncio.sleep(0.1)
    await registry.register(ID=f"{name}-2", Name=name, Meta={"user": "2"})
    async with asyncio.timeout(5):
        answer = await waiting
    assert len(answer.json()) == 1


async def test_the_list_of_services_blocks_on_any_service(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    index = await settled(consul, "/v1/catalog/services")
    waiting = asyncio.create_task(
        consul.get("/v1/catalog/services", params={"index": str(index), "wait": "10s"})
    )
    await asyncio.sleep(0.1)
    await registry.register(Name=name)
    async with asyncio.timeout(5):
        answer = await waiting
    assert index_of(answer) > index
    assert name in answer.json()


async def test_a_key_blocks_until_it_is_written(name: str, consul: httpx.AsyncClient) -> None:
    await consul.put(f"/v1/kv/{name}", content=b"1")
    index = index_of(await consul.get(f"/v1/kv/{name}"))
    waiting = asyncio.create_task(consul.get(f"/v1/kv/{name}", params={"index": str(index), "wait": "10s"}))
    await consul.put(f"/v1/kv/{name}-other", content=b"1")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await consul.put(f"/v1/kv/{name}", content=b"2")
    async with asyncio.timeout(5):
        answer = await waiting
    assert index_of(answer) > index
    assert answer.json()[0]["Value"] == "Mg=="


async def test_bad_parameters_are_refused(name: str, consul: httpx.AsyncClient) -> None:
    path = f"/v1/health/service/{name}"
    for params, text in (
        ({"index": "abc"}, "Invalid index"),
        ({"index": "-1"}, "Invalid index"),
        ({"index": "1", "wait": "soon"}, "Invalid wait time"),
        ({"index": "1", "wait": "10"}, "Invalid wait time"),
    ):
        answer = await consul.get(path, params=params)
        assert (answer.status_code, answer.text) == (400, text)


async def test_a_client_that_hangs_up_does_no_harm(
    name: str, consul: httpx.AsyncClient, registry: Registry
) -> None:
    await registry.register(Name=name)
    path = f"/v1/health/service/{name}"
    index = await settled(consul, path)
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            await consul.get(path, params={"index": str(index), "wait": "10s"}, timeout=0.05)
    assert index_of(await consul.get(path)) == index
