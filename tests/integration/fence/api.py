"""The API as a process of its own, and each host's way to it, which may fail."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from core.status_server import listening
from sandbox.free_ports import free_port

_START_S = 60.0


class Way:
    """Between one host and the API. `open`: something passes. `late_s`: requests and answers take up to so long each."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.late_s = 0.0


class Ways:
    """What guards take for the API: hands requests and answers on, by node."""

    def __init__(self, api: httpx.AsyncClient, rng: random.Random) -> None:
        self._api = api
        self._rng = rng
        self._ways: dict[str, Way] = {}
        self.statuses: set[int] = set()

    def way(self, node_id: str) -> Way:
        return self._ways.setdefault(node_id, Way())

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        credential = headers.get(b"authorization", b"").decode()
        way = self.way(credential.removeprefix("Guard ").partition(":")[0])
        await self._travel(way)
        answer = await self._api.post(
            scope["path"],
            content=body,
            headers={"Authorization": credential, "Content-Type": "application/json"},
        )
        self.statuses.add(answer.status_code)
        # The way back: the store has acted, and the guard does not hear of it, or late.
        await self._travel(way)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
        await send({"type": "http.response.body", "body": answer.content})

    async def _travel(self, way: Way) -> None:
        await way.open.wait()
        if way.late_s:
            await asyncio.sleep(self._rng.uniform(0, way.late_s))


@asynccontextmanager
async def ways_to(url: str, rng: random.Random) -> AsyncIterator[tuple[Ways, str]]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as api:
        ways = Ways(api, rng)
        async with listening(ways, "127.0.0.1:0", setting="(test)") as own:
            assert own is not None
            yield ways, own


@asynccontextmanager
async def api_process(log: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """`wahafleet api`; its address."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "api", "--port", str(port)),
            stdout=output,
            stderr=output,
            env={**env, **settings},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(_START_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert process.returncode is None, _text(log)
                try:
                    await http.get(f"{url}/health")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


def _text(log: Path) -> str:
    return log.read_text()
