"""Usage is kept for whole months, and batches for as long as a guard may tell them again."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from core.store.engine import engine_for, transaction
from core.store.interface import Lease
from tests.contract.store.harness import PostgresHarness


@pytest.fixture
async def harness(database_url: str) -> AsyncIterator[PostgresHarness]:
    engine = engine_for(database_url)
    yield PostgresHarness(engine)
    await engine.dispose()


async def sql(harness: PostgresHarness, statement: str, **values: Any) -> list[Any]:
    async with transaction(harness.engine) as connection:
        result = await connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []


MONTH = "(date_trunc('month', now()) - make_interval(months => :ago))::date"


async def test_the_same_month_of_last_year_stays_and_what_is_older_goes(harness: PostgresHarness) -> None:
    chip, user = str(uuid.uuid4()), str(uuid.uuid4())
    for ago in (0, 1, 12, 13, 14):
        await sql(
            harness,
            "INSERT INTO proxy_usage (month, user_id, chip_id, provider_slug, bytes_in, bytes_out, tunnels)"
            f" VALUES ({MONTH}, :user, :chip, 'local', :ago, 0, 0)",
            ago=ago,
            user=user,
            chip=chip,
        )
        await sql(
            harness,
            f"INSERT INTO quota_notices (month, user_id, percent) VALUES ({MONTH}, :user, 80)",
            ago=ago,
            user=user,
        )
    lease = await harness.store.claim("fleet", "one", 60)
    assert isinstance(lease, Lease)
    assert await harness.housekeeping.prune_usage(lease, months=12, limit=1) == 2
    assert await harness.housekeeping.prune_usage(lease, months=12) == 2
    assert await harness.housekeeping.prune_usage(lease, months=12) == 0
    assert await sql(harness, "SELECT bytes_in FROM proxy_usage ORDER BY 1") == [(0,), (1,), (12,)]
    assert await sql(harness, "SELECT count(*) FROM quota_notices") == [(3,)]


async def test_batches_are_forgotten_by_age(harness: PostgresHarness) -> None:
    for hours in (1, 23, 25, 49):
        await sql(
            harness,
            "INSERT INTO usage_batches VALUES (:id, 'n', now() - make_interval(hours => :hours))",
            id=str(uuid.uuid4()),
            hours=hours,
        )
    lease = await harness.store.claim("fleet", "one", 60)
    assert isinstance(lease, Lease)
    assert await harness.housekeeping.prune_batches(lease, older_than_s=86_400, limit=1) == 1
    assert await harness.housekeeping.prune_batches(lease, older_than_s=86_400) == 1
    assert await harness.housekeeping.prune_batches(lease, older_than_s=86_400) == 0
    assert await sql(harness, "SELECT count(*) FROM usage_batches") == [(2,)]
