"""Doubles around a guard: a strict SOCKS5 server, an HTTP proxy with moods, and a host to talk to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """`handler` for each connection, on a free port; all of them are over at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class Login(msgspec.Struct):
    """One connection at the SOCKS5 server. Times are the loop's."""

    username: str
    target: str
    bytes_out: int = 0
    first_at: float | None = None
    last_at: float | None = None
    was_reset: bool = False


class Socks5:
    """RFC 1928 and 1929 to the letter: anything that is not in them ends the connection with a note in `wrong`.

    It resolves no names: `hosts` says which host:port a target leads to, and anything else gets reply 4.
    `reply`: said instead of a connection. `silent`: it takes connections and says nothing.
    """

    def __init__(self, password: str = "hunter2") -> None:
        self.password = password
        self.hosts: dict[str, tuple[str, int]] = {}
        self.reply: int | None = None
        self.silent = False
        self.logins: list[Login] = []
        self.wrong: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.silent:
            await asyncio.sleep(60)
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if version != 5 or 2 not in methods:
            self.wrong.append(f"greeting {version} {methods!r}")
            writer.write(b"\x05\xff")
            await writer.drain()
            return
        writer.write(b"\x05\x02")
        version, length = await reader.readexactly(2)
        username = (await reader.readexactly(length)).decode()
        password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        if version != 1:
            self.wrong.append(f"login version {version}")
        if password != self.password:
            writer.write(b"\x01\x01")
            await writer.drain()
            return
        writer.write(b"\x01\x00")
        version, command, reserved, kind = await reader.readexactly(4)
        if (version, command, reserved) != (5, 1, 0) or kind != 3:
            self.wrong.append(f"request {version} {command} {reserved} {kind}")
            return
        name = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        login = Login(username, f"{name}:{port}")
        self.logins.append(login)
        place = self.hosts.get(login.target)
        reply = self.reply if self.reply is not None else 0 if place else 4
        writer.write(bytes((5, reply, 0, 1, 0, 0, 0, 0, 0, 0)))
        await writer.drain()
        if reply or place is None:
            return
        await relayed(reader, writer, place, login)


async def relayed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: tuple[str, int], login: Login
) -> None:
    """Both directions with half-close; what comes from the guard is counted in `login`."""
    far_reader, far_writer = await asyncio.open_connection(*place)

    def count(amount: int) -> None:
        now = asyncio.get_running_loop().time()
        login.first_at = login.first_at or now
        login.last_at = now
        login.bytes_out += amount

    try:
        await asyncio.gather(
            _copied(reader, far_writer, count, login), _copied(far_reader, writer, lambda _: None, None)
        )
    finally:
        far_writer.transport.abort()


async def _copied(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    count: Callable[[int], None],
    login: Login | None,
) -> None:
    try:
        while data := await reader.read(65536):
            count(len(data))
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (ConnectionError, OSError):
        if login is not None:
            login.was_reset = True
        raise ConnectionError from None


class HttpProxy:
    """CONNECT with Basic credentials. `answer`: sent instead of a tunnel; `pieces`: how it is cut up."""

    def __init__(self, password: str = "hunter2") -> None:
        self.password = password
        self.hosts: dict[str, tuple[str, int]] = {}
        self.answer: bytes | None = None
        self.pieces: int = 0
        self.early = b""
        self.logins: list[Login] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.split("\r\n")
        given = dict(field.split(": ", 1) for field in fields if field)
        username, _, password = (
            base64.b64decode(given["Proxy-Authorization"].removeprefix("Basic ")).decode().partition(":")
        )
        login = Login(username, line.split(" ")[1])
        self.logins.append(login)
        answer = self.answer
        if answer is None and password != self.password:
            answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        place = self.hosts.get(login.target)
        if answer is None and place is None:
            answer = b"HTTP/1.1 502 NO_HOST_CONNECTION\r\n\r\n"
        if answer is not None or place is None:
            writer.write(answer or b"")
            await writer.drain()
            return
        said = b"HTTP/1.1 200 OK\r\nVia: a proxy\r\n\r\n" + self.early
        for at in range(0, len(said), self.pieces or len(said)):
            writer.write(said[at : at + (self.pieces or len(said))])
            await writer.drain()
            await asyncio.sleep(0)
        await relayed(reader, writer, place, login)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says everything back, and goodbye when the other side has said its last word."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"goodbye")
    await writer.drain()
    writer.write_eof()
    await reader.read()


class Chip:
    """A chip's side of a tunnel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self.reader = reader
        self.writer = writer
        self.status = int(head.split(" ")[1])
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        self.reason = fields.get("X-Wahafleet-Reason")
        self.fields = fields

    async def said(self, data: bytes) -> bytes:
        """Send, and read as much again."""
        self.writer.write(data)
        await self.writer.drain()
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 10)

    async def is_cut(self, within_s: float = 5.0) -> bool:
        """Whether the tunnel ends by itself soon."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within_s) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.writer.transport.abort()


async def knock(
    address: tuple[str, int],
    user: str,
    password: str,
    target: str = "echo.whatsapp.net:443",
    early: bytes = b"",
) -> Chip:
    """CONNECT as an engine does."""
    reader, writer = await asyncio.open_connection(*address)
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
    writer.write(request.encode() + early)
    await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    return Chip(reader, writer, head.decode())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
