"""Engines on this test's own database, and a relay that can fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import engine_for


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(database_url, pool_size=10)
    yield engine
    await engine.dispose()


class Relay:
    """Stands between a client and PostgreSQL and can stop passing bytes on without closing anything.

    That is what a frozen server or a cut network looks like from here.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """The port on 127.0.0.1 where it listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._upstream)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, upstream_writer))
                    both.create_task(self._pass_on(upstream_reader, writer))
            except* (OSError, EOFError):
                pass
            finally:
                upstream_writer.close()
                writer.close()
        self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    url = make_url(database_url)
    relay = Relay(str(Path(str(url.query["host"])) / f".s.PGSQL.{url.query['port']}"))
    yield relay
    await relay.stop()


@pytest.fixture
async def relayed_url(relay: Relay, database_url: str) -> str:
    """The same database through the relay."""
    url = make_url(database_url).set(query={}, host="127.0.0.1", port=await relay.start())
    return url.render_as_string(hide_password=False)
