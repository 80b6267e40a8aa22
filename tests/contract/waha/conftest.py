"""Where the suite runs: the simulator always, a real WAHA when WAHAFLEET_TEST_WAHA_URL names one.

Against the simulator the clock runs `SPEED` times faster, so that a wait of 5 s costs 0.1 s.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.waha.inline import InlineContainer, InlineSimulators

KEY = "contract-suite-key-0123456789"
SPEED = 50.0

Containers = Callable[..., InlineContainer]


@dataclass
class Target:
    """A WAHA to speak to. `speed` divides the waits that are measured."""

    name: str
    url: str
    key: str
    speed: float
    engine: str
    created: list[str] = field(default_factory=list)

    def new_name(self) -> str:
        """A session name that no other case uses; deleted when the case ends."""
        name = f"chip_{uuid.uuid4()}"
        self.created.append(name)
        return name

    def seconds(self, waha_seconds: float) -> float:
        """Real seconds that a wait of WAHA takes here."""
        return waha_seconds / self.speed


def container_env(folder: Path, **env: str) -> Mapping[str, str]:
    return {
        "WAHA_API_KEY": KEY,
        "WHATSAPP_DEFAULT_ENGINE": "GOWS",
        "WHATSAPP_API_PORT": "0",
        "WAHA_WORKER_ID": "u1",
        "WAHA_NAMESPACE": "u1",
        "WAHA_SIM_STORE_DIR": str(folder),
        "WAHA_SIM_CLOCK_SPEED": str(SPEED),
        **env,
    }


def url_of(container: InlineContainer) -> str:
    host, port = container.address
    return f"http://{host}:{port}"


@pytest.fixture(scope="session")
def simulators() -> Iterator[InlineSimulators]:
    lines: list[str] = []
    with InlineSimulators(lines.append) as simulators:
        yield simulators
    errors = [line for line in lines if "simulator_error" in line or "request_failed" in line]
    assert errors == []


@pytest.fixture
def start_container(simulators: InlineSimulators, tmp_path: Path) -> Iterator[Containers]:
    """`start_container(**env)`: a simulated container; killed when the test ends."""
    started: list[InlineContainer] = []

    def start(**env: str) -> InlineContainer:
        container = simulators.start(container_env(tmp_path, **env))
        started.append(container)
        return container

    yield start
    for container in started:
        if container.exit_code is None:
            container.kill()
            assert container.wait(10) is not None


@pytest.fixture(params=["simulator", "real"])
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """The simulator, then a real WAHA."""
    if request.param == "simulator":
        container = request.getfixturevalue("start_container")()
        yield Target("simulator", url_of(container), KEY, SPEED, "GOWS")
        return
    url = os.environ.get("WAHAFLEET_TEST_WAHA_URL")
    key = os.environ.get("WAHAFLEET_TEST_WAHA_KEY")
    if not url or not key:
        pytest.skip("no real WAHA: set WAHAFLEET_TEST_WAHA_URL and WAHAFLEET_TEST_WAHA_KEY")
    async with httpx.AsyncClient(
        base_url=url, headers={"X-Api-Key": key}, trust_env=False, timeout=60
    ) as http:
        engine = (await http.get("/api/server/version")).json()["engine"]
        target = Target("real", url, key, 1.0, engine)
        yield target
        for name in target.created:
            await http.delete(f"/api/sessions/{name}")


@pytest.fixture
async def http(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `target` with its key."""
    async with httpx.AsyncClient(
        base_url=target.url, headers={"X-Api-Key": target.key}, trust_env=False, timeout=60
    ) as client:
        yield client


@pytest.fixture
async def sim_http(start_container: Containers) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a fresh simulated container, for what only a simulator can show."""
    async with httpx.AsyncClient(
        base_url=url_of(start_container()), headers={"X-Api-Key": KEY}, trust_env=False, timeout=60
    ) as client:
        yield client


async def create(http: httpx.AsyncClient, name: str, *, start: bool = True, **body: Any) -> dict[str, Any]:
    response = await http.post("/api/sessions", json={"name": name, "start": start, **body})
    assert response.status_code == 201, response.text
    session: dict[str, Any] = response.json()
    return session


async def until(http: httpx.AsyncClient, name: str, *statuses: str, seconds: float = 30) -> str:
    """Waits for one of the statuses; which one came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status: str = (await http.get(f"/api/sessions/{name}")).json()["status"]
        if status in statuses:
            return status
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} is {status}, not one of {statuses}")


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Waits until the condition holds."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def scan(http: httpx.AsyncClient, name: str) -> None:
    """Pairs a session that shows a QR. On the fast clock a QR may expire between its reading and the scan."""
    for _ in range(5):
        value = (await http.get(f"/api/{name}/auth/qr?format=raw")).json()["value"]
        response = await http.post(f"/sim/sessions/{name}/scan", json={"qr": value})
        if response.status_code == 201:
            await until(http, name, "WORKING")
            return
        assert response.status_code == 409, response.text
    raise AssertionError(f"every QR of {name} expired before it was scanned")
