"""Versions of a user's rows: another one after each write, whoever made it, and the same without one."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actor import COMMAND_LINE
from core.settings import Secret, StoreSettings
from core.store.engine import engine_for
from core.store.migrate import upgrade
from core.store.standings import Standing, StandingReader
from core.store.users_admin import ensure_user
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from tests.polling import eventually


async def person(engine: AsyncEngine) -> str:
    return await ensure_user(
        engine,
        email=f"{uuid.uuid4().hex}@empresa.com.br",
        password_hash="none",
        name="Ana Souza",
        phone="+5511999999999",
        actor=COMMAND_LINE,
        plan_slug="business",
    )


def reader_of(url: str) -> AbstractAsyncContextManager[StandingReader]:
    settings = StoreSettings(database_url=Secret(url), pool_size=2, secret_keys=())
    return StandingReader.opened(settings, connections=2, application_name="test")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = engine_for(database_url)
    yield made
    await made.dispose()


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[StandingReader]:
    async with reader_of(database_url) as opened:
        yield opened


async def test_each_write_makes_another_version_of_what_it_changed(
    engine: AsyncEngine, reader: StandingReader
) -> None:
    user, other, nobody = await person(engine), await person(engine), str(uuid.uuid4())
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    container = "INSERT INTO containers (user_id, namespace, storage_id, sealed_api_key, sealed_hook_key)"
    new_chip = "INSERT INTO chips (id, user_id, alias) VALUES"
    writes = [
        ("account", "UPDATE users SET suspended_at = now() WHERE id = :user"),
        ("account", "UPDATE users SET name = name WHERE id = :user"),
        ("account", "UPDATE plans SET title = 'Outro' WHERE slug = 'business'"),
        ("chips", f"{container} VALUES (:user, 'u0000000001', 'main', '', '')"),
        ("chips", f"{new_chip} (:one, :user, 'um')"),
        ("chips", f"{new_chip} (:two, :user, 'dois')"),
        ("chips", "UPDATE chips SET annotations = '{\"heat_up\": 1}' WHERE id = :one"),
        ("chips", "UPDATE chips SET status = 'CONNECTED' WHERE id = :two"),
        ("chips", "UPDATE containers SET node_name = 'host-2' WHERE user_id = :user"),
        ("chips", "UPDATE chips SET wanted = 'deleted', deleted_at = now() WHERE id = :one"),
        ("chips", "DELETE FROM chips WHERE id = :two"),
        ("chips", "DELETE FROM containers WHERE user_id = :user"),
    ]
    seen = {"account": set[str](), "chips": set[str]()}

    async def look() -> tuple[Standing, Standing]:
        found = await reader.read((user, other, nobody))
        assert set(found) == {user, other}
        assert await reader.read((user,)) == {user: found[user]}
        return found[user], found[other]

    before, others = await look()
    for part, statement in writes:
        async with engine.begin() as connection:
            await connection.execute(text(statement), {"user": user, "one": one, "two": two})
            during, _ = await look()
            assert during == before  # nobody sees it before it is committed
        after, others_after = await look()
        assert getattr(after, part) != getattr(before, part), statement
        untouched = "chips" if part == "account" else "account"
        assert getattr(after, untouched) == getattr(before, untouched), statement
        assert others_after.chips == others.chips
        assert getattr(after, part) not in seen[part]
        seen[part].add(getattr(after, part))
        before = after
    async with engine.connect() as connection:
        await connection.execute(text("UPDATE users SET name = 'x' WHERE id = :user"), {"user": user})
        await connection.execute(text("SELECT 1 FROM users FOR UPDATE"))
        await connection.rollback()
    assert (await look())[0] == before


@pytest.fixture
def folder() -> Iterator[Path]:
    made = scratch_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def test_a_server_that_was_started_again_has_no_version_of_before(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False) as server:
        url = server.create_database("again")
        await asyncio.to_thread(upgrade, url)
        engine = engine_for(url)
        user = await person(engine)
        await engine.dispose()
        async with reader_of(url) as reader:
            before = (await reader.read((user,)))[user]
    with EmbeddedPostgres.start(folder, durable=False) as server:
        async with reader_of(server.url("again")) as reader:
            after = (await reader.read((user,)))[user]
    assert after.account != before.account
    assert after.chips != before.chips


async def test_a_connection_that_the_server_ended_is_replaced(
    engine: AsyncEngine, reader: StandingReader
) -> None:
    user = await person(engine)
    before = await reader.read((user,))
    async with engine.begin() as connection:
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'")
        )
    await eventually(_closed(reader), 5)
    assert await reader.read((user,)) == before


async def test_a_connection_is_used_again_unless_it_was_silent_for_long_or_its_read_was_given_up(
    engine: AsyncEngine, reader: StandingReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await person(engine)
    await reader.read((user,))
    [first] = reader._open
    await asyncio.gather(*(reader.read((user,)) for _ in range(6)))
    assert first in reader._open
    assert len(reader._open) == 2
    given_up = asyncio.create_task(reader.read((user,)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert len(reader._open) == 1
    kept = set(reader._open)
    assert await reader.read((user,))
    assert reader._open == kept
    monkeypatch.setattr("core.store.standings._IDLE_S", 0.0)
    assert await reader.read((user,))
    assert reader._open.isdisjoint(kept)
    assert len(reader._open) == 1


def _closed(reader: StandingReader) -> Callable[[], Awaitable[bool]]:
    async def closed() -> bool:
        return all(connection.is_closed() for connection in reader._open)

    return closed
