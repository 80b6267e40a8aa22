from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import structlog

from core.crypto import Sealer, webhook_signature
from core.store.containers import container_secrets
from sandbox.valkey import EmbeddedValkey
from sandbox.waha.inline import InlineSimulators
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.qr_stage import Stage, end, staged, until


def seen_by(replica: Running, stage: Stage, folder: Path) -> Stage:
    """The same chip and its owner, at another process of the API."""
    person = Person(stage.person.id, "", stage.person.token, replica.client)
    return Stage(replica, person, stage.chip_id, stage.key, folder, stage.start_waha)


async def test_replicas_share_one_flight_and_the_viewers_mark(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    # A busy machine answers late; here that must not pass for a Redis that is away.
    patient = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**patient) as one, start(**patient) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(5)))
        assert len({body["qr"] for body in bodies}) == 1
        assert len(calls) == 1
        assert (await there.poll())["qr"] == bodies[0]["qr"]
        assert len(calls) == 1
        client = redis.Redis.from_url(redis_url)
        try:
            ttl = client.ttl(f"wahafleet:viewer:{stage.chip_id}")
            cached = client.keys("wahafleet:endpoint:*")
        finally:
            client.close()
        assert 0 < ttl <= 15
        assert cached == [f"wahafleet:endpoint:{stage.person.id}".encode()]
        end(stage)


async def waha_of(stage: Stage, *replicas: Running) -> Callable[..., Awaitable[None]]:
    """`says(number, *statuses, age_s=0)`: the container tells one of the replicas by webhook."""
    sealer = Sealer(tuple(key.reveal() for key in replicas[0].settings.store.secret_keys))
    secrets = await container_secrets(replicas[0].engine, stage.person.id, sealer)
    assert secrets is not None
    hook_key = secrets.hook_key

    async def says(number: int, *statuses: str, age_s: float = 0, chip_id: str = stage.chip_id) -> None:
        event = {
            "id": f"evt_{number}",
            "timestamp": int((time.time() - age_s) * 1000),
            "event": "session.status",
            "session": f"chip_{chip_id}",
            "payload": {"status": statuses[-1], "statuses": [{"status": status} for status in statuses]},
        }
        raw = msgspec.json.encode(event)
        answer = await replicas[number % len(replicas)].client.post(
            f"/api/v1/webhooks/waha/{stage.person.id}",
            content=raw,
            headers={"X-Webhook-Hmac": webhook_signature(hook_key, raw)},
        )
        assert answer.json() == {"status": "stored"}

    return says


async def test_a_code_that_is_about_to_change_is_not_asked_for(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one, two)
        await says(0, "SCAN_QR_CODE", "SCAN_QR_CODE", age_s=19.6)
        polls = [asyncio.create_task(side.poll()) for side in (stage, there)]
        await asyncio.sleep(0.2)
        assert calls == []
        await says(1, "SCAN_QR_CODE", "SCAN_QR_CODE")
        first, second = await asyncio.gather(*polls)
        assert first["qr"] == second["qr"] is not None
        assert len(calls) == 1
        end(stage)


async def test_news_of_the_next_code_is_waited_for_no_longer_than_a_moment(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path)
        await (await waha_of(stage, running))(0, "SCAN_QR_CODE", "SCAN_QR_CODE", age_s=20.5)
        assert (await stage.poll())["qr"] is not None
        assert len(calls) == 1
        end(stage)


async def test_a_code_is_asked_for_once_a_rotation_over_all_replicas(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    # Without news of the container a code would be good for this long.
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5", "WAHAFLEET_QR_TTL_S": "1"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one, two)
        await says(0, "STARTING", "SCAN_QR_CODE")
        first = await stage.poll()
        left_s = (datetime.fromisoformat(first["expires_at"]) - datetime.now(UTC)).total_seconds()
        assert 40 < left_s <= 60
        await asyncio.sleep(1.5)
        for side in (stage, there, stage):
            assert (await side.poll())["qr"] == first["qr"]
        assert len(calls) == 1
        for number in (1, 2):
            await says(number, "SCAN_QR_CODE", "SCAN_QR_CODE")
            bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(3)))
            assert {body["status"] for body in bodies} == {"SCAN_QR_CODE"}
            left_s = (datetime.fromisoformat(bodies[0]["expires_at"]) - datetime.now(UTC)).total_seconds()
            assert 0 < left_s <= 20
            assert len(calls) == 1 + number
        # It shows none any more: its own word is asked for, and not the old code given.
        await says(3, "SCAN_QR_CODE", "WORKING")
        await there.poll()
        assert len(calls) == 4
        end(stage)


