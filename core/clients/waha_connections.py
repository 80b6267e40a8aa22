"""Connections to containers: a small pool for each, since a pool looks at every connection it has at every call.

One pool for all of them took longer to look through its idle connections than the call itself took.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

_KEPT_S: Final = 15.0  # a pass calls a container a few times within a second
_POOLS_KEPT: Final = 64
# Containers are spoken to without TLS; a context for each pool would cost more than its calls.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_LIMITS: Final = httpx.Limits(max_connections=50, max_keepalive_connections=2, keepalive_expiry=_KEPT_S)


class TooLong(Exception):
    """The answer's body is longer than the caller takes."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    retry_after: str | None


class _Pool:
    __slots__ = ("calls", "transport")

    def __init__(self) -> None:
        # No proxy of this host's environment may see a container's key.
        self.transport = httpx.AsyncHTTPTransport(verify=_NO_TLS, trust_env=False, limits=_LIMITS)
        self.calls = 0


class Connections:
    """Sends requests, each on a connection of its host and port alone. Close it."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport`: carries all requests in place of the network, for tests."""
        self._transport = transport
        self._pools: OrderedDict[tuple[str, int | None], _Pool] = OrderedDict()

    async def send(self, request: httpx.Request, most_bytes: int) -> Answer:
        """The whole answer, no redirect followed. Raises TooLong, or httpx.HTTPError."""
        if self._transport is not None:
            return await _exchanged(self._transport, request, most_bytes)
        with self._pool(request.url) as transport:
            answer = await _exchanged(transport, request, most_bytes)
        await self._forget()
        return answer

    async def aclose(self) -> None:
        while self._pools:
            await self._pools.popitem()[1].transport.aclose()

    @contextmanager
    def _pool(self, url: httpx.URL) -> Iterator[httpx.AsyncHTTPTransport]:
        where = (url.host, url.port)
        pool = self._pools.get(where)
        if pool is None:
            pool = self._pools[where] = _Pool()
        self._pools.move_to_end(where)
        pool.calls += 1
        try:
            yield pool.transport
        finally:
            pool.calls -= 1

    async def _forget(self) -> None:
        """Close what was not used for longest, when there are many."""
        surplus = len(self._pools) - _POOLS_KEPT
        if surplus <= 0:
            return
        idle = [where for where, pool in self._pools.items() if not pool.calls]
        # All at once: while one is being closed, others end their calls and come here too.
        for pool in [self._pools.pop(where) for where in idle[:surplus]]:
            await pool.transport.aclose()


async def _exchanged(transport: httpx.AsyncBaseTransport, request: httpx.Request, most_bytes: int) -> Answer:
    response = await transport.handle_async_request(request)
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        body = bytearray()
        async for piece in stream:
            body += piece
            if len(body) > most_bytes:
                raise TooLong
    finally:
        await stream.aclose()
    return Answer(response.status_code, bytes(body), response.headers.get("retry-after"))
