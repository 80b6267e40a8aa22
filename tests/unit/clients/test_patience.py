"""What comes in time counts, however late this process gets to look at it."""

from __future__ import annotations

import asyncio
import time

import pytest

from core.clients.patience import Patience


async def test_what_takes_too_long_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Patience(0.05):
            await asyncio.sleep(5)
    assert 0.05 <= time.monotonic() - began < 1


async def test_an_answer_that_came_while_the_process_was_held_up_counts() -> None:
    reader, writer = await asyncio.open_connection(*(await _told_after(0.02)))
    asyncio.get_running_loop().call_later(0.01, time.sleep, 0.2)
    async with Patience(0.05):
        assert await reader.readexactly(4) == b"told"
    writer.close()


async def test_being_held_up_again_and_again_ends_too() -> None:
    loop = asyncio.get_running_loop()

    def held_up() -> None:
        time.sleep(0.04)
        loop.call_soon(held_up)

    loop.call_soon(held_up)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Patience(0.01):
            await asyncio.Event().wait()
    assert time.monotonic() - began < 1


async def test_errors_and_a_cancel_of_others_pass() -> None:
    with pytest.raises(LookupError):
        async with Patience(1):
            raise LookupError

    async def waits() -> None:
        async with Patience(1):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _told_after(seconds: float) -> tuple[str, int]:
    """Where a thread that no hold-up stops says `told` to whoever comes, after that long."""
    import socket
    import threading

    listening = socket.create_server(("127.0.0.1", 0))

    def tell() -> None:
        with listening, listening.accept()[0] as caller:
            time.sleep(seconds)
            caller.sendall(b"told")

    threading.Thread(target=tell, daemon=True).start()
    host, port = listening.getsockname()
    return str(host), int(port)
