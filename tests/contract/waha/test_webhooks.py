"""Webhooks as a receiver sees them on the wire."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from .conftest import KEY, Containers, create, eventually, scan, until, url_of


@dataclass
class Received:
    headers: dict[str, str]
    raw: bytes

    @property
    def envelope(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.raw)
        return content


class Receiver:
    """An HTTP server that keeps what it gets and answers with the next of `answers`, then with 200."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
        }
        raw = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(headers, raw))
        status = self.answers.pop(0) if self.answers else 200
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def statuses(self) -> list[str]:
        return [one.envelope["payload"]["status"] for one in self.received]

    async def wait(self, count: int) -> None:
        async def arrived() -> bool:
            return len(self.received) >= count

        await eventually(arrived, seconds=10)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    yield receiver
    server.close()
    await server.wait_closed()


def client(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": KEY}, trust_env=False, timeout=30)


def hook_env(receiver: Receiver, host: str = "127.0.0.1") -> dict[str, str]:
    return {
        "WHATSAPP_HOOK_URL": f"http://{host}:{receiver.port}/hooks/u1",
        "WHATSAPP_HOOK_EVENTS": "session.status,message",
        "WHATSAPP_HOOK_HMAC_KEY": "hook-key",
        "WHATSAPP_HOOK_RETRIES_POLICY": "constant",
        "WHATSAPP_HOOK_RETRIES_DELAY_SECONDS": "2",
        "WHATSAPP_HOOK_RETRIES_ATTEMPTS": "5",
        "WAHA_SIM_CLOCK_SPEED": "20",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_each_step_arrives_signed(start_container: Containers, receiver: Receiver, host: str) -> None:
    async with client(url_of(start_container(**hook_env(receiver, host)))) as http:
        await create(http, "s", config={"metadata": {"user": "42"}})
        await scan(http, "s")
        await receiver.wait(3)
    assert set(receiver.statuses()) == {"STARTING", "SCAN_QR_CODE", "WORKING"}
    for one in receiver.received:
        assert one.headers["x-webhook-hmac"] == hmac.new(b"hook-key", one.raw, hashlib.sha512).hexdigest()
        assert one.headers["content-type"] == "application/json"
        assert one.envelope["metadata"] == {"user": "42"}
    assert len({one.envelope["id"] for one in receiver.received}) == len(receiver.received)


async def test_a_refused_delivery_comes_again_under_the_same_id(
    start_container: Containers, receiver: Receiver
) -> None:
    receiver.answers = [503, 503]
    async with client(url_of(start_container(**hook_env(receiver)))) as http:
        await create(http, "s", start=False)
        await http.post("/sim/sessions/s/faults", json={"stuck_starting": True})
        await http.post("/api/sessions/s/start")
        await receiver.wait(3)
    assert len({one.envelope["id"] for one in receiver.received}) == 1
    assert len({one.raw for one in receiver.received}) == 1


async def test_a_receiver_that_is_away_gets_it_later(start_container: Containers, receiver: Receiver) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    away = await asyncio.start_server(drop, "127.0.0.1", 0)
    port = away.sockets[0].getsockname()[1]
    env = hook_env(receiver) | {"WHATSAPP_HOOK_URL": f"http://127.0.0.1:{port}/"}
    async with client(url_of(start_container(**env))) as http:
        await create(http, "s")
        await until(http, "s", "SCAN_QR_CODE")
        away.close()
        await away.wait_closed()
        back = await asyncio.start_server(receiver.handle, "127.0.0.1", port)
        await receiver.wait(2)
        back.close()
        await back.wait_closed()
    assert {"STARTING", "SCAN_QR_CODE"} <= set(receiver.statuses())


async def test_a_graceful_end_says_stopped_and_a_kill_says_nothing(
    start_container: Containers, receiver: Receiver
) -> None:
    container = start_container(**hook_env(receiver))
    async with client(url_of(container)) as http:
        await create(http, "s")
        await scan(http, "s")
    container.stop()
    assert await asyncio.to_thread(container.wait, 10) == 0
    assert receiver.statuses().count("STOPPED") == 1

    container = start_container(**hook_env(receiver))
    async with client(url_of(container)) as http:
        await until(http, "s", "WORKING")
    before = receiver.statuses().count("STOPPED")
    container.kill()
    assert await asyncio.to_thread(container.wait, 10) == 137
    await asyncio.sleep(0.1)
    assert receiver.statuses().count("STOPPED") == before


async def test_a_message_reaches_the_hook(start_container: Containers, receiver: Receiver) -> None:
    async with client(url_of(start_container(**hook_env(receiver)))) as http:
        await create(http, "s")
        await scan(http, "s")
        await http.post("/sim/sessions/s/activity", json={"body": "oi"})
        await receiver.wait(4)
    messages = [one.envelope for one in receiver.received if one.envelope["event"] == "message"]
    assert [one["payload"]["body"] for one in messages] == ["oi"]
    assert messages[0]["payload"]["fromMe"] is False


async def test_a_receiver_that_hangs_holds_up_neither_calls_nor_other_hooks(
    start_container: Containers, receiver: Receiver
) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    stuck = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = stuck.sockets[0].getsockname()[1]
    env = hook_env(receiver) | {"WHATSAPP_HOOK_URL": f"http://127.0.0.1:{port}/"}
    own = {"url": f"http://127.0.0.1:{receiver.port}/", "events": ["session.status"]}
    container = start_container(**env)
    async with client(url_of(container)) as http:
        await create(http, "s", config={"webhooks": [own]})
        await scan(http, "s")
        await receiver.wait(3)
    container.kill()
    await asyncio.to_thread(container.wait, 10)
    stuck.close()
    await stuck.wait_closed()


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1/", "ftp://x/", "http://127.0.0.1:0/", "http://no.invalid/"]
)
async def test_a_hook_that_cannot_be_reached_is_only_logged(start_container: Containers, url: str) -> None:
    env = {"WHATSAPP_HOOK_URL": url, "WHATSAPP_HOOK_EVENTS": "*"}
    async with client(url_of(start_container(**env))) as http:
        await create(http, "s")
        await scan(http, "s")
