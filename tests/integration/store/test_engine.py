"""What the driver raises leaves the store as one of our errors, soon, and without secrets."""

from __future__ import annotations

import asyncio
import shutil
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import literal, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.crypto import Sealer
from core.domain.actions import ContainerStatus
from core.domain.pacing import Pace
from core.errors import AppError, Rejected, StaleWrite, Unavailable
from core.settings import Secret, StoreSettings
from core.store import direct
from core.store.direct import Prepared
from core.store.engine import AlreadyThere, Timeouts, create_engine, engine_for, reading, transaction
from core.store.interface import Lease
from core.store.reconcile import PostgresReconcileStore
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from tests.integration.store.conftest import Relay

_ONE = Prepared(select(literal(1).label("one")))


async def _one(engine: AsyncEngine) -> Any:
    async with reading(engine) as connection:
        return await connection.scalar(text("SELECT 1"))


async def _directly(engine: AsyncEngine) -> int:
    async with direct.statements(engine) as connection:
        return int((await connection.execute(_ONE)).one().one)


@pytest.fixture
def own_server() -> Iterator[tuple[EmbeddedPostgres, Any]]:
    """A server that the test may stop, and a way to start it again."""
    folder = scratch_folder()
    servers = [EmbeddedPostgres.start(folder, durable=False)]

    def start_again() -> EmbeddedPostgres:
        servers.append(EmbeddedPostgres.start(folder, durable=False))
        return servers[-1]

    yield servers[0], start_again
    servers[-1].stop()
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_stopped_postgres_is_unavailable_at_once_and_comes_back(
    own_server: tuple[EmbeddedPostgres, Any],
) -> None:
    server, start_again = own_server
    engine = engine_for(server.create_database("one"))
    assert await _one(engine) == 1
    await asyncio.to_thread(server.stop)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(Unavailable) as away:
            await _one(engine)
        assert time.monotonic() - started < 2
        assert away.value.system == "postgres"
    await asyncio.to_thread(start_again)
    assert await _one(engine) == 1  # the first call after its return already succeeds
    await engine.dispose()


async def test_a_restart_between_two_calls_is_not_noticed(own_server: tuple[EmbeddedPostgres, Any]) -> None:
    server, start_again = own_server
    engine = engine_for(server.create_database("one"), pool_size=3)
    await asyncio.gather(*(_one(engine) for _ in range(3)))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(start_again)
    assert await asyncio.gather(*(_directly(engine) for _ in range(3))) == [1, 1, 1]
    assert await asyncio.gather(*(_one(engine) for _ in range(3))) == [1, 1, 1]
    await engine.dispose()


async def test_a_silent_postgres_is_unavailable_within_two_seconds(relay: Relay, relayed_url: str) -> None:
    engine = engine_for(relayed_url, pool_size=2)
    assert await _one(engine) == 1
    relay.freeze()
    for _ in range(2):  # over the pooled connection, then over a new one
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await _one(engine)
        assert time.monotonic() - started < 2
    started = time.monotonic()
    with pytest.raises(Unavailable):
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))
    assert time.monotonic() - started < 2
    relay.thaw()
    assert await _one(engine) == 1
    await engine.dispose()


async def test_silence_in_the_middle_of_a_transaction(relay: Relay, relayed_url: str) -> None:
    engine = engine_for(relayed_url, pool_size=2)

    async def cut_off() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))
            relay.freeze()
            started.append(time.monotonic())
            await connection.execute(text("SELECT 2"))

    started: list[float] = []
    with pytest.raises(Unavailable):
        await cut_off()
    assert time.monotonic() - started[0] < 2
    relay.thaw()
    assert await _one(engine) == 1
    await engine.dispose()


async def test_a_busy_pool_is_unavailable_and_not_a_hang(database_url: str) -> None:
    settings = StoreSettings(Secret(database_url), pool_size=1, secret_keys=())
    engine = create_engine(settings, timeouts=Timeouts(connect_s=0.2))
    async with reading(engine) as connection:
        await connection.scalar(text("SELECT 1"))
        with pytest.raises(Unavailable, match="busy"):
            await _one(engine)
    assert await _one(engine) == 1
    await engine.dispose()


