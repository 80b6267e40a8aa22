"""Our own client on both agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from core.clients.discovery import ConsulDiscovery
from core.domain.facts import ServiceInstance
from core.settings import ConsulSettings
from tests.contract.consul.conftest import Agent, Registry, Target
from tests.polling import eventually


@pytest.fixture
async def discovery(agent: Agent, name: str) -> AsyncIterator[ConsulDiscovery]:
    settings = ConsulSettings(address=agent.url, token=None, timeout_s=5, watch_wait_s=30, ca_file=None)
    made = ConsulDiscovery(settings, service=name)
    yield made
    await made.close()


def instance(name: str, user: str, allocation: str, port: int) -> dict[str, object]:
    return {
        "ID": f"_nomad-task-{allocation}-group-waha-{name}-http",
        "Name": name,
        "Address": "127.0.0.1",
        "Port": port,
        "Meta": {"user": user, "allocation": allocation, "spec": "s1", "external-source": "nomad"},
    }


async def test_instances_with_their_health(
    discovery: ConsulDiscovery, name: str, registry: Registry, target: Target
) -> None:
    bad = [{"TCP": "127.0.0.1:1", "Interval": "60s"}]
    await registry.register(**instance(name, "u1", "a1", 3101))
    await registry.register(**instance(name, "u2", "a2", 3102), Checks=bad)
    await registry.register(Name=name, ID=f"{name}-stranger")
    one = ServiceInstance(
        service_id=f"_nomad-task-a1-group-waha-{name}-http",
        user_id="u1",
        allocation_id="a1",
        address="127.0.0.1",
        port=3101,
        passing=True,
        spec_hash="s1",
    )
    found = await discovery.instances()
    assert [(each.user_id, each.passing) for each in found] == [("u1", True), ("u2", False)]
    assert found[0] == one
    assert await discovery.instances("u1") == (one,)
    [failing] = await discovery.instances("u2")
    assert not failing.passing
    assert failing.output != "", "the words of a failing check"
    assert found[1].output == ""
    assert await discovery.instances("nobody") == ()
    assert await discovery.leader()


async def test_the_watch_sees_an_instance_come_turn_good_and_go(
    discovery: ConsulDiscovery, name: str, registry: Registry, target: Target
) -> None:
    async with asyncio.timeout(20), aclosing(discovery.watch()) as watch:
        last = await _other_than(None, watch)
        assert last == ()
        check = [{"TCP": f"127.0.0.1:{target.port}", "Interval": "100ms"}]
        body = instance(name, "u1", "a1", 3101)
        await registry.register(**body, Checks=check)
        last = await _other_than(last, watch)
        if [one.passing for one in last] == [False]:
            last = await _other_than(last, watch)
        assert [one.passing for one in last] == [True]
        await registry.deregister(str(body["ID"]))
        assert await _other_than(last, watch) == ()


async def _other_than(
    last: tuple[ServiceInstance, ...] | None, watch: AsyncIterator[tuple[ServiceInstance, ...]]
) -> tuple[ServiceInstance, ...]:
    """The next list that differs; unchanged ones come between as signs of life."""
    async for found in watch:
        if found != last:
            return found
    raise AssertionError("the watch ended")


async def test_reads_go_on_while_watches_wait(discovery: ConsulDiscovery) -> None:
    async def watch() -> None:
        async with aclosing(discovery.watch()) as lists:
            async for _ in lists:
                pass

    watches = [asyncio.create_task(watch()) for _ in range(8)]
    try:
        await asyncio.sleep(0.2)

        async def read() -> bool:
            return await discovery.instances() == ()

        await eventually(read, within_s=2)
    finally:
        for one in watches:
            one.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
