"""Taking an instance out of Consul's catalog: the double, and a real agent where there is one."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from core.clients.discovery import SERVICE, ConsulDiscovery
from core.settings import ConsulSettings
from sandbox.agents.consul_agent import ConsulAgent
from sandbox.consul_double import running_consul_double
from tests.polling import eventually


@pytest.fixture(params=["double", "real"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "double":
        async with running_consul_double() as double:
            yield double.url
        return
    if shutil.which("consul") is None:
        pytest.skip("there is no consul on PATH")
    with await asyncio.to_thread(ConsulAgent.start, tmp_path / "consul") as agent:
        yield agent.url


def service(user: str, allocation: str) -> dict[str, object]:
    return {
        "ID": f"_nomad-task-{allocation}-group-waha_plus-{SERVICE}-http",
        "Name": SERVICE,
        "Address": "127.0.0.1",
        "Port": 3101,
        "Meta": {"user": user, "allocation": allocation, "spec": "s1"},
    }


async def test_the_one_named_goes_and_the_others_stay(url: str) -> None:
    settings = ConsulSettings(address=url, token=None, timeout_s=5, watch_wait_s=30, ca_file=None)
    discovery = ConsulDiscovery(settings)
    users = [str(uuid.uuid4()) for _ in range(2)]
    gone, stays = (service(user, str(uuid.uuid4())) for user in users)
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as consul:
            for each in (gone, stays):
                answer = await consul.put("/v1/agent/service/register", json=each)
                assert answer.status_code == 200

        async def both() -> bool:
            return await _ids(discovery) == {gone["ID"], stays["ID"]}

        await eventually(both)

        async def removed() -> bool:
            # Twice: the second time it is gone already. A real agent that holds it may synchronise in between.
            for _ in range(2):
                await discovery.deregister(str(gone["ID"]))
            return await _ids(discovery) == {stays["ID"]}

        await eventually(removed)
        await discovery.deregister("nobody-has-this-id")
        assert stays["ID"] in await _ids(discovery)
    finally:
        await discovery.close()


async def _ids(discovery: ConsulDiscovery) -> set[str]:
    return {one.service_id for one in await discovery.instances()}
