"""What a sandbox puts into its store: its provider, and no memory of guards that have ended."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.crypto import Sealer
from core.domain.actions import ContainerStatus, Placed
from core.domain.guard_wire import Ask, Standing
from core.store.engine import engine_for, transaction
from core.store.guard_leases import PostgresGuardLeases
from core.store.interface import Lease, Written
from core.store.leases_admin import free_guard_leases
from core.store.tables_egress import providers, sub_users
from sandbox.up.local_provider import LOGIN, SLUG, ensure_local_provider
from tests.contract.store.harness import PostgresHarness

SEALER = Sealer((Fernet.generate_key().decode(),))
NODE = str(uuid.UUID(int=2))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(database_url, pool_size=5)
    yield engine
    await engine.dispose()


async def rows(engine: AsyncEngine) -> list[tuple[object, ...]]:
    joined = select(
        providers.c.slug,
        providers.c.template,
        providers.c.host,
        providers.c.port,
        providers.c.is_default,
        providers.c.title,
        sub_users.c.login,
        sub_users.c.sealed_password,
    ).join(sub_users, sub_users.c.provider_slug == providers.c.slug)
    async with transaction(engine) as connection:
        found = (await connection.execute(joined)).all()
    return [(*row[:-1], SEALER.open(row[-1])) for row in found]


async def test_the_provider_is_there_once_and_says_where_it_is_now(
    database_url: str, engine: AsyncEngine
) -> None:
    await ensure_local_provider(database_url, SEALER, port=31000, password="first")
    expected = (SLUG, "generic", "127.0.0.1", 31000, True, "Provedor local", LOGIN, "first")
    assert await rows(engine) == [expected]
    async with transaction(engine) as connection:
        await connection.execute(update(providers).values(title="Meu", is_default=False))
    await ensure_local_provider(database_url, SEALER, port=31001, password="second")
    changed = (SLUG, "generic", "127.0.0.1", 31001, False, "Meu", LOGIN, "second")
    assert await rows(engine) == [changed]


async def test_it_does_not_take_the_place_of_another_default(database_url: str, engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            providers.insert().values(
                slug="ours", title="Nosso", template="dataimpulse", scheme="socks5", is_default=True
            )
        )
    await ensure_local_provider(database_url, SEALER, port=31000, password="first")
    (row,) = await rows(engine)
    assert (row[0], row[4]) == (SLUG, False)


async def test_after_all_guards_have_ended_a_new_one_waits_for_nothing(engine: AsyncEngine) -> None:
    harness = PostgresHarness(engine)
    user = await harness.user()
    await harness.container(user)
    lease = await harness.store.claim(user, "one", 60)
    assert isinstance(lease, Lease)
    old, new = str(uuid.uuid4()), str(uuid.uuid4())

    async def placed(allocation: str, port: int) -> None:
        status = ContainerStatus(phase="ready", placed=Placed(allocation, NODE, "host-1", "10.0.0.1", port))
        assert isinstance(await harness.store.write_status(lease, status, {}, {}, 1), Written)

    async def standing(allocation: str) -> Standing:
        # A process of its own each time, as after a restart of everything.
        (answer,) = await PostgresGuardLeases(engine).renew(NODE, [Ask(allocation)])
        return answer.standing

    await placed(old, 3100)
    assert await standing(old) is Standing.GRANTED
    await placed(new, 3101)
    await harness.restart_server()
    assert await standing(new) is Standing.WAITING
    assert await free_guard_leases(engine) == 1
    assert await standing(new) is Standing.GRANTED
