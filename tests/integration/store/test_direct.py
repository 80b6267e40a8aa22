"""Statements that are given straight to the driver: the same values, the same errors, the same pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import ARRAY, Integer, any_, bindparam, func, insert, literal, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Rejected, Unavailable
from core.settings import Secret, StoreSettings
from core.store import direct
from core.store.direct import Prepared
from core.store.engine import AlreadyThere, Timeouts, create_engine, engine_for, reading, transaction
from core.store.schema import Id
from core.store.tables import plans, users
from tests.integration.store.conftest import Relay

ONE = Prepared(select(literal(1).label("one")))
SLEEP = Prepared(select(func.pg_sleep(bindparam("seconds", type_=Integer)).label("slept")))
PLAN = Prepared(
    insert(plans).values(
        slug=bindparam("slug"),
        title=bindparam("title"),
        max_chips=bindparam("max_chips"),
        cpu_mhz=1,
        memory_mb=1,
        memory_max_mb=1,
    )
)
KNOWN = Prepared(
    select(plans.c.slug).where(plans.c.slug == any_(bindparam("slugs", type_=ARRAY(plans.c.slug.type))))
)


async def _one(engine: AsyncEngine) -> int:
    async with direct.statements(engine) as connection:
        return int((await connection.execute(ONE)).one().one)


def _plan(slug: str, max_chips: int = 1) -> dict[str, Any]:
    return {"slug": slug, "title": "Plano", "max_chips": max_chips}


async def _known(engine: AsyncEngine, *slugs: str) -> set[str]:
    async with direct.statements(engine) as connection:
        return {row.slug for row in await connection.execute(KNOWN, {"slugs": list(slugs)})}


async def test_values_come_and_go_as_with_sqlalchemy(engine: AsyncEngine) -> None:
    now, one = datetime.now(UTC), str(uuid.uuid4())
    statement = select(
        bindparam("id", type_=Id).label("id"),
        bindparam("ids", type_=ARRAY(Id)).label("ids"),
        bindparam("body", type_=JSONB).label("body"),
        type_coerce(literal(now), users.c.created_at.type).label("at"),
        bindparam("nothing", type_=Id).label("nothing"),
    )
    values = {"id": one, "ids": [one], "body": {"á": [1, None]}, "nothing": None}
    async with direct.statements(engine) as connection:
        row = (await connection.execute(Prepared(statement), values)).one()
    async with engine.connect() as plain:
        assert tuple(row) == tuple((await plain.execute(statement, values)).one())
    assert (row.id, row.ids, row.body, row.at, row.nothing) == (one, [one], {"á": [1, None]}, now, None)


async def test_a_parameter_without_a_value_is_refused(engine: AsyncEngine) -> None:
    async with direct.statements(engine) as connection:
        with pytest.raises(KeyError, match="slugs"):
            await connection.execute(KNOWN, {})


def test_a_list_of_unknown_length_cannot_be_prepared() -> None:
    with pytest.raises(TypeError, match="any_"):
        _ = Prepared(select(plans.c.slug).where(plans.c.slug.in_(["a", "b"]))).sql


async def test_a_transaction_is_kept_whole_or_not_at_all(engine: AsyncEngine) -> None:
    async with direct.transaction(engine) as connection:
        await connection.execute_each(PLAN, [_plan("one"), _plan("two")])

    async def half_way() -> None:
        async with direct.transaction(engine) as connection:
            await connection.execute(PLAN, _plan("three"))
            raise ValueError

    with pytest.raises(ValueError):
        await half_way()
    assert await _known(engine, "one", "two", "three") == {"one", "two"}


async def test_a_savepoint_undoes_its_own_part_alone(engine: AsyncEngine) -> None:
    async with direct.transaction(engine) as connection:
        await connection.execute(PLAN, _plan("outer"))
        with contextlib.suppress(ValueError):
            async with connection.savepoint():
                await connection.execute(PLAN, _plan("inner"))
                raise ValueError
        async with connection.savepoint():
            await connection.execute(PLAN, _plan("kept"))
    assert await _known(engine, "outer", "inner", "kept") == {"outer", "kept"}


async def test_refusals_are_ours_and_keep_no_row(engine: AsyncEngine) -> None:
    hidden = "hunter" + "2"  # in two halves: a traceback shows this file's own lines too
    async with direct.transaction(engine) as connection:
        await connection.execute(PLAN, _plan(hidden))
    with pytest.raises(AlreadyThere) as twice:
        async with direct.transaction(engine) as connection:
            await connection.execute(PLAN, _plan(hidden))
    assert twice.value.constraint == "pk_plans"
    with pytest.raises(Rejected) as refused:
        async with direct.statements(engine) as connection:
            await connection.execute(PLAN, _plan(hidden + "3", -1))
    for error in (twice.value, refused.value):
        assert hidden not in "".join(traceback.format_exception(error))
    assert await _one(engine) == 1


@pytest.mark.parametrize("kind", [direct.statements, direct.transaction])
async def test_a_silent_postgres_is_unavailable_within_two_seconds(
    relay: Relay, relayed_url: str, kind: Any
) -> None:
    engine = engine_for(relayed_url, pool_size=2)
    assert list(await asyncio.gather(_one(engine), _one(engine))) == [1, 1]
    started: list[float] = []

    async def cut_off() -> None:
        async with kind(engine) as connection:
            await connection.execute(ONE)
            relay.freeze()
            started.append(time.monotonic())
            await connection.execute(ONE)

    with pytest.raises(Unavailable):
        await cut_off()
    assert time.monotonic() - started[0] < 2
    relay.thaw()
    assert await _one(engine) == 1
    await engine.dispose()


@pytest.mark.parametrize("kind", [direct.statements, direct.transaction])
async def test_a_cancelled_call_leaves_the_pool_usable(database_url: str, kind: Any) -> None:
    engine = engine_for(database_url, pool_size=1)

    async def slow() -> None:
        async with kind(engine) as connection:
            await connection.execute(SLEEP, {"seconds": 1})

    for _ in range(3):
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await _one(engine) == 1
    await engine.dispose()


async def test_a_statement_that_waits_too_long_is_given_up_by_the_server(database_url: str) -> None:
    settings = StoreSettings(Secret(database_url), pool_size=1, secret_keys=())
    engine = create_engine(settings, timeouts=Timeouts(statement_s=0.2, command_s=5))
    with pytest.raises(Unavailable, match="57014"):
        async with direct.transaction(engine) as connection:
            await connection.execute(SLEEP, {"seconds": 3})
    assert await _one(engine) == 1
    await engine.dispose()


async def test_a_busy_pool_is_unavailable_and_not_a_hang(database_url: str) -> None:
    settings = StoreSettings(Secret(database_url), pool_size=1, secret_keys=())
    engine = create_engine(settings, timeouts=Timeouts(connect_s=0.2))
    async with direct.statements(engine):
        with pytest.raises(Unavailable, match="busy"):
            await _one(engine)
    assert await _one(engine) == 1
    await engine.dispose()


async def test_a_database_that_does_not_exist_is_unavailable(database_url: str) -> None:
    engine = engine_for(database_url.replace("test_", "missing_"))
    with pytest.raises(Unavailable, match="3D000"):
        await _one(engine)
    await engine.dispose()


@pytest.mark.parametrize("kind", [direct.statements, direct.transaction, reading, transaction])
async def test_a_server_that_says_goodbye_at_that_moment_is_unavailable(database_url: str, kind: Any) -> None:
    """Between its last words and the end of the connection asyncpg refuses every call as an error of its own."""
    engine = engine_for(database_url, pool_size=1)
    async with reading(engine) as connection:
        pid = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
    prepared = kind.__module__ == direct.__name__

    async def ask_one_that_leaves() -> None:
        async with kind(engine) as connection:
            await connection.execute(ONE if prepared else ONE.statement)
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.3)  # noqa: ASYNC251 - nothing is read meanwhile
            for _ in range(2):
                await asyncio.sleep(0)  # the last words are read in the second round, the end in the next one
            await connection.execute(ONE if prepared else ONE.statement)

    # Told by other words when it comes too late or too early for what is meant here.
    with pytest.raises(Unavailable, match="another operation"):
        await ask_one_that_leaves()
    assert await _one(engine) == 1
    await engine.dispose()
