"""Sessions with a proxy, over real sockets: through the sandbox's provider as an HTTP proxy, which a guard is to WAHA."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.provider.journal import Journal, Line
from sandbox.provider.journal import read as provider_lines
from sandbox.provider.server import Provider, running_provider
from sandbox.waha import journal
from sandbox.waha.tunnel import TARGET
from tests.contract.waha.conftest import KEY, Containers, create, scan, until, url_of

USER, PASSWORD = "local-0123456789ab", "hunter2"


class World:
    def __init__(self, http: httpx.AsyncClient, provider: Provider, file: Path, store: Path) -> None:
        self.http = http
        self.provider = provider
        self.file = file
        self.store = store

    @property
    def proxy(self) -> dict[str, str]:
        return {"server": f"127.0.0.1:{self.provider.port}", "username": USER, "password": PASSWORD}

    async def start(self, name: str = "chip_1", **proxy: str) -> dict[str, Any]:
        return await create(self.http, name, config={"proxy": self.proxy | proxy})

    def lines(self, event: str = "") -> list[Line]:
        return [line for line in provider_lines(self.file) if event in ("", line.event)]

    async def eventually(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the other side is a thread
                await asyncio.sleep(0.01)


@pytest.fixture
async def w(start_container: Containers, tmp_path: Path) -> AsyncIterator[World]:
    # At 50 times the speed a session says something ten times a second.
    container = start_container(WAHA_SIM_TUNNEL_INTERVAL_S="5")
    file = tmp_path / "provider.jsonl"
    async with (
        running_provider({"local": PASSWORD}, Journal(file)) as provider,
        httpx.AsyncClient(
            base_url=url_of(container), headers={"X-Api-Key": KEY}, trust_env=False, timeout=60
        ) as http,
    ):
        yield World(http, provider, file, tmp_path)


async def test_a_session_says_hello_through_its_proxy_and_goes_on_talking(w: World) -> None:
    created = await w.start()
    assert created["config"]["proxy"] == w.proxy
    await until(w.http, "chip_1", "SCAN_QR_CODE")
    (opening,) = w.lines("open")
    assert (opening.user, opening.target, opening.scheme) == (USER, TARGET, "http")
    await w.eventually(lambda: len(w.lines("chunk")) > 8)
    await scan(w.http, "chip_1")
    heard = len(w.lines("chunk"))
    await w.eventually(lambda: len(w.lines("chunk")) > heard + 4)
    assert len(w.lines("open")) == 1
    await w.http.post("/api/sessions/chip_1/stop")
    await w.eventually(lambda: w.lines("close"))
    out = sum(line.bytes for line in w.lines("chunk") if line.direction == "out")
    back = sum(line.bytes for line in w.lines("chunk") if line.direction == "in")
    sent, received = journal.traffic(w.store)["chip_1"]
    assert sent == out == back
    assert 0 <= sent - received <= 24  # the last answer may have come too late


@pytest.mark.parametrize("why", ["password", "full", "no_peer"])
async def test_a_refused_tunnel_fails_the_session_and_a_restart_brings_it_up(w: World, why: str) -> None:
    await w.provider.turn({"refuse": {"*": why}})
    await w.start()
    assert await until(w.http, "chip_1", "SCAN_QR_CODE", "FAILED") == "FAILED"
    assert {line.event for line in w.lines()} == {"refused"}
    assert len(w.lines()) == 4
    await w.provider.turn({"refuse": {}})
    await w.http.post("/api/sessions/chip_1/restart")
    await until(w.http, "chip_1", "SCAN_QR_CODE")


async def test_a_credential_is_sent_as_it_was_written(w: World) -> None:
    await w.start(password="wrong")
    assert await until(w.http, "chip_1", "SCAN_QR_CODE", "FAILED") == "FAILED"
    assert {(line.user, line.why) for line in w.lines("refused")} == {(USER, "password")}


@pytest.mark.parametrize(
    "server", ["127.0.0.1:1", "127.0.0.1:none", "socks5://127.0.0.1:1080", "nowhere.invalid:3128", ":"]
)
async def test_a_proxy_that_nobody_reaches(w: World, server: str) -> None:
    await w.start(server=server)
    assert await until(w.http, "chip_1", "SCAN_QR_CODE", "FAILED") == "FAILED"


async def test_a_name_and_a_scheme_work_as_in_wahas_documentation_and_code(w: World) -> None:
    await w.start("chip_1", server=f"localhost:{w.provider.port}")
    await w.start("chip_2", server=f"http://127.0.0.1:{w.provider.port}")
    for name in ("chip_1", "chip_2"):
        assert await until(w.http, name, "SCAN_QR_CODE", "FAILED") == "SCAN_QR_CODE"


async def test_a_working_session_is_back_by_itself_when_its_way_is(w: World) -> None:
    await w.start()
    await until(w.http, "chip_1", "SCAN_QR_CODE")
    await scan(w.http, "chip_1")
    await w.provider.turn({"dead": True})
    await until(w.http, "chip_1", "STARTING")
    await w.provider.turn({"dead": False})
    await until(w.http, "chip_1", "WORKING")
    assert [line.user for line in w.lines("open")] == [USER, USER]


async def test_a_killed_container_hangs_up(w: World, start_container: Containers) -> None:
    other = start_container(WAHA_NAMESPACE="u2")
    async with httpx.AsyncClient(
        base_url=url_of(other), headers={"X-Api-Key": KEY}, trust_env=False, timeout=60
    ) as http:
        await create(http, "chip_9", config={"proxy": w.proxy})
        await until(http, "chip_9", "SCAN_QR_CODE")
    assert len(w.provider.tunnels) == 1
    other.kill()
    await w.eventually(lambda: not w.provider.tunnels)
