"""A user's container that never gives up: it knocks at its host's guard for as long as it lives, and talks.

Run by Nomad as a task, so the environment says who it is. Its first words in a tunnel are its user's id and its allocation's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random

from core.domain.chip_credentials import chip_password, chip_user, node_key

TARGET = "echo.whatsapp.net:443"
WORD_S = 0.04
AGAIN_S = 0.3


async def main() -> None:
    allocation, node = os.environ["NOMAD_ALLOC_ID"], os.environ["NODE_ID"]
    guard = json.loads(os.environ["GUARDS"])[os.environ["NODE_NAME"]]
    chip, user_id = os.environ["CHIP_ID"], os.environ["USER_ID"]
    key = node_key(os.environ["SECRET"].encode(), node)
    user, password = chip_user(chip, allocation), chip_password(key, chip, allocation, 1)
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    head = f"CONNECT {TARGET} HTTP/1.1\r\nProxy-Authorization: Basic {basic}\r\n\r\n".encode()
    host, _, port = guard.rpartition(":")
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            await talk(host, int(port), head, (user_id + allocation).encode())
        await asyncio.sleep(random.uniform(0.2, 1) * AGAIN_S)


async def talk(host: str, port: int, head: bytes, words: bytes) -> None:
    """Until the tunnel breaks. The first words go out behind the request, before any answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head + words)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        if b" 200 " not in answer.split(b"\r\n")[0]:
            return
        hearing = asyncio.create_task(_hear(reader))
        try:
            while not hearing.done():
                writer.write(b"." * random.randint(1, 200))
                await writer.drain()
                await asyncio.sleep(random.uniform(0.2, 1.8) * WORD_S)
        finally:
            hearing.cancel()
    finally:
        writer.transport.abort()


async def _hear(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass


if __name__ == "__main__":
    asyncio.run(main())
