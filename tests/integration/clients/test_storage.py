"""Storage on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import asyncpg
import pytest

from core.clients.storage_server import ServerStorage
from core.errors import Rejected, Unavailable
from core.settings import Secret
from sandbox.postgres import EmbeddedPostgres
from sandbox.postgres_setup import PORT, SUPERUSER

# Names that begin alike, in the last place too: what a careless LIKE would mix up.
A, B, C = "uaaaaaaaaaaaaaa1", "uaaaaaaaaaaaaaa2", "uaaaaaaaaaaaaaa3"
CHIP = "chip_11111111-2222-4333-8444-555555555555"
OURS = (f"waha_{A}", f"waha_{A}_{CHIP}", f"waha_{B}", f"waha_{B}_{CHIP}")
OTHERS = ("waha_gows", "waha_gows_default", f"waha_{A}2", "waha_u1", f"wahaX{A}", f"xwaha_{A}")


def dsn(postgres: EmbeddedPostgres, role: str = SUPERUSER, password: str = "") -> str:
    login = f"{role}:{password}" if password else role
    return f"postgres://{login}@/postgres?host={quote(str(postgres.sockets), safe='')}&port={PORT}"


@pytest.fixture
async def server(postgres: EmbeddedPostgres) -> AsyncIterator[ServerStorage]:
    for name in (*OURS, *OTHERS):
        postgres.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    storage = ServerStorage(Secret(dsn(postgres)))
    yield storage
    await storage.aclose()
    for name in (*OURS, *OTHERS):
        postgres.drop_database(name)


async def test_it_lists_ours_and_nobody_else_s(server: ServerStorage) -> None:
    assert await server.listing() == OURS
    assert await server.namespaces() == (A, B)
    assert await server.databases(A) == OURS[:2]
    assert await server.databases(C) == ()
    size = await server.size(A)
    assert size is not None
    assert size > 2_000_000
    assert await server.size(C) == 0


async def test_it_drops_one_or_all_and_nothing_else(
    server: ServerStorage, postgres: EmbeddedPostgres
) -> None:
    before = postgres.databases()
    for _ in range(2):
        await server.drop(A, OURS[1])
        assert before - postgres.databases() == {OURS[1]}
    for _ in range(2):
        await server.drop(A)
        assert before - postgres.databases() == set(OURS[:2])
    await server.drop(C)
    assert before - postgres.databases() == set(OURS[:2])


async def test_a_name_longer_than_postgresql_keeps_is_the_one_that_it_made_of_it(
    server: ServerStorage, postgres: EmbeddedPostgres
) -> None:
    long = f"waha_{A}_{'s' * 60}"
    postgres.execute(f'CREATE DATABASE "{long}" TEMPLATE template0')
    try:
        assert long[:63] in await server.databases(A)
        await server.drop(A, long)
        assert await server.databases(A) == OURS[:2]
    finally:
        postgres.drop_database(long[:63])


async def test_whoever_is_connected_is_cut_off(server: ServerStorage, postgres: EmbeddedPostgres) -> None:
    inside = await asyncpg.connect(dsn(postgres).replace("@/postgres?", f"@/{OURS[1]}?"))
    await server.drop(A)
    assert await server.databases(A) == ()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await inside.fetchval("SELECT 1")
    inside.terminate()


async def test_a_role_that_does_not_own_them_is_told_so_and_a_login_too(
    server: ServerStorage, postgres: EmbeddedPostgres
) -> None:
    postgres.execute("CREATE ROLE nobody_much LOGIN")
    stranger = ServerStorage(Secret(dsn(postgres, "nobody_much")))
    unknown = ServerStorage(Secret(dsn(postgres, "no_such_role", "hunter2")))
    try:
        assert await stranger.namespaces() == (A, B)
        with pytest.raises(Rejected) as caught:
            await stranger.drop(A)
        assert caught.value.code == "storage_not_owned"
        assert await server.databases(A) == OURS[:2]
        with pytest.raises(Rejected) as refused:
            await unknown.namespaces()
        assert refused.value.code == "storage_login_refused"
        assert "hunter2" not in str(refused.value)
    finally:
        await stranger.aclose()
        await unknown.aclose()
        postgres.execute("DROP ROLE nobody_much")


async def test_a_server_that_stops_answering_is_away_in_time(
    server: ServerStorage, postgres: EmbeddedPostgres
) -> None:
    quick = ServerStorage(Secret(dsn(postgres)), timeout_s=0.3)
    keeper = await asyncpg.connect(dsn(postgres))
    try:
        await keeper.execute("BEGIN")
        # Whoever drops a database waits for this lock.
        await keeper.execute("LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(3):
            with pytest.raises(Unavailable):
                await quick.drop(A)
        await keeper.execute("ROLLBACK")
        # What was given up is not carried out behind our back.
        await asyncio.sleep(0.2)
        assert await server.databases(A) == OURS[:2]
        await quick.drop(A)
        assert await server.databases(A) == ()
    finally:
        await quick.aclose()
        await keeper.close()


async def test_many_at_once(server: ServerStorage) -> None:
    found = await asyncio.gather(*(server.databases(one) for one in (A, B) * 20))
    assert found == [OURS[:2], OURS[2:]] * 20
