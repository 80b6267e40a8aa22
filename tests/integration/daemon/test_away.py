"""Nomad, Consul or Redis unreachable: wishes stay, the reason is shown, and everything comes when they return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from tests.integration.daemon.fleet import Fleet, has, until

pytestmark = pytest.mark.timeout(90)


class Road:
    """A TCP road to a server that can be closed and opened again, on one address all the time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname, parts.port)
        self.open = True
        self.writers: set[asyncio.StreamWriter] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            if not self.open:
                return
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            self.writers.add(far_writer)
            await asyncio.gather(self.pump(reader, far_writer), self.pump(far_reader, writer))
        except OSError:
            return
        finally:
            writer.close()
            self.writers.discard(writer)

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self.writers.discard(writer)

    def close(self) -> None:
        self.open = False
        for writer in list(self.writers):
            writer.transport.abort()


@asynccontextmanager
async def road(url: str) -> AsyncIterator[tuple[Road, str]]:
    built = Road(url)
    server = await asyncio.start_server(built.carry, "127.0.0.1", 0)
    try:
        yield built, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        built.close()
        server.close()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("NOMAD_ADDR", "dependency_nomad"), ("CONSUL_HTTP_ADDR", "dependency_consul")],
)
async def test_what_is_wished_while_a_system_is_away_comes_when_it_returns(
    fleet: Fleet, setting: str, reason: str
) -> None:
    async with road(fleet.env[setting]) as (way, url), fleet.daemon(**{setting: url}):
        user = await fleet.user()
        first = await fleet.chip(user)
        await until(lambda: fleet.chip_row(first), has(phase="qr"))
        await fleet.scan(user, first)
        await until(lambda: fleet.chip_row(first), has(status="CONNECTED"))

        way.close()
        other = await fleet.user()
        second = await fleet.chip(other)
        await until(lambda: fleet.chip_row(second), has(phase="queued", reason=reason))
        # What was connected is not told to be gone, only that it could not be seen.
        row = await fleet.chip_row(first)
        assert row is not None
        assert row["status"] == "CONNECTED"

        way.open = True
        await until(lambda: fleet.chip_row(second), has(phase="qr"), 30)
        await until(lambda: fleet.chip_row(first), has(status="CONNECTED", reason=None), 30)
        job, variables = await fleet.nomad_status(user)
        assert (job, variables) == (200, 200)


async def test_a_redis_that_is_away_changes_nothing(fleet: Fleet) -> None:
    async with fleet.daemon(WAHAFLEET_REDIS_URL="redis://127.0.0.1:1/0"):
        user = await fleet.user()
        chip = await fleet.chip(user)
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))


async def test_a_container_that_dies_comes_back_and_its_chip_connects_without_a_qr(fleet: Fleet) -> None:
    async with fleet.daemon():
        user = await fleet.user()
        chip = await fleet.chip(user)
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        await fleet.scan(user, chip)
        await until(lambda: fleet.chip_row(chip), has(status="CONNECTED"))
        before = await fleet.container_row(user)
        assert before is not None
        fleet.hooks.clear()

        await fleet.restart_task(before["allocation_id"])
        await until(lambda: fleet.restarts(before["allocation_id"]), lambda restarts: restarts >= 1)
        row = await until(lambda: fleet.chip_row(chip), has(status="CONNECTED", reason=None), 30)
        assert row["phone_number"] == "+5511988887777"
        assert "SCAN_QR_CODE" not in [hook["payload"].get("status") for hook in fleet.hooks]
