"""The provider's knobs and what it carries, over HTTP to this machine alone.

GET  /knobs            how they stand (`sandbox.provider.knobs`)
POST /knobs {...}      turn some, the others stay
GET  /tunnels          {"tunnels": {number: user name}}
GET  /exit?user=NAME   {"exit_ip": "100.64.1.2"}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sandbox.provider.knobs import BadKnob
from sandbox.provider.server import Provider

_LIMIT: Final = 64 * 1024
_PHRASES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found"}


@asynccontextmanager
async def controlled(provider: Provider, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serves while the block runs; the port. Raises OSError."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                status, body = await _answer(provider, reader)
                said = json.dumps(body).encode() + b"\n"
                writer.write(
                    f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(said)}\r\nConnection: close\r\n\r\n".encode()
                    + said
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # the other side has gone, or is no client of ours
        finally:
            writer.close()

    async with await asyncio.start_server(answered, host, port, limit=_LIMIT) as server:
        yield server.sockets[0].getsockname()[1]


async def _answer(provider: Provider, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.split("\r\n")
    method, _, rest = line.partition(" ")
    asked = urlsplit(rest.partition(" ")[0])
    match method, asked.path:
        case "GET", "/knobs":
            return 200, provider.knobs.to_json()
        case "POST", "/knobs":
            given = dict(field.lower().split(":", 1) for field in fields if ":" in field)
            length = given.get("content-length", "0").strip()
            return await _turned(provider, await reader.readexactly(int(length) if length.isdigit() else 0))
        case "GET", "/tunnels":
            return 200, {"tunnels": provider.tunnels}
        case "GET", "/exit":
            return 200, {"exit_ip": provider.exit_ip(parse_qs(asked.query).get("user", [""])[0])}
    return 404, {"message": "there is GET and POST /knobs, GET /tunnels and GET /exit?user= here"}


async def _turned(provider: Provider, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise BadKnob("knobs are a JSON object")
        await provider.turn(content)
    except ValueError as error:
        return 400, {"message": str(error)}
    return 200, provider.knobs.to_json()
