"""The cache without Redis: what is promised then, and the two typed caches on top."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.exceptions

from core.clients import cache as subject
from core.clients.cache import Cache
from core.clients.endpoint_cache import EndpointCache
from core.clients.qr_cache import CachedQr, QrCache, Turn
from core.domain.facts import Endpoint


class FakeClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.t = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.t, UTC)

    def monotonic(self) -> float:
        return self.t

    async def sleep(self, seconds: float) -> None:
        self.t += seconds
        await asyncio.sleep(0)


class FakeRedis:
    """A server that can be switched off; counts what it was asked."""

    def __init__(self) -> None:
        self.up = True
        self.calls: list[str] = []
        self.values: dict[str, bytes] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if not self.up:
            raise redis.exceptions.ConnectionError("refused")

    async def ping(self) -> bool:
        self._called("ping")
        return True

    async def get(self, key: str) -> bytes | None:
        self._called("get")
        return self.values.get(key)

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        self._called("mget")
        return [self.values.get(key) for key in keys]

    async def set(self, key: str, value: bytes, *, px: int, nx: bool = False) -> bool | None:
        self._called("set")
        if nx and key in self.values:
            return None
        self.values[key] = value
        return True

    async def eval(self, script: str, count: int, *given: Any) -> int:
        assert script == subject._CHANGE
        self._called("eval")
        names, values = given[:count], given[count::2]
        for name in names[len(values) :]:
            self.values.pop(name, None)
        self.values.update(zip(names, values, strict=False))
        return 1

    async def delete(self, *keys: str) -> int:
        self._called("delete")
        return sum(self.values.pop(key, None) is not None for key in keys)

    async def aclose(self) -> None:
        return None


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
async def cache(clock: FakeClock, server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cache]:
    monkeypatch.setattr(subject, "_client", lambda url: server)
    made = Cache("redis://cache.test", clock=clock)
    yield made
    await made.close()


@pytest.fixture
async def off(clock: FakeClock) -> AsyncIterator[Cache]:
    made = Cache(None, clock=clock)
    yield made
    await made.close()


async def test_off_means_misses_and_never_healthy(off: Cache) -> None:
    await off.set("k", b"v", 10)
    assert await off.get("k") is None
    await off.delete("k")
    assert not off.healthy
    assert not await off.ping()


async def test_a_failure_is_a_miss_and_costs_one_call_per_cooldown(
    cache: Cache, server: FakeRedis, clock: FakeClock
) -> None:
    await cache.set("k", b"v", 10)
    assert await cache.get("k") == b"v"
    assert await cache.ping()
    server.up = False
    server.calls.clear()
    for _ in range(50):
        assert await cache.get("k") is None
    assert server.calls == ["get"]
    assert not cache.healthy
    clock.t += 2.0
    for _ in range(50):
        assert await cache.get("k") is None
    assert server.calls == ["get", "get"]
    server.up = True
    assert await cache.get("k") is None  # still cooling down
    clock.t += 2.0
    assert await cache.get("k") == b"v"
    assert cache.healthy


async def test_one_line_per_outage_and_one_on_return(
    cache: Cache, server: FakeRedis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(subject._log, "warning", lambda event, **_: lines.append(event), raising=False)
    monkeypatch.setattr(subject._log, "info", lambda event, **_: lines.append(event), raising=False)
    server.up = False
    for _ in range(5):
        await cache.get("k")
        clock.t += 3
    server.up = True
    await cache.get("k")
    await cache.get("k")
    assert lines == ["cache_away", "cache_returned"]


async def test_a_drop_that_failed_is_made_good_before_redis_is_believed_again(
    cache: Cache, server: FakeRedis, clock: FakeClock
) -> None:
    await cache.set("k", b"old", 60)
    server.up = False
    await cache.delete("k")
    server.up = True
    clock.t += 2.0
    assert await cache.get("k") is None
    assert server.values == {}
    assert server.calls[-2:] == ["delete", "get"]


async def test_a_time_that_is_over_drops(cache: Cache, server: FakeRedis) -> None:
    await cache.set("k", b"v", 10)
    await cache.set("k", b"v2", 0)
    assert server.values == {}


async def test_keys_carry_the_prefix(server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_client", lambda url: server)
    await Cache("redis://cache.test", prefix="other:").set("k", b"v", 10)
    assert server.values == {"other:k": b"v"}


async def test_one_flight_per_process_when_redis_is_off(off: Cache) -> None:
    made = 0
    gate = asyncio.Event()

    async def produce() -> bytes:
        nonlocal made
        made += 1
        await gate.wait()
        return b"qr"

    callers = [asyncio.create_task(off.single_flight("k", 5, produce, 5)) for _ in range(20)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*callers) == [b"qr"] * 20
    assert made == 1
    assert await off.single_flight("k", 5, produce, 5) == b"qr"  # nothing was kept
    assert made == 2


async def test_who_joined_gives_up_after_its_wait(off: Cache) -> None:
    gate = asyncio.Event()

    async def produce() -> bytes:
        await gate.wait()
        return b"qr"

    maker = asyncio.create_task(off.single_flight("k", 5, produce, 0.01))
    await asyncio.sleep(0)
    assert await off.single_flight("k", 5, produce, 0.001) is None
    gate.set()
    assert await maker == b"qr"


async def test_a_caller_who_hangs_up_takes_nobody_elses_answer_away(off: Cache) -> None:
    gate = asyncio.Event()

    async def produce() -> bytes:
        await gate.wait()
        return b"qr"

    first = asyncio.create_task(off.single_flight("k", 5, produce, 5))
    await asyncio.sleep(0)
    second = asyncio.create_task(off.single_flight("k", 5, produce, 5))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert await second == b"qr"


async def test_everybody_hears_why_the_producer_failed(off: Cache) -> None:
    async def produce() -> bytes:
        await asyncio.sleep(0)
        raise LookupError("no QR")

    outcomes = await asyncio.gather(
        *(off.single_flight("k", 5, produce, 5) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 3


async def test_no_script_runs_without_redis(off: Cache) -> None:
    assert await off.run("return 1", "k") is None


ENDPOINT = Endpoint(address="10.0.0.5", port=3107, allocation_id="a1")


async def test_endpoints_come_back_as_they_were(cache: Cache) -> None:
    endpoints = EndpointCache(cache, ttl_s=30)
    assert await endpoints.get("u1") is None
    await endpoints.put("u1", ENDPOINT)
    assert await endpoints.get("u1") == ENDPOINT
    assert await endpoints.get("u2") is None
    await endpoints.drop("u1", "u2")
    assert await endpoints.get("u1") is None


@pytest.mark.parametrize("written", [b"", b"{}", b"\xff", b'{"address":1,"port":2,"allocation_id":"x"}'])
async def test_what_another_release_wrote_is_a_miss_and_goes(
    cache: Cache, server: FakeRedis, written: bytes
) -> None:
    await cache.set("endpoint:u1", written, 60)
    await cache.set("qr:c1", written, 60)
    assert await EndpointCache(cache, 30).get("u1") is None
    assert await QrCache(cache, 30).look("u1", "c1") == (None, None)
    assert server.values == {}


async def test_a_qr_lives_until_it_expires(cache: Cache, clock: FakeClock) -> None:
    codes = QrCache(cache, ttl_s=5, clock=clock)

    async def shown(chip_id: str, lasts_s: float) -> tuple[CachedQr, float]:
        qr = CachedQr("aGk=", "SCAN_QR_CODE", clock.now() + timedelta(seconds=lasts_s))
        entry = codes.entry(chip_id, qr)
        await cache.change(entry)
        return qr, entry[f"qr:{chip_id}"][1]

    qr, kept_s = await shown("c1", 3)
    assert kept_s == 3
    assert await codes.look("u1", "c1") == (qr, None)
    assert (await shown("c2", 20))[1] == 5
    clock.t += 3
    assert await codes.look("u1", "c1") == (None, None)
    await shown("c2", 0)
    assert await codes.look("u1", "c2") == (None, None)
    await codes.drop("c1")


async def test_what_is_told_of_several_chips_is_one_call(
    cache: Cache, clock: FakeClock, server: FakeRedis
) -> None:
    codes = QrCache(cache, ttl_s=5, clock=clock)
    turn = Turn("evt_1", clock.now(), clock.now() + timedelta(seconds=60))
    await cache.set("viewer:c2", b"1", 10)
    for name in ("qr-flight:c1", "qr-flight:c3", "qr:c3"):
        await cache.set(name, b"old", 10)
    server.calls.clear()
    assert await codes.turned("u1", {"c1": turn, "c2": turn, "c3": None})
    assert await codes.turns("u1", ("c1", "c2", "c3")) == {
        "c1": (turn, False),
        "c2": (turn, True),
        "c3": (None, False),
    }
    assert server.calls == ["eval", "mget"]
    assert sorted(name.removeprefix("wahafleet:") for name in server.values) == [
        *("qr-turn:u1:c1", "qr-turn:u1:c2", "viewer:c2")
    ]
    server.up = False
    assert not await codes.turned("u1", {"c1": turn, "c2": None})
    assert await codes.turns("u1", ("c1", "c2")) == {"c1": (None, False), "c2": (None, False)}
    server.up = True
    clock.t += 2
    assert await cache.ping()
    assert sorted(server.values) == ["wahafleet:qr-turn:u1:c1", "wahafleet:viewer:c2"]  # forgotten by now


async def test_a_qr_lives_as_long_as_its_turn(cache: Cache, clock: FakeClock, server: FakeRedis) -> None:
    codes = QrCache(cache, ttl_s=5, clock=clock)
    first = Turn("evt_1", clock.now(), clock.now() + timedelta(seconds=60))
    await codes.turned("u1", {"c1": first})
    assert await codes.look("u1", "c1") == (None, first)
    qr = CachedQr("aGk=", "SCAN_QR_CODE", first.ends_at)
    await cache.change(codes.entry("c1", qr, first))
    kept = CachedQr("aGk=", "SCAN_QR_CODE", first.ends_at, turn="evt_1")
    assert await codes.look("u1", "c1") == (kept, first)
    # Asked for in the turn before: whatever it shows is the old code, though it came later.
    second = Turn("evt_2", first.ends_at, first.ends_at + timedelta(seconds=20))
    await codes.turned("u1", {"c1": second})
    await cache.change(codes.entry("c1", qr, first))
    assert await codes.look("u1", "c1") == (None, second)
    await cache.change(codes.entry("c1", qr, None))
    assert await codes.look("u1", "c1") == (None, second)
    # Another user's container names the same session.
    await cache.change(codes.entry("c1", qr, second))
    await codes.turned("u2", {"c1": Turn("evt_9", second.began_at, second.ends_at)})
    found, turn = await codes.look("u1", "c1")
    assert found is not None
    assert turn == second
    # The session shows none any more.
    await codes.turned("u1", {"c1": None})
    assert await codes.look("u1", "c1") == (None, None)


async def test_endpoints_miss_while_redis_is_off(off: Cache) -> None:
    await EndpointCache(off, 30).put("u1", ENDPOINT)
    assert await EndpointCache(off, 30).get("u1") is None


async def test_what_redis_said_last_of_a_code_is_believed_for_a_while_without_it(
    cache: Cache, clock: FakeClock, server: FakeRedis
) -> None:
    here, there = QrCache(cache, ttl_s=5, clock=clock), QrCache(cache, ttl_s=5, clock=clock)
    turn = Turn("evt_1", clock.now(), clock.now() + timedelta(seconds=60))
    await here.turned("u1", {"c1": turn})
    await cache.change(here.entry("c1", CachedQr("aGk=", "SCAN_QR_CODE", turn.ends_at), turn))
    seen = await there.look("u1", "c1")
    assert seen[0] is not None
    server.up = False
    for codes in (here, there):
        assert await codes.look("u1", "c1") == seen
        assert await codes.look("u1", "c2") == (None, None)
    clock.t += 4.9
    assert await there.look("u1", "c1") == seen
    clock.t += 0.1
    assert await there.look("u1", "c1") == (None, None)
    # News and wishes that this process hears of count at once; an expired code never does.
    for forget in (here.turned("u1", {"c1": None}), here.drop("c1")):
        await cache.change(here.entry("c1", CachedQr("aGk=", "SCAN_QR_CODE", turn.ends_at), turn))
        assert (await here.look("u1", "c1"))[0] is not None
        await forget
        assert await here.look("u1", "c1") == (None, None)
    await cache.change(here.entry("c1", CachedQr("aGk=", "SCAN_QR_CODE", clock.now() + timedelta(seconds=2))))
    clock.t += 2
    assert await here.look("u1", "c1") == (None, None)
