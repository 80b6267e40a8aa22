"""The cache on a real Valkey: expiry, one flight over processes, rate windows, and life without it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from core.clients.cache import Cache
from core.clients.endpoint_cache import EndpointCache
from core.domain.facts import Endpoint
from sandbox.postgres import scratch_folder
from sandbox.valkey import EmbeddedValkey
from tests.polling import eventually


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    made = Cache(redis_url)
    yield made
    await made.close()


@pytest.fixture
async def replica(redis_url: str) -> AsyncIterator[Cache]:
    """The same cache as another process sees it."""
    made = Cache(redis_url)
    yield made
    await made.close()


@pytest.fixture
def own_valkey() -> Iterator[Path]:
    folder = scratch_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_values_are_shared_and_expire(cache: Cache, replica: Cache) -> None:
    await cache.set("k", b"\x00\xff", 0.2)
    assert await replica.get("k") == b"\x00\xff"

    async def gone() -> bool:
        return await replica.get("k") is None

    await eventually(gone, 2)
    await cache.set("k", b"v", 60)
    await replica.delete("k", "other")
    assert await cache.get("k") is None
    assert cache.healthy
    assert await cache.ping()


async def test_one_producer_over_all_replicas(cache: Cache, replica: Cache) -> None:
    made: list[str] = []

    async def produce(name: str) -> bytes:
        made.append(name)
        await asyncio.sleep(0.2)
        return name.encode()

    callers = [
        cache.single_flight("qr", 5, lambda: produce("one"), 3),
        cache.single_flight("qr", 5, lambda: produce("one"), 3),
        replica.single_flight("qr", 5, lambda: produce("two"), 3),
        replica.single_flight("qr", 5, lambda: produce("two"), 3),
    ]
    answers = await asyncio.gather(*callers)
    assert len(made) == 1
    assert answers == [made[0].encode()] * 4
    assert await cache.single_flight("qr", 5, lambda: produce("again"), 3) == answers[0]  # kept


async def test_another_replica_gives_up_after_its_wait_and_takes_over_when_the_first_fails(
    cache: Cache, replica: Cache
) -> None:
    started = asyncio.Event()
    gate = asyncio.Event()

    async def fail() -> bytes:
        started.set()
        await gate.wait()
        raise LookupError("no QR")

    async def produce() -> bytes:
        return b"second"

    first = asyncio.create_task(cache.single_flight("qr", 5, fail, 3))
    await started.wait()
    assert await replica.single_flight("qr", 5, produce, 0.1) is None
    waiting = asyncio.create_task(replica.single_flight("qr", 5, produce, 3))
    gate.set()
    with pytest.raises(LookupError):
        await first
    assert await waiting == b"second"


async def test_a_maker_that_died_holds_the_others_up_no_longer_than_its_lock(
    cache: Cache, redis_url: str
) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.set("wahafleet:lock:qr", "a process that is gone", px=200)

    async def produce() -> bytes:
        return b"mine"

    assert await cache.single_flight("qr", 5, produce, 3) == b"mine"


async def test_a_lock_that_somebody_else_has_by_now_is_left_alone(cache: Cache, redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:

        async def produce() -> bytes:
            await client.set("wahafleet:lock:qr", "somebody else")
            return b"mine"

        assert await cache.single_flight("qr", 5, produce, 3) == b"mine"
        assert await client.get("wahafleet:lock:qr") == b"somebody else"


async def test_a_server_that_dies_and_returns(own_valkey: Path) -> None:
    server = EmbeddedValkey.start(own_valkey)
    port = server.port
    cache = Cache(server.url(), cooldown_s=0.1)
    endpoints = EndpointCache(cache, 30)
    endpoint = Endpoint("127.0.0.1", 3100, "a1")
    try:
        await endpoints.put("u1", endpoint)
        assert await endpoints.get("u1") == endpoint
        server.kill()
        assert await endpoints.get("u1") is None
        assert not cache.healthy
        assert await cache.run("return 1", "login") is None
        started = time.monotonic()
        for _ in range(1000):
            assert await endpoints.get("u1") is None
        assert time.monotonic() - started < 1.0
        server = EmbeddedValkey.start(own_valkey, port=port)
        await eventually(cache.ping)
        await endpoints.put("u1", endpoint)
        assert await endpoints.get("u1") == endpoint
    finally:
        await cache.close()
        server.stop()


async def test_a_server_that_hangs_costs_a_quarter_of_a_second_once(own_valkey: Path) -> None:
    with EmbeddedValkey.start(own_valkey) as server:
        cache = Cache(server.url())
        try:
            await cache.set("a", b"A", 60)
            await cache.set("b", b"B", 60)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                started = time.monotonic()
                for _ in range(100):
                    assert await cache.get("a") is None
                assert time.monotonic() - started < 0.6
                assert not cache.healthy
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await eventually(cache.ping)
            # The answer that came too late must not be taken for the answer to a later question.
            for _ in range(20):
                assert await cache.get("b") == b"B"
                assert await cache.get("a") == b"A"
        finally:
            await cache.close()


async def test_being_held_up_while_a_connection_is_made_is_no_failure_of_redis(own_valkey: Path) -> None:
    with EmbeddedValkey.start(own_valkey) as server:
        for turns in range(12):
            cache = Cache(server.url(), timeout_s=0.2)
            try:
                asking = asyncio.create_task(cache.ping())
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(0.3)  # noqa: ASYNC251 - that is the hold-up
                assert await asking, f"held up after {turns} turns"
            finally:
                await cache.close()


async def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cache = Cache(f"redis://127.0.0.1:{port}/0")
    try:
        assert await cache.get("k") is None
        assert not cache.healthy

        async def produce() -> bytes:
            return b"made here"

        assert await cache.single_flight("k", 5, produce, 1) == b"made here"
    finally:
        await cache.close()
