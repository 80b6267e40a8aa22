"""Limits over several processes, on a real Valkey, and without it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.clients.cache import Cache
from core.clients.limits import TAKE, Limits
from core.domain.limits import SLOTS, Counter, Limit, slot_length_ms, take
from sandbox.valkey import EmbeddedValkey
from tests.integration.cache.test_cache import cache as cache
from tests.integration.cache.test_cache import own_valkey as own_valkey
from tests.integration.cache.test_cache import replica as replica


@pytest.fixture
async def both(cache: Cache, replica: Cache) -> AsyncIterator[tuple[Limits, Limits]]:
    """Two processes."""
    one, two = Limits(cache), Limits(replica)
    yield one, two
    await one.close()
    await two.close()


async def test_the_script_is_the_rule(cache: Cache) -> None:
    chance = random.Random(5)
    for story in range(40):
        limit = Limit("x", chance.randint(1, 30), chance.choice((1, 12, 60)), chance.randint(1, 12))
        counter, now = Counter(), 1_700_000_000_000 + chance.randint(0, 10**7)
        for _ in range(40):
            now += int(chance.random() ** 3 * limit.window_s * 400)
            arguments = (limit.most, slot_length_ms(limit), SLOTS, limit.batch, now)
            told = await cache.run(TAKE, f"story{story}", *arguments)
            taken = take(counter, limit, now)
            counter = taken.counter
            assert (int(told[0]), int(told[1])) == (taken.granted, taken.after_ms)


async def test_two_processes_grant_the_limit_together(both: tuple[Limits, Limits]) -> None:
    limit = Limit("exact", 20)
    outcomes = await asyncio.gather(*(both[n % 2].take(limit, "u") for n in range(50)))
    assert sum(1 for wait_s in outcomes if wait_s == 0) == 20
    assert all(0 <= wait_s <= 65 for wait_s in outcomes)
    assert await both[0].take(limit, "somebody else") == 0


async def test_batches_grant_a_batch_a_process_more_at_worst(both: tuple[Limits, Limits]) -> None:
    limit = Limit("taken", 300, batch=20)
    outcomes = await asyncio.gather(*(both[n % 2].take(limit, "u") for n in range(800)))
    granted = sum(1 for wait_s in outcomes if wait_s == 0)
    # Nothing is lost either, when both ask all along.
    assert 300 - 2 * limit.batch <= granted <= 300


async def test_a_batch_is_one_question(cache: Cache, both: tuple[Limits, Limits]) -> None:
    limit, asked = Limit("few", 600, batch=20), 0
    run = cache.run

    async def counted(script: str, key: str, *arguments: float) -> object:
        nonlocal asked
        asked += 1
        return await run(script, key, *arguments)

    cache.run = counted  # type: ignore[method-assign]
    for _ in range(100):
        assert await both[0].take(limit, "u") == 0
    assert asked == 5
    while await both[0].take(limit, "u") == 0:
        pass
    refused_at = asked
    for _ in range(100):
        assert await both[0].take(limit, "u") > 0
    assert asked == refused_at


async def test_waiting_as_told_is_enough(both: tuple[Limits, Limits]) -> None:
    limit = Limit("short", 3, window_s=1)
    while (wait_s := await both[0].take(limit, "u")) == 0:
        pass
    await asyncio.sleep(wait_s)
    assert await both[1].take(limit, "u") == 0


async def test_what_is_given_back_or_forgotten_counts_no_more(both: tuple[Limits, Limits]) -> None:
    one, two = both
    limit = Limit("login", 2, window_s=900)
    assert await one.take(limit, "a") == await two.take(limit, "a") == 0
    assert await one.take(limit, "a") > 0
    await one.give_back(limit, "a")
    assert await one.take(limit, "a") == 0
    assert await one.take(limit, "a") > 0
    await one.forget(limit, "a")
    assert await two.take(limit, "a") == await one.take(limit, "a") == 0
    assert await two.take(limit, "a") > 0


async def test_without_redis_each_process_counts_alone(own_valkey: Path) -> None:
    server = EmbeddedValkey.start(own_valkey)
    caches = [Cache(server.url()), Cache(server.url())]
    processes = [Limits(one) for one in caches]
    limit = Limit("away", 5)
    try:
        for number in range(3):
            assert await processes[number % 2].take(limit, "u") == 0
        server.kill()
        for process in processes:
            began = time.monotonic()
            outcomes = [await process.take(limit, "u") for _ in range(500)]
            assert [wait_s == 0 for wait_s in outcomes] == [True] * 5 + [False] * 495
            assert time.monotonic() - began < 1.5
        server = EmbeddedValkey.start(own_valkey, port=server.port)
        # It is asked again after its cool-down, and counts from nothing.
        await asyncio.sleep(2.1)
        assert await processes[0].take(limit, "u2") == 0
        assert caches[0].healthy
    finally:
        for one in caches:
            await one.close()
        server.kill()


async def test_only_so_many_keys_are_remembered() -> None:
    limits = Limits(Cache(None), remembered=10)
    limit = Limit("x", 1)
    for number in range(50):
        assert await limits.take(limit, f"k{number}") == 0
    assert await limits.take(limit, "k49") > 0
    assert await limits.take(limit, "k0") == 0
    assert len(limits._known) == 10
