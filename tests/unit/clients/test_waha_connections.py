"""Connections to many containers: kept for the next call, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from core.clients import waha_connections as subject
from core.clients.waha_connections import Connections, TooLong
from tests.polling import eventually

_BODY = b'{"ok":true}'


class Container:
    """Answers every request after `wait_s`; counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.wait_s = 0.0
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.wait_s)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    def request(self) -> httpx.Request:
        limits = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
        return httpx.Request("GET", f"http://127.0.0.1:{self.port}/ping", extensions={"timeout": limits})


@asynccontextmanager
async def containers(count: int) -> AsyncIterator[list[Container]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            one = Container()
            server = await stack.enter_async_context(await asyncio.start_server(one._serve, "127.0.0.1", 0))
            one.port = server.sockets[0].getsockname()[1]
            made.append(one)
        yield made


async def until(true: Callable[[], bool]) -> None:
    async def probe() -> bool:
        return true()

    await eventually(probe, within_s=5)


async def test_calls_one_after_the_other_share_a_connection() -> None:
    connections = Connections()
    async with containers(2) as (one, other):
        for _ in range(3):
            assert (await connections.send(one.request(), 100)).body == _BODY
        await connections.send(other.request(), 100)
        assert (one.connections, other.connections) == (1, 1)
        await connections.aclose()
        await until(lambda: (one.open, other.open) == (0, 0))


async def test_an_answer_that_is_too_long_is_given_up_and_its_connection_too() -> None:
    connections = Connections()
    async with containers(1) as (one,):
        with pytest.raises(TooLong):
            await connections.send(one.request(), len(_BODY) - 1)
        await connections.send(one.request(), len(_BODY))
        await connections.aclose()


async def test_what_was_not_used_for_longest_is_closed_but_never_under_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "_POOLS_KEPT", 2)
    connections = Connections()
    async with containers(6) as (slow, *others):
        slow.wait_s = 0.3
        waiting = asyncio.create_task(connections.send(slow.request(), 100))
        await until(lambda: slow.open == 1)
        # Many at once: each that ends looks for what to close while others do the same.
        answers = await asyncio.gather(*(connections.send(one.request(), 100) for one in others))
        assert all(answer.status == 200 for answer in answers)
        await until(lambda: sum(one.open for one in others) <= 2)
        assert (await waiting).body == _BODY
        await connections.aclose()
        await until(lambda: not any(one.open for one in (slow, *others)))
