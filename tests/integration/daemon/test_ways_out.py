"""The real daemon with `egress=guard` and real simulators: what their sessions show a guard, before and after a move."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update

from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.names import session_name
from core.store.engine import transaction
from core.store.tables import labels, placements, providers, sub_users
from tests.integration.daemon.fleet import Fleet, has, until

pytestmark = pytest.mark.timeout(120)

SECRET = "what keys of nodes are made from in tests"
SUB_USER = "00000000-0000-4000-8000-0000000000aa"


@dataclass
class Guard:
    """Takes every CONNECT, keeps the login that came with it, and says everything back."""

    port: int = 0
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            login = base64.b64decode(fields["Proxy-Authorization"].removeprefix("Basic ")).decode()
            name, _, password = login.partition(":")
            self.logins.append((name, password))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def guard() -> AsyncIterator[Guard]:
    made = Guard()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def provider(fleet: Fleet) -> None:
    sealed = fleet.sealer.seal("the sub-user's own password")
    async with transaction(fleet.engine) as connection:
        columns = {"slug": "local", "title": "local", "template": "generic", "scheme": "socks5"}
        await connection.execute(
            insert(providers).values(**columns, host="127.0.0.1", port=1, cost_per_gb=0, is_default=True)
        )
        await connection.execute(
            insert(sub_users).values(
                id=SUB_USER, provider_slug="local", login="ana", sealed_password=sealed, max_labels=10
            )
        )


async def config_of(fleet: Fleet, user: str, chip: str) -> dict[str, Any]:
    """The session's config, as its container tells whoever has its key."""
    base_url, api_key = await fleet.waha(user)
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
        answer = await client.get(f"/api/sessions/{session_name(chip)}", headers={"X-Api-Key": api_key})
    found: dict[str, Any] = answer.raise_for_status().json()["config"]
    return found


async def login(fleet: Fleet, chip: str, allocation_id: str, generation: int) -> tuple[str, str]:
    query = select(placements.c.node_id).where(placements.c.allocation_id == allocation_id)
    node_id = (await fleet.rows(query))[0]["node_id"]
    key = node_key(SECRET.encode(), str(node_id))
    return chip_user(chip, allocation_id), chip_password(key, chip, allocation_id, generation)


async def allocation_of(fleet: Fleet, user: str) -> str:
    row = await fleet.container_row(user)
    assert row is not None
    return str(row["endpoint_allocation_id"])


async def test_sessions_show_the_guard_their_allocation_s_credential_also_after_a_move(fleet: Fleet) -> None:
    await provider(fleet)
    async with (
        guard() as seen,
        fleet.daemon(
            WAHAFLEET_EGRESS="guard",
            WAHAFLEET_GUARD_SECRET=SECRET,
            WAHAFLEET_GUARD_ADDRESS=f"{{host_ip}}:{seen.port}",
            WAHAFLEET_EXIT_ECHO_URL="off",
        ),
    ):
        user = await fleet.user()
        chip = await fleet.chip(user)
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        first = await allocation_of(fleet, user)
        shown = await login(fleet, chip, first, 1)
        assert set(seen.logins) == {shown}
        config = await config_of(fleet, user, chip)
        server = f"127.0.0.1:{seen.port}"
        assert config["proxy"] == {"server": server, "username": shown[0], "password": shown[1]}
        await fleet.scan(user, chip)
        await until(lambda: fleet.chip_row(chip), has(status="CONNECTED"))

        # Another label of a chip that works: nothing is stopped for it.
        async with transaction(fleet.engine) as connection:
            asked = update(labels).where(labels.c.chip_id == chip).values(requested_generation=2)
            await connection.execute(asked)
        before = len(seen.logins)
        async with httpx.AsyncClient(base_url=fleet.nomad.url, trust_env=False) as client:
            (await client.put(f"/v1/allocation/{first}/stop")).raise_for_status()
        await until(
            lambda: fleet.container_row(user), lambda row: row["endpoint_allocation_id"] not in (None, first)
        )
        await until(lambda: fleet.chip_row(chip), has(status="CONNECTED", reason=None), 30.0)
        second = await allocation_of(fleet, user)
        assert second != first
        # Written before the start: no session of the new container ever showed the old one's.
        assert set(seen.logins[before:]) == {await login(fleet, chip, second, 2)}
        assert (await config_of(fleet, user, chip))["metadata"] == {"user_id": user, "chip_id": chip}


async def test_without_a_provider_no_session_is_made_and_the_chip_says_so(fleet: Fleet) -> None:
    async with (
        guard() as seen,
        fleet.daemon(
            WAHAFLEET_EGRESS="guard",
            WAHAFLEET_GUARD_SECRET=SECRET,
            WAHAFLEET_GUARD_ADDRESS=f"127.0.0.1:{seen.port}",
            WAHAFLEET_EXIT_ECHO_URL="off",
        ),
    ):
        user = await fleet.user()
        chip = await fleet.chip(user)
        await until(lambda: fleet.container_row(user), has(phase="ready"))
        await until(lambda: fleet.chip_row(chip), has(phase="queued", reason="no_upstream"))
        base_url, api_key = await fleet.waha(user)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
            listed = await client.get("/api/sessions?all=true", headers={"X-Api-Key": api_key})
        assert (listed.json(), seen.logins) == ([], [])