async def test_the_next_code_is_at_hand_before_it_is_polled_for(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one)
        await says(0, "STARTING", "SCAN_QR_CODE")
        await asyncio.sleep(0.3)
        assert calls == []  # nobody looks
        first = await there.poll()  # through the other process

        async def asked(times: int) -> bool:
            return len(calls) == times

        for number in (1, 2):
            await stage.waha("POST", f"/api/sessions/chip_{stage.chip_id}/restart", {})
            await stage.session_shows_qr()
            await says(number, "SCAN_QR_CODE", "SCAN_QR_CODE")
            await until(partial(asked, 1 + number))
            bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(3)))
            assert len({body["qr"] for body in bodies}) == 1
            assert bodies[0]["qr"] not in (None, first["qr"])
            assert len(calls) == 1 + number
        # Whoever looks would not be shown it.
        await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
        await says(3, "SCAN_QR_CODE", "SCAN_QR_CODE")
        await asyncio.sleep(0.3)
        assert len(calls) == 3
        end(stage)


async def test_a_container_has_no_code_fetched_but_of_its_own_users_chips(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path / "a")
        other = await staged(running, simulators, tmp_path / "b")
        shown = await other.poll()
        says = await waha_of(stage, running)
        await says(0, "SCAN_QR_CODE", "SCAN_QR_CODE", chip_id=other.chip_id)
        await asyncio.sleep(0.3)
        assert calls == [f"chip_{other.chip_id}"]
        assert (await other.poll())["qr"] == shown["qr"]
        assert len(calls) == 1
        end(stage)
        end(other)


async def test_neither_a_hold_up_nor_a_moment_without_redis_asks_for_a_code_again(
    start: Start, mortal: EmbeddedValkey, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": mortal.url(), "WAHAFLEET_REDIS_TIMEOUT_S": "0.4", "WAHAFLEET_QR_TTL_S": "20"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        first = await stage.poll()
        with structlog.testing.capture_logs() as logs:
            # Held up for longer than Redis may take: it has answered, and nobody looked.
            for turns in range(4, 44, 4):
                polls = [asyncio.create_task(side.poll()) for side in (stage, there) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(0.5)  # noqa: ASYNC251 - that is the hold-up
                assert {body["qr"] for body in await asyncio.gather(*polls)} == {first["qr"]}
        assert [line for line in logs if line["event"] == "cache_away"] == []
        assert len(calls) == 1
        mortal.kill()
        for side in (stage, there, stage, there):
            assert (await side.poll())["qr"] == first["qr"]
        assert len(calls) == 1
        end(stage)


async def test_who_comes_late_to_a_flight_elsewhere_asks_for_nothing(
    start: Start,
    redis_url: str,
    simulators: InlineSimulators,
    tmp_path: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**patient) as one, start(**patient) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        # Looked for the code before the flight landed, and for the flight after what it brought was gone.
        flown, real = asyncio.Event(), two.app.state.services.cache.single_flight

        async def late(*given: Any, **more: Any) -> Any:
            await flown.wait()
            return await real(*given, **more)

        monkeypatch.setattr(two.app.state.services.cache, "single_flight", late)
        waiting = asyncio.create_task(there.poll())
        await asyncio.sleep(0.1)
        first = await stage.poll()
        await one.app.state.services.cache.delete(f"qr-flight:{stage.chip_id}")
        flown.set()
        assert (await waiting)["qr"] == first["qr"]
        assert len(calls) == 1
        end(stage)


async def test_a_changed_endpoint_is_dropped_from_redis(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path)
        await stage.poll()
        client = redis.Redis.from_url(redis_url)
        try:
            assert client.keys("wahafleet:endpoint:*")
            await running.daemon.saw(stage.person.id, phase="moving", endpoint=False)

            async def dropped() -> bool:
                return not client.keys("wahafleet:endpoint:*")

            await until(dropped)
        finally:
            client.close()
        end(stage)
