"""The two ways in, SOCKS5 with a login (RFC 1928, 1929) and HTTP CONNECT with Basic credentials, behind one form."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import struct
from typing import Final, Protocol

from sandbox.provider.knobs import Refusal

HEAD_LIMIT: Final = 16 * 1024


class Nonsense(Exception):
    """What came is not in the protocol; what it is answered with has been sent."""


class Gate(Protocol):
    """A knock, step by step in this order. Each raises Nonsense, or an error of the connection."""

    scheme: str

    async def credentials(self) -> tuple[str, str]:
        """User name and password."""

    async def target(self) -> tuple[str, int]:
        """Where to; the login has been found right."""

    async def refuse(self, why: Refusal) -> None:
        """PASSWORD in place of `target`, anything else after it."""

    async def grant(self) -> None: ...


class Socks5:
    """Its first byte has been read."""

    scheme = "socks5"
    _REPLIES: Final = {
        Refusal.FULL: 2,
        Refusal.EXHAUSTED: 2,
        Refusal.RULES: 2,
        Refusal.NO_PEER: 3,
        Refusal.NOWHERE: 4,
    }

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def credentials(self) -> tuple[str, str]:
        methods = await self._field()
        if 2 not in methods:
            await self._say(b"\x05\xff")
            raise Nonsense("it offers no login")
        await self._say(b"\x05\x02")
        if await self._byte() != 1:
            await self._say(b"\x01\x01")
            raise Nonsense("its login is of another version")
        return (await self._field()).decode("latin-1"), (await self._field()).decode("latin-1")

    async def target(self) -> tuple[str, int]:
        await self._say(b"\x01\x00")
        version, command, _, kind = await self._reader.readexactly(4)
        if version != 5:
            raise Nonsense("its request is of another version")
        if command != 1:
            await self._reply(7)
            raise Nonsense("it wants something else than CONNECT")
        if kind == 3:
            host = (await self._field()).decode("latin-1")
        elif kind in (1, 4):
            host = str(ipaddress.ip_address(await self._reader.readexactly(4 if kind == 1 else 16)))
        else:
            await self._reply(8)
            raise Nonsense("it names its target in no known way")
        (port,) = struct.unpack("!H", await self._reader.readexactly(2))
        return host, port

    async def refuse(self, why: Refusal) -> None:
        if why is Refusal.PASSWORD:
            await self._say(b"\x01\x01")
        else:
            await self._reply(self._REPLIES[why])

    async def grant(self) -> None:
        await self._reply(0)

    async def _byte(self) -> int:
        return (await self._reader.readexactly(1))[0]

    async def _field(self) -> bytes:
        return await self._reader.readexactly(await self._byte())

    async def _reply(self, code: int) -> None:
        await self._say(bytes((5, code, 0, 1, 0, 0, 0, 0, 0, 0)))

    async def _say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class Connect:
    """`begun`: what has been read of it."""

    scheme = "http"
    _ANSWERS: Final = {
        Refusal.PASSWORD: (407, "Proxy Authentication Required"),
        Refusal.FULL: (407, "THREADS_EXHAUSTED"),
        Refusal.EXHAUSTED: (407, "TRAFFIC_EXHAUSTED"),
        Refusal.NO_PEER: (502, "NO_HOST_CONNECTION"),
        Refusal.RULES: (403, "Forbidden"),
        Refusal.NOWHERE: (504, "Gateway Timeout"),
    }

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._begun = begun
        self._target = ""

    async def credentials(self) -> tuple[str, str]:
        head = (self._begun + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or words[0] != "CONNECT":
            await self._answer(405, "Method Not Allowed")
            raise Nonsense("it is no CONNECT")
        self._target = words[1]
        given = {
            name.strip().lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        kind, _, encoded = given.get("proxy-authorization", "").partition(" ")
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode("latin-1").partition(":")
        except binascii.Error:
            colon = ""
        if kind.lower() != "basic" or not colon:
            await self.refuse(Refusal.PASSWORD)
            raise Nonsense("it has no credentials")
        return user, password

    async def target(self) -> tuple[str, int]:
        host, colon, port = self._target.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            await self._answer(400, "Bad Request")
            raise Nonsense("it names no target")
        return host.strip("[]"), int(port)

    async def refuse(self, why: Refusal) -> None:
        await self._answer(*self._ANSWERS[why])

    async def grant(self) -> None:
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._writer.drain()

    async def _answer(self, status: int, phrase: str) -> None:
        more = 'Proxy-Authenticate: Basic realm="proxy"\r\n' if status == 407 else ""
        body = f"{phrase}\n"
        self._writer.write(
            f"HTTP/1.1 {status} {phrase}\r\n{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await self._writer.drain()


async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Gate:
    """Who knocks there? The first byte says it. Raises IncompleteReadError."""
    first = await reader.readexactly(1)
    return Socks5(reader, writer) if first == b"\x05" else Connect(reader, writer, first)
