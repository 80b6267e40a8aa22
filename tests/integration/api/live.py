"""The application behind a real server on loopback, and callers that listen to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from api.server import ApiServer, configured
from tests.integration.api.conftest import Person, Running


class _Server(ApiServer):
    """pytest keeps its signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(running: Running) -> AsyncIterator[str]:
    """`http://127.0.0.1:<port>` of one more process's worth of API. The lifespan is the fixture's."""
    config = configured(running.app, "127.0.0.1", 0)
    config.lifespan = "off"
    server = _Server(config, running.app)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@dataclass
class Heard:
    """One server-sent event."""

    event: str
    data: Any
    id: str | None


@dataclass
class Ear:
    """Reads one stream in the background."""

    heard: list[Heard] = field(default_factory=list)
    comments: int = 0
    ended: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, event: str) -> list[Any]:
        return [one.data for one in self.heard if one.event == event]

    @property
    def last_id(self) -> str | None:
        """As a browser keeps it: the newest id of whatever event had one."""
        return next((one.id for one in reversed(self.heard) if one.id is not None), None)

    async def until(self, event: str, timeout_s: float = 5, **wanted: Any) -> Any:
        """The first such event whose data holds `wanted`, past or to come."""
        async with asyncio.timeout(timeout_s):
            while True:
                for one in self.heard:
                    if one.event == event and wanted.items() <= one.data.items():
                        return one.data
                assert not self.ended, (event, wanted, self.heard)
                await self._news.wait()
                self._news.clear()

    async def end(self, timeout_s: float = 5) -> None:
        async with asyncio.timeout(timeout_s):
            while not self.ended:
                await self._news.wait()
                self._news.clear()

    def told(self, one: Heard) -> None:
        self.heard.append(one)
        self._news.set()

    def over(self) -> None:
        self.ended = True
        self._news.set()


@asynccontextmanager
async def listening(url: str, headers: dict[str, str]) -> AsyncIterator[Ear]:
    """Somebody who reads the stream at `url` until the block ends."""
    ear, opened = Ear(), asyncio.Event()

    async def read() -> None:
        timeout = httpx.Timeout(5, read=None)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=timeout) as http,
            http.stream("GET", url, headers=headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            opened.set()
            await _parsed(answer, ear)

    task = asyncio.create_task(read())
    waits = asyncio.create_task(opened.wait())
    try:
        await asyncio.wait((task, waits), timeout=5, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield ear
    finally:
        waits.cancel()
        task.cancel()
        await asyncio.gather(task, waits, return_exceptions=True)


async def _parsed(answer: httpx.Response, ear: Ear) -> None:
    parts: dict[str, str] = {}
    try:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if not line:
                if "data" in parts:
                    ear.told(Heard(parts["event"], json.loads(parts["data"]), parts.get("id")))
                parts = {}
            elif not name:
                ear.comments += 1
            else:
                parts[name] = value
    finally:
        ear.over()


def stream_url(base: str, chip_id: str) -> str:
    return f"{base}/api/v1/chips/{chip_id}/stream"


async def at(base: str, person: Person, method: str, path: str, **more: Any) -> httpx.Response:
    """A call of `person` to the API at `base`."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.request(method, f"{base}/api/v1{path}", headers=person.headers, **more)
