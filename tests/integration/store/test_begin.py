"""A claim reads the user with it, and what it read counts only where nobody can have written in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.store.engine import transaction
from core.store.interface import Answered, Lease
from core.store.tables import containers, leases
from tests.contract.store.harness import PostgresHarness

FREED = {"owner": "", "expires_at": func.clock_timestamp()}


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


async def user_of(harness: PostgresHarness) -> str:
    user_id = await harness.user()
    await harness.container(user_id)
    return user_id


async def claimed(harness: PostgresHarness, user_id: str, owner: str = "one") -> Lease:
    lease = await harness.store.claim(user_id, owner, 60)
    assert isinstance(lease, Lease)
    return lease


async def phase(harness: PostgresHarness, lease: Lease) -> str:
    snapshot = await harness.store.load(lease.key, lease)
    assert snapshot is not None
    return snapshot.container.phase


async def write_phase(harness: PostgresHarness, phase: str) -> None:
    async with transaction(harness.engine) as connection:
        await connection.execute(update(containers).values(phase=phase))


@asynccontextmanager
async def claim_that_waits(
    harness: PostgresHarness, user_id: str
) -> AsyncIterator[tuple[AsyncConnection, asyncio.Task[Lease]]]:
    """A claim whose statement has begun, and waits until the block's transaction has ended."""
    async with transaction(harness.engine) as holding:
        await holding.execute(update(leases).values(key=leases.c.key))
        claiming = asyncio.create_task(claimed(harness, user_id))
        done, _ = await asyncio.wait({claiming}, timeout=0.3)
        assert not done
        yield holding, claiming


async def test_what_a_claim_saw_is_given_once_and_to_that_claim_alone(harness: PostgresHarness) -> None:
    user_id = await user_of(harness)
    lease = await claimed(harness, user_id)
    await write_phase(harness, "ready")
    unasked = await harness.store.load(user_id)
    assert unasked is not None
    assert unasked.container.phase == "ready"
    assert await phase(harness, lease) == "absent"
    assert await phase(harness, lease) == "ready"
    await harness.store.release(lease)
    await claimed(harness, user_id)
    await write_phase(harness, "booting")
    assert await phase(harness, lease) == "booting"


async def test_what_a_holder_wrote_while_the_claim_waited_for_it_is_seen(harness: PostgresHarness) -> None:
    user_id = await user_of(harness)
    await claimed(harness, user_id, "two")
    async with claim_that_waits(harness, user_id) as (holder, claiming):
        await holder.execute(update(containers).values(phase="ready"))
        await holder.execute(update(leases).values(FREED))
    assert await phase(harness, await claiming) == "ready"


async def test_what_a_whole_pass_wrote_while_the_claim_waited_is_seen(harness: PostgresHarness) -> None:
    user_id = await user_of(harness)
    await harness.store.release(await claimed(harness, user_id, "two"))
    async with claim_that_waits(harness, user_id) as (holder, claiming):
        await holder.execute(update(leases).values(token=leases.c.token + 1, owner="two"))
        await holder.execute(update(containers).values(phase="ready"))
        await holder.execute(update(leases).values(FREED))
    assert await phase(harness, await claiming) == "ready"


async def test_what_a_dead_holder_wrote_last_is_seen(harness: PostgresHarness) -> None:
    user_id = await user_of(harness)
    await harness.expire(await claimed(harness, user_id, "two"))
    async with claim_that_waits(harness, user_id) as (holder, claiming):
        await holder.execute(update(containers).values(phase="ready"))
    assert await phase(harness, await claiming) == "ready"


async def test_news_that_came_while_a_claim_waited_are_not_answered_by_its_look(
    harness: PostgresHarness,
) -> None:
    user_id = await user_of(harness)
    await harness.store.release(await claimed(harness, user_id, "two"))
    async with claim_that_waits(harness, user_id) as (_, claiming):
        news_at = time.monotonic()
    await harness.store.release(await claiming, looked=True)
    others = await harness.store.claim(user_id, "two", 60, news_age_s=time.monotonic() - news_at)
    assert isinstance(others, Lease)


async def test_older_news_are_answered(harness: PostgresHarness) -> None:
    user_id = await user_of(harness)
    await harness.store.release(await claimed(harness, user_id), looked=True)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=30.0), Answered)


async def test_a_user_without_a_container_is_none(harness: PostgresHarness) -> None:
    lease = await claimed(harness, await harness.user())
    assert await harness.store.load(lease.key, lease) is None