async def test_a_statement_that_waits_too_long_is_given_up_by_the_server(database_url: str) -> None:
    settings = StoreSettings(Secret(database_url), pool_size=2, secret_keys=())
    engine = create_engine(settings, timeouts=Timeouts(statement_s=0.2, command_s=5))
    with pytest.raises(Unavailable, match="57014"):
        async with reading(engine) as connection:
            await connection.execute(text("SELECT pg_sleep(3)"))
    assert await _one(engine) == 1
    await engine.dispose()


async def test_a_cancelled_call_leaves_the_pool_usable(database_url: str) -> None:
    engine = engine_for(database_url, pool_size=1)

    async def slow() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT pg_sleep(1)"))

    for _ in range(3):
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await _one(engine) == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("statement", "error", "says"),
    [
        ("INSERT INTO plans SELECT * FROM plans", AlreadyThere, "registro"),
        ("SELECT * FROM nowhere", Unavailable, "wahafleet migrate"),
        ("UPDATE plans SET max_chips = -1", Rejected, "ck_plans_max_chips"),
        ("SELEKT", Rejected, "42601"),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", StaleWrite, "faster"),
        ("DO $$ BEGIN RAISE SQLSTATE '57P03'; END $$", Unavailable, "57P03"),
        ("DO $$ BEGIN RAISE SQLSTATE '25006'; END $$", Unavailable, "25006"),
    ],
)
async def test_errors_by_sqlstate(
    engine: AsyncEngine, statement: str, error: type[AppError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        async with transaction(engine) as connection:
            await connection.execute(text(statement))
    assert raised.value.__cause__ is not None


async def test_the_unique_rule_is_named(engine: AsyncEngine) -> None:
    with pytest.raises(AlreadyThere) as raised:
        async with transaction(engine) as connection:
            await connection.execute(text("INSERT INTO plans SELECT * FROM plans"))
    assert raised.value.constraint == "pk_plans"


async def test_neither_parameters_nor_rows_show_in_a_traceback(engine: AsyncEngine) -> None:
    with pytest.raises(Rejected) as raised:
        async with transaction(engine) as connection:
            await connection.execute(
                text(
                    "INSERT INTO users (id, email, name, phone, password_hash, plan_slug) "
                    "VALUES (gen_random_uuid(), :email, 'x', NULL, :hash, 'free')"
                ),
                {"email": "ana@example.com", "hash": "hunter2"},
            )
    shown = "".join(traceback.format_exception(raised.value))
    assert "NotNullViolation" in shown
    assert "hunter2" not in shown
    assert "ana@example.com" not in shown


async def test_a_database_that_does_not_exist_is_unavailable(database_url: str) -> None:
    engine = engine_for(database_url.replace("test_", "missing_"))
    with pytest.raises(Unavailable, match="3D000"):
        await _one(engine)
    await engine.dispose()


async def test_every_method_of_the_store_says_unavailable() -> None:
    """A server that is not there: no method lets an error of the driver through."""
    engine = engine_for("postgresql+asyncpg://nobody@127.0.0.1:1/nowhere")
    store = PostgresReconcileStore(engine, Sealer((Fernet.generate_key().decode(),)))
    lease = Lease("7e0e1f6c-5b7e-4f3a-9c40-0f5d2c9d1a11", "one", 1, 0, 60)
    for call in (
        store.claim("fleet", "one", 60),
        store.extend(lease),
        store.release(lease),
        store.load(lease.key),
        store.user_ids(),
        store.record_registered(lease, None),
        store.record_variables(lease, None),
        store.take_starts(lease, [], Pace(), {}),
        store.write_status(lease, ContainerStatus(phase="ready"), {}, {}, 1),
        store.remove_chip(lease, lease.key, 1),
        store.remove_container(lease),
    ):
        with pytest.raises(Unavailable):
            await call
    await engine.dispose()
