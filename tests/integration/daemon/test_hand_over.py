"""A daemon that is told to end, beside another one: the other goes on at once, not when leases run out."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial

import httpx
import pytest
from sqlalchemy import func, select

from core.store.engine import reading
from core.store.tables import leases
from sandbox.free_ports import free_port
from tests.integration.daemon.conftest import Fleet, has, until


async def owner_of(fleet: Fleet, key: str) -> str:
    """Who holds `key` now, "" for nobody."""
    query = select(leases.c.owner).where(leases.c.key == key, leases.c.expires_at > func.clock_timestamp())
    async with reading(fleet.engine) as connection:
        return str((await connection.execute(query)).scalar_one_or_none() or "")


async def ready(http: httpx.AsyncClient, url: str) -> tuple[int, list[str]]:
    try:
        answer = await http.get(f"{url}/ready")
    except httpx.ConnectError:
        return 0, []
    return answer.status_code, answer.json()["problems"]


@pytest.mark.timeout(120)
async def test_the_fleet_and_its_users_change_hands_within_seconds(fleet: Fleet) -> None:
    ports = free_port(), free_port()
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    async with httpx.AsyncClient(trust_env=False) as http, AsyncExitStack() as first:
        await first.enter_async_context(fleet.daemon(WAHAFLEET_DAEMON_LISTEN=f"127.0.0.1:{ports[0]}"))
        holder = await until(lambda: owner_of(fleet, "fleet"), bool)
        async with fleet.daemon(WAHAFLEET_DAEMON_LISTEN=f"127.0.0.1:{ports[1]}"):
            for url in urls:
                await until(partial(ready, http, url), lambda seen: seen == (200, []))
            user_id = await fleet.user()
            chip_id = await fleet.chip(user_id)
            await until(lambda: fleet.chip_row(chip_id), has(phase="qr"), 30)
            metrics = [(await http.get(f"{url}/metrics")).text for url in urls]
            assert ["wahafleet_fleet_holder 1.0" in text for text in metrics] == [True, False]
            assert all(user_id not in text for text in metrics)
            await first.aclose()
            began = time.monotonic()
            await until(lambda: owner_of(fleet, "fleet"), lambda owner: owner not in ("", holder), 10)
            assert time.monotonic() - began < 10  # its lease would have lasted a minute
            further = await fleet.chip(user_id)
            await until(lambda: fleet.chip_row(further), has(phase="qr"), 15)
            assert await ready(http, urls[0]) == (0, [])
            assert await ready(http, urls[1]) == (200, [])
        assert await owner_of(fleet, "fleet") == ""
        assert await owner_of(fleet, user_id) == ""
