"""Many containers in one process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from sandbox.waha.inline import InlineSimulators
from sandbox.waha.settings import InvalidSettings

from .conftest import KEY, container_env, scan, until, url_of

COUNT = 80


async def test_eighty_containers_each_with_its_own_sessions(
    simulators: InlineSimulators, tmp_path: Path
) -> None:
    containers = [
        simulators.start(
            container_env(
                tmp_path, WAHA_NAMESPACE=f"u{number}", WAHA_WORKER_ID=f"u{number}", WAHA_SIM_CLOCK_SPEED="5"
            )
        )
        for number in range(COUNT)
    ]
    assert len({container.address for container in containers}) == COUNT
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(
        headers={"X-Api-Key": KEY}, trust_env=False, limits=limits, timeout=60
    ) as http:

        async def use(number: int) -> list[str]:
            url = url_of(containers[number])
            body = {"name": f"chip_{number}", "start": True}
            assert (await http.post(f"{url}/api/sessions", json=body)).status_code == 201
            assert (await http.get(f"{url}/api/chip_{number}/auth/qr")).status_code == 200
            return [one["name"] for one in (await http.get(f"{url}/api/sessions")).json()]

        names = await asyncio.gather(*(use(number) for number in range(COUNT)))
    assert names == [[f"chip_{number}"] for number in range(COUNT)]
    for container in containers:
        container.stop()
    assert [container.wait(20) for container in containers] == [0] * COUNT


async def test_a_killed_container_frees_its_port_and_a_new_one_restores(
    simulators: InlineSimulators, tmp_path: Path
) -> None:
    codes: list[int] = []
    first = simulators.start(container_env(tmp_path), codes.append)
    port = str(first.address[1])
    async with httpx.AsyncClient(base_url=url_of(first), headers={"X-Api-Key": KEY}, trust_env=False) as http:
        await http.post("/api/sessions", json={"name": "s", "start": True})
        await scan(http, "s")
        first.kill()
        assert first.wait(10) == 137
        assert codes == [137]
        with pytest.raises(httpx.TransportError):
            await http.get("/ping")
        second = simulators.start(container_env(tmp_path, WHATSAPP_API_PORT=port))
        await until(http, "s", "WORKING")
    second.stop()
    assert second.wait(10) == 0


def test_a_bad_start_is_raised_to_the_caller(simulators: InlineSimulators, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        simulators.start(container_env(tmp_path, WHATSAPP_DEFAULT_ENGINE="VENOM"))
    first = simulators.start(container_env(tmp_path))
    with pytest.raises(OSError, match="in use"):
        simulators.start(container_env(tmp_path, WHATSAPP_API_PORT=str(first.address[1])))
    first.kill()
    assert first.wait(10) == 137


def test_each_container_has_a_log_of_its_own(simulators: InlineSimulators, tmp_path: Path) -> None:
    lines: list[str] = []
    container = simulators.start(container_env(tmp_path), write=lines.append)
    container.stop()
    assert container.wait(10) == 0
    assert [json.loads(line)["event"] for line in lines] == ["listening", "stopped"]


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    with InlineSimulators(lambda _line: None) as simulators:
        container = simulators.start(container_env(tmp_path))
    assert container.exit_code == 137
