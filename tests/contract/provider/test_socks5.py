"""One suite for the sandbox's provider and for real SOCKS5 servers with a login: the same client, the same answers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from sandbox.provider.journal import Journal
from sandbox.provider.server import running_provider
from tests.integration.egress.doubles import serving
from tests.integration.egress.test_real_servers import DANTE, LOGIN, MICROSOCKS, PASSWORD, dante, microsocks


class Place(msgspec.Struct, frozen=True):
    """A server: its port, a user name that it takes, and a target that says everything back.

    `logins`: whether we may make logins there. `nowhere`: replies to a name that does not exist.
    """

    port: int
    user: str
    target: tuple[str, int]
    logins: bool
    nowhere: frozenset[int]


async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def ours() -> AsyncIterator[Place]:
    async with running_provider({LOGIN: PASSWORD}, Journal(None)) as provider:
        target = ("g.whatsapp.net", 443)
        yield Place(provider.port, f"{LOGIN}-0123456789ab", target, logins=True, nowhere=frozenset({4}))


@asynccontextmanager
async def real(name: str, folder: Path) -> AsyncIterator[Place]:
    if (MICROSOCKS if name == "microsocks" else DANTE) is None:
        pytest.skip(f"no `{name}` on PATH")
    server = microsocks if name == "microsocks" else dante
    async with serving(say_back) as echo_port:
        with server(folder) as port:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.05)
            # microsocks calls everything that its resolver does not find a general failure.
            yield Place(port, LOGIN, ("localhost", echo_port), name == "microsocks", frozenset({1, 4}))


@pytest.fixture(params=["ours", "microsocks", "danted"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with ours() if request.param == "ours" else real(request.param, tmp_path) as made:
        yield made


class Socks:
    """A client that says what it is told and nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def said(self, data: bytes, count: int) -> bytes:
        """Send, and read `count` bytes; fewer when the other side hangs up."""
        self.writer.write(data)
        await self.writer.drain()
        try:
            return await asyncio.wait_for(self.reader.readexactly(count), 10)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def log_in(self, user: str, password: str) -> int:
        """The status; 0 = taken."""
        assert await self.said(b"\x05\x01\x02", 2) == b"\x05\x02"
        login = bytes((1, len(user))) + user.encode() + bytes((len(password),)) + password.encode()
        version, status = await self.said(login, 2)
        assert version == 1
        return status

    async def request(self, host: str, port: int, command: int = 1) -> int:
        """The reply."""
        asked = bytes((5, command, 0, 3, len(host))) + host.encode() + struct.pack("!H", port)
        head = await self.said(asked, 4)
        assert head[:1] + head[2:3] == b"\x05\x00"
        await self.reader.readexactly({1: 6, 4: 18}[head[3]])
        return head[1]


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Socks]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        yield Socks(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_tunnel_carries_bytes_and_ends_when_its_chip_has_ended(place: Place) -> None:
    if not place.logins:
        pytest.skip("its logins are the system's users")
    sent = bytes(range(256)) * 1000
    async with client(place) as socks:
        assert await socks.log_in(place.user, PASSWORD) == 0
        assert await socks.request(*place.target) == 0
        # What comes first, what comes in pieces, and what is larger than any buffer.
        assert await socks.said(b"x", 1) == b"x"
        reading = asyncio.create_task(socks.reader.readexactly(len(sent)))
        socks.writer.write(sent)
        assert await asyncio.wait_for(reading, 10) == sent
        socks.writer.write_eof()
        assert await asyncio.wait_for(socks.reader.read(), 10) == b""


@pytest.mark.parametrize(("user", "password"), [(None, "wrong"), ("nobody-here", PASSWORD), ("", "x")])
async def test_a_login_that_is_not_right_has_a_status_and_the_connection_ends(
    place: Place, user: str | None, password: str
) -> None:
    async with client(place) as socks:
        assert await socks.log_in(place.user if user is None else user, password) != 0
        assert await asyncio.wait_for(socks.reader.read(), 10) == b""


async def test_without_a_login_there_is_no_method(place: Place) -> None:
    async with client(place) as socks:
        assert await socks.said(b"\x05\x01\x00", 2) == b"\x05\xff"
        assert await asyncio.wait_for(socks.reader.read(), 10) == b""


async def test_a_name_that_does_not_exist(place: Place) -> None:
    if not place.logins:
        pytest.skip("its logins are the system's users")
    async with client(place) as socks:
        assert await socks.log_in(place.user, PASSWORD) == 0
        assert await socks.request("nowhere.invalid", 443) in place.nowhere


async def test_another_command_than_connect(place: Place) -> None:
    if not place.logins:
        pytest.skip("its logins are the system's users")
    async with client(place) as socks:
        assert await socks.log_in(place.user, PASSWORD) == 0
        assert await socks.request(*place.target, command=2) == 7


async def test_many_at_a_time(place: Place) -> None:
    if not place.logins:
        pytest.skip("its logins are the system's users")

    async def one(number: int) -> None:
        async with client(place) as socks:
            assert await socks.log_in(place.user, PASSWORD) == 0
            assert await socks.request(*place.target) == 0
            said = f"hello {number}".encode()
            assert await socks.said(said, len(said)) == said

    await asyncio.gather(*map(one, range(50)))
