"""The sandbox's provider: exits, knobs and the journal, asked through the guard's own ways to an upstream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.providers import SubUser, credential
from core.provider_templates import templates
from egress.errors import Refused
from egress.upstreams import opened
from sandbox.provider import journal
from sandbox.provider.control import controlled
from sandbox.provider.journal import Journal
from sandbox.provider.server import ECHO_HOST, Provider, running_provider

LOGIN, PASSWORD = "local", "hunter2"
FIRST, SECOND = "local-0123456789ab", "local-ba9876543210"
Scheme = Literal["socks5", "http"]
SCHEMES: tuple[Scheme, ...] = ("socks5", "http")


class World:
    def __init__(self, provider: Provider, file: Path) -> None:
        self.provider = provider
        self.file = file

    async def tunnel(
        self, user: str = FIRST, scheme: Scheme = "socks5", *, to: tuple[str, int] = ("g.whatsapp.net", 443)
    ) -> Tunnel:
        """Raises Refused, as in a guard."""
        upstream = Upstream(scheme, "127.0.0.1", self.provider.port, user, PASSWORD, "generic")
        rules = templates()["generic"].errors
        found = await opened(upstream, *to, may_send=lambda: True, timeout_s=5, rules=rules)
        assert found.early == b""
        return Tunnel(*await asyncio.open_connection(sock=found.sock))

    async def refused(self, user: str = FIRST, scheme: Scheme = "socks5", **more: Any) -> EgressError:
        with pytest.raises(Refused) as caught:
            await self.tunnel(user, scheme, **more)
        return caught.value.error

    async def exit_ip(self, user: str, scheme: Scheme = "socks5") -> str:
        tunnel = await self.tunnel(user, scheme, to=(ECHO_HOST, 80))
        tunnel.writer.write(b"GET / HTTP/1.1\r\nHost: echo.invalid\r\n\r\n")
        head, _, body = (await asyncio.wait_for(tunnel.reader.read(), 5)).decode().partition("\r\n\r\n")
        tunnel.close()
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        return body.strip()

    def lines(self) -> list[journal.Line]:
        return journal.read(self.file)

    async def closed(self) -> None:
        async with asyncio.timeout(5):
            while self.provider.tunnels:  # noqa: ASYNC110 - sockets have no event of their own
                await asyncio.sleep(0.005)


class Tunnel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def said(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 5)

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    file = tmp_path / "provider" / "journal.jsonl"
    async with running_provider({LOGIN: PASSWORD}, Journal(file)) as provider:
        yield World(provider, file)


async def test_it_takes_what_the_template_makes(w: World) -> None:
    made = credential(templates()["generic"], SubUser(LOGIN, PASSWORD), "0123456789ab", "br", 60)
    assert (made.username, made.password) == (FIRST, PASSWORD)
    tunnel = await w.tunnel(made.username)
    assert await tunnel.said(b"hello") == b"hello"
    tunnel.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_each_tunnel_and_each_chunk_has_its_line(w: World, scheme: Scheme) -> None:
    before = time.monotonic()
    tunnel = await w.tunnel(scheme=scheme)
    assert await tunnel.said(b"hello") == b"hello"
    assert w.provider.tunnels == {1: FIRST}
    tunnel.close()
    await w.closed()
    opening, *chunks, closing = w.lines()
    assert (opening.event, opening.scheme, opening.target) == ("open", scheme, "g.whatsapp.net:443")
    assert opening.exit_ip == await w.exit_ip(FIRST)
    assert [(line.event, line.direction, line.bytes) for line in chunks] == [
        ("chunk", "out", 5),
        ("chunk", "in", 5),
    ]
    assert closing.event == "close"
    lines = [opening, *chunks, closing]
    assert {(line.tunnel, line.user) for line in lines} == {(1, FIRST)}
    times = [before, *(line.at for line in lines), time.monotonic()]
    assert times == sorted(times)


async def test_every_user_name_has_an_exit_of_its_own_and_keeps_it(w: World, tmp_path: Path) -> None:
    names = [f"local-{number:012d}" for number in range(40)]
    seen = {name: await w.exit_ip(name) for name in names}
    assert len(set(seen.values())) == len(names)
    assert all(address.startswith("100.") for address in seen.values())
    assert {name: await w.exit_ip(name, "http") for name in names} == seen
    async with running_provider({LOGIN: PASSWORD}, Journal(None)) as again:
        assert await World(again, tmp_path).exit_ip(names[7]) == seen[names[7]]


async def test_two_can_be_made_to_share_an_exit(w: World) -> None:
    own = await w.exit_ip(FIRST)
    await w.provider.turn({"exits": {SECOND: own}})
    assert await w.exit_ip(SECOND) == own
    await w.provider.turn({"exits": {}})
    assert await w.exit_ip(SECOND) != own


@pytest.mark.parametrize(
    ("why", "socks5", "http"),
    [
        ("password", EgressError.PROXY_AUTH, EgressError.PROXY_AUTH),
        ("full", EgressError.PROXY_REFUSED, EgressError.THREADS_EXHAUSTED),
        ("exhausted", EgressError.PROXY_REFUSED, EgressError.TRAFFIC_EXHAUSTED),
        ("no_peer", EgressError.PROXY_HOST_UNREACHABLE, EgressError.NO_PEER),
        ("rules", EgressError.PROXY_REFUSED, EgressError.PROXY_REFUSED),
        ("nowhere", EgressError.PROXY_HOST_UNREACHABLE, EgressError.PROXY_HOST_UNREACHABLE),
    ],
)
async def test_what_it_refuses_has_the_reason_of_real_ones(
    w: World, why: str, socks5: EgressError, http: EgressError
) -> None:
    await w.provider.turn({"refuse": {FIRST: why}})
    assert await w.refused(FIRST, "socks5") == socks5
    assert await w.refused(FIRST, "http") == http
    assert [(line.event, line.user, line.why) for line in w.lines()] == [("refused", FIRST, why)] * 2
    (await w.tunnel(SECOND)).close()
    await w.provider.turn({"refuse": {"*": why, FIRST: "nowhere"}})
    assert await w.refused(SECOND) == socks5
    await w.provider.turn({"refuse": {}})
    (await w.tunnel()).close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_nobody_sells(w: World, scheme: Scheme) -> None:
    for user in ("local", "local-", "-0123456789ab", "stranger-0123456789ab"):
        assert await w.refused(user, scheme) == EgressError.PROXY_AUTH
    for place in (("example.com", 443), ("evil-whatsapp.net", 443), ("127.0.0.1", 443), (ECHO_HOST, 443)):
        assert await w.refused(scheme=scheme, to=place) == EgressError.PROXY_HOST_UNREACHABLE


async def test_it_is_full_when_it_is_full(w: World) -> None:
    await w.provider.turn({"most": 1})
    tunnel = await w.tunnel()
    assert await w.refused(SECOND, "http") == EgressError.THREADS_EXHAUSTED
    tunnel.close()
    await w.closed()
    (await w.tunnel(SECOND, "http")).close()


async def test_dead_breaks_what_is_open_and_takes_nobody_until_it_lives_again(w: World) -> None:
    port, tunnel = w.provider.port, await w.tunnel()
    await w.provider.turn({"dead": True})
    assert await asyncio.wait_for(tunnel.reader.read(), 5) == b""
    assert w.lines()[-1].event == "close"
    assert await w.refused() == EgressError.PROXY_UNREACHABLE
    await w.provider.turn({"dead": False})
    assert w.provider.port == port
    (await w.tunnel()).close()
    tunnel.close()


async def test_slow_and_silent(w: World) -> None:
    await w.provider.turn({"slow_s": 0.3})
    began = time.monotonic()
    (await w.tunnel()).close()
    assert time.monotonic() - began >= 0.3
    await w.provider.turn({"slow_s": 0, "silent": True})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await w.tunnel()


@pytest.mark.parametrize(
    "body",
    [
        {"refuse": {"*": "because"}},
        {"refuse": "password"},
        {"dead": 1},
        {"slow_s": -1},
        {"most": True},
        {"exits": {FIRST: "here"}},
        {"wrong": True},
    ],
)
async def test_a_knob_that_does_not_exist_turns_nothing(w: World, body: dict[str, Any]) -> None:
    async with controlled(w.provider) as port, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"http://127.0.0.1:{port}/knobs", json={"most": 3} | body)
        assert answer.status_code == 400
        assert "knobs are" in answer.json()["message"]
        assert w.provider.knobs.most is None


async def test_what_comes_in_nonsense_ends_and_leaves_nothing_behind(w: World) -> None:
    for said in (
        b"\x05",
        b"\x05\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 20_000,
        b"CONNECT x HTTP/1.1\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", w.provider.port)
        writer.write(said)
        writer.write_eof()
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.transport.abort()
    (await w.tunnel()).close()


async def test_the_journal_is_set_aside_before_it_fills_a_disk(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LIMIT", 1000)
    tunnel = await w.tunnel()
    for _ in range(20):
        await tunnel.said(b"x")
    tunnel.close()
    await w.closed()
    assert w.file.stat().st_size <= 1200
    assert len(journal.read(w.file.with_name("journal.jsonl.1"))) > 3
    assert w.lines()[-1].event == "close"


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "sandbox.provider", "--port", "0", "--journal", str(folder / "journal")],
        stdout=subprocess.PIPE,
        env={**os.environ, "SANDBOX_PROVIDER_PASSWORD": PASSWORD},
    )
    assert child.stdout is not None
    try:
        yield child, json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def test_as_a_process_it_is_turned_over_http_and_ends_when_told(tmp_path: Path) -> None:
    with process(tmp_path) as (child, ready):
        async with httpx.AsyncClient(base_url=ready["control"], trust_env=False) as http:
            assert (await http.get("/tunnels")).json() == {"tunnels": {}}
            turned = await http.post("/knobs", json={"most": 7, "refuse": {FIRST: "full"}})
            assert turned.json() == (await http.get("/knobs")).json()
            assert (turned.json()["most"], turned.json()["refuse"]) == (7, {FIRST: "full"})
            assert (await http.get("/exit", params={"user": FIRST})).json()["exit_ip"].startswith("100.")
            assert (await http.get("/else")).status_code == 404
        child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, 10) == 0


def test_without_a_password_it_says_so() -> None:
    env = {name: value for name, value in os.environ.items() if name != "SANDBOX_PROVIDER_PASSWORD"}
    said = subprocess.run([sys.executable, "-m", "sandbox.provider"], capture_output=True, text=True, env=env)
    assert (said.returncode, said.stderr) == (
        1,
        "the provider needs a password: set SANDBOX_PROVIDER_PASSWORD.\n",
    )
