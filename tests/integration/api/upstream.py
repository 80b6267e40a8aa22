"""A WHAGO backend of the tests: a real HTTP server on loopback that tells profiles, is slow, dies and lies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt

SECRET = "k" * 40


@dataclass
class Upstream:
    """What it says of whom, and how.

    `profiles`: by user id. `status`: an answer for everybody instead. `raw`: bytes after the status line instead of a
    profile. `delay_s`: before each answer. `keys`: the key set at `/keys`.
    """

    url: str = ""
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused_tokens: set[str] = field(default_factory=set)
    status: int | None = None
    raw: bytes | None = None
    delay_s: float = 0.0
    keys: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys_asked: int = 0
    headers_seen: list[str] = field(default_factory=list)

    def tells(self, user_id: str, plan: str, **more: Any) -> None:
        self.profiles[user_id] = {
            "id": user_id,
            "email": f"{user_id[:8]}@empresa.com.br",
            "name": "Ana Souza",
            "phone": "+5511999999999",
            "company_name": None,
            "document": None,
            "credits": 100,
            "plan": {"name": "an object, in some versions"},
            "plan_slug": plan,
            "is_active": True,
        } | more

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                status, body, extra = self._answer(head)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _answer(self, head: str) -> tuple[int, bytes, str]:
        path = head.split(" ", 2)[1]
        self.headers_seen.append(head)
        if path == "/keys":
            self.keys_asked += 1
            return self.status or 200, json.dumps({"keys": self.keys}).encode(), ""
        token = next(
            line.split(" ", 2)[2] for line in head.split("\r\n") if line.lower().startswith("authorization:")
        )
        user_id = jwt.decode(token, options={"verify_signature": False})["sub"]
        self.asked.append(user_id)
        if self.status is not None:
            location = "Location: /elsewhere\r\n" if 300 <= self.status < 400 else ""
            return self.status, b'{"detail": "..."}', location
        if token in self.refused_tokens or user_id not in self.profiles:
            return 401, b"{}", ""
        if self.raw is not None:
            return 200, self.raw, ""
        return 200, json.dumps(self.profiles[user_id]).encode(), ""


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await upstream.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
