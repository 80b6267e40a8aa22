"""Readings of exits through real sockets: a strict SOCKS5 server and an HTTP proxy, with an echo address behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from core.clients.exit_reading import ExitReader
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.routes import Reading
from tests.integration.egress.doubles import Handler, HttpProxy, Socks5, serving

NAME = "echo.invalid"  # resolves nowhere: only the upstream knows it
LOGIN, PASSWORD = "login-0123456789ab", "hunter2"


class World:
    """Both proxies, and what the echo address says."""

    def __init__(self) -> None:
        self.socks, self.http = Socks5(), HttpProxy()
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n203.0.113.7\n"
        self.heads: list[str] = []
        self.ports: dict[str, int] = {}

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        await writer.drain()
        writer.close()

    def via(self, scheme: str = "socks5", **changes: object) -> Upstream:
        made = Upstream("socks5", "127.0.0.1", self.ports[scheme], LOGIN, PASSWORD, "dataimpulse")
        return msgspec.structs.replace(made, scheme=scheme, **changes)

    async def read(
        self, upstream: Upstream, url: str = f"http://{NAME}/ip?plain", **limits: float
    ) -> Reading:
        return await ExitReader(url, **{"timeout_s": 2.0, **limits}).read(upstream)  # type: ignore[arg-type]


@pytest.fixture
async def w() -> AsyncIterator[World]:
    world = World()
    handlers: dict[str, Handler] = {"socks5": world.socks, "http": world.http, "echo": world.echo}
    async with AsyncExitStack() as stack:
        for name, handler in handlers.items():
            world.ports[name] = await stack.enter_async_context(serving(handler))
        for proxy in (world.socks, world.http):
            proxy.hosts[f"{NAME}:80"] = ("127.0.0.1", world.ports["echo"])
        yield world
        assert world.socks.wrong == []


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_the_exit_is_what_the_echo_address_says_and_the_upstream_resolves_its_name(
    w: World, scheme: str
) -> None:
    assert await w.read(w.via(scheme)) == Reading("203.0.113.7", None)
    (head,) = w.heads
    assert head.startswith("GET /ip?plain HTTP/1.1\r\n")
    assert f"Host: {NAME}\r\n" in head
    logins = (w.socks if scheme == "socks5" else w.http).logins
    assert [(login.username, login.target) for login in logins] == [(LOGIN, f"{NAME}:80")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda w: setattr(w.socks, "password", "another"), EgressError.PROXY_AUTH),
        (lambda w: setattr(w.socks, "reply", 2), EgressError.PROXY_REFUSED),
        (lambda w: w.socks.hosts.clear(), EgressError.PROXY_HOST_UNREACHABLE),
        (lambda w: setattr(w.socks, "reply", 1), EgressError.PROXY_PROTOCOL),
        (lambda w: setattr(w.socks, "silent", True), EgressError.PROXY_UNREACHABLE),
    ],
)
async def test_each_refusal_of_a_socks5_upstream_has_its_reason(
    w: World, change: Callable[[World], object], error: EgressError
) -> None:
    change(w)
    assert await w.read(w.via(), timeout_s=0.5) == Reading(None, error)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 TRAFFIC_EXHAUSTED\r\n\r\n", EgressError.TRAFFIC_EXHAUSTED),
        (b"HTTP/1.1 407 No\r\n\r\nTHREADS_EXHAUSTED", EgressError.THREADS_EXHAUSTED),
        (b"HTTP/1.1 407 No\r\n\r\n", EgressError.PROXY_AUTH),
        (b"HTTP/1.1 502 NO_HOST_CONNECTION\r\n\r\n", EgressError.NO_PEER),
        (b"nonsense\r\n\r\n", EgressError.PROXY_PROTOCOL),
    ],
)
async def test_words_of_a_provider_are_told_apart(w: World, answer: bytes, error: EgressError) -> None:
    w.http.answer = answer
    assert await w.read(w.via("http")) == Reading(None, error)


async def test_a_dead_upstream_is_unreachable(w: World) -> None:
    async with serving(w.echo) as port:
        pass
    assert await w.read(w.via(port=port)) == Reading(None, EgressError.PROXY_UNREACHABLE)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\n203.0.113.7",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n203.0.113.7",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 100_000,
        b"\x00\x01\x02",
        b"",
    ],
)
async def test_an_echo_address_that_answers_no_address_is_told(w: World, answer: bytes) -> None:
    w.answer = answer
    assert await w.read(w.via()) == Reading(None, EgressError.PROXY_PROTOCOL)


async def test_an_exit_of_ipv6_and_an_answer_in_chunks(w: World) -> None:
    w.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n2001:db8\r\n3\r\n::1\r\n0\r\n\r\n"
    assert await w.read(w.via()) == Reading("2001:db8::1", None)


async def test_an_echo_address_without_tls_behind_https_is_unreachable(w: World) -> None:
    w.socks.hosts[f"{NAME}:443"] = ("127.0.0.1", w.ports["echo"])
    read = await w.read(w.via(), f"https://{NAME}/", timeout_s=1.0)
    assert read == Reading(None, EgressError.PROXY_UNREACHABLE)
    assert w.heads == []


async def test_only_so_many_readings_go_on_at_once(w: World) -> None:
    w.socks.silent = True
    reader = ExitReader(f"http://{NAME}/", timeout_s=0.3, at_once=1)
    busy = [reader.is_busy]
    reading = asyncio.ensure_future(reader.read(w.via()))
    await asyncio.sleep(0.05)
    busy.append(reader.is_busy)
    assert (await reading).failure is EgressError.PROXY_UNREACHABLE
    assert [*busy, reader.is_busy] == [False, True, False]
