"""Starts wait for their tokens: what is sent, what is told, and when the next look is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.domain.pacing import FLEET, Bucket, Limit, Pace
from core.errors import Unavailable
from tests.unit.daemon.system import C1, C2, U1, Daemon, World, scenario

C3 = "00000000-0000-0000-0000-000000000103"
SLOW = Pace(fleet=Limit(0.1, 1), host=Limit(0.1, 1))


async def passes_until(w: World, daemon: Daemon, phase: tuple[str, str | None]) -> float | None:
    """When the last of them wants the next look."""
    for _ in range(60):
        end = await daemon.one_pass()
        if w.phase() == phase:
            return end.again_in_s
        await asyncio.sleep(0.2)
    raise AssertionError(w.phase())


def empty(w: World) -> None:
    w.store.buckets[FLEET] = Bucket(0.0, w.clock.now())


@scenario
async def test_who_gets_no_token_is_told_when_and_keeps_its_tries(w: World) -> None:
    daemon = Daemon(w, pace=SLOW)
    w.store.add_chip(U1, C1)
    await passes_until(w, daemon, ("qr", None))
    w.store.buckets.clear()
    for chip_id in (C2, C3):
        w.store.add_chip(U1, chip_id)
    end = await daemon.one_pass()
    assert w.phase(C2) == ("creating", None)
    row = w.store.chip(C3)
    assert row is not None
    assert (row.phase, row.reason, row.status) == ("queued", "paced", "WAITING_QR")
    assert row.observed.tries.last_at is None
    assert row.observed.starts_at is not None
    assert 9 < (row.observed.starts_at - w.clock.now()).total_seconds() <= 11
    assert end.again_in_s is not None
    assert end.again_in_s <= 2.0, "the chip that started is looked at as always"
    await asyncio.sleep(5)
    revision, told = row.revision, row.observed.starts_at
    await daemon.one_pass()
    assert w.phase(C3) == ("queued", "paced")
    assert (row.revision, row.observed.starts_at) == (revision, told), "it has hardly moved: polls stay 304"
    await asyncio.sleep(5.5)
    await daemon.one_pass()
    assert w.phase(C3) == ("creating", None)
    assert row.observed.starts_at is None


@scenario
async def test_a_user_whose_chips_all_wait_is_not_looked_at_before_their_time(w: World) -> None:
    daemon = Daemon(w, pace=SLOW)
    w.store.add_chip(U1, C1)
    empty(w)
    soon_s = await passes_until(w, daemon, ("queued", "paced"))
    assert soon_s is not None
    assert 2.0 < soon_s <= 10.0
    empty(w)
    w.store.buckets[FLEET] = Bucket(-20.0, w.clock.now())
    assert (await daemon.one_pass()).again_in_s == pytest.approx(30.0)
    samples = [sample for metric in daemon.metrics.registry.collect() for sample in metric.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert values["wahafleet_start_line",] == 1
    assert values["wahafleet_start_tokens",] < 1
    assert values["wahafleet_starts_total", "paced"] == 2
    await asyncio.sleep(30)
    empty(w)
    await asyncio.sleep(10.1)
    await daemon.one_pass()
    samples = [sample for metric in daemon.metrics.registry.collect() for sample in metric.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert values["wahafleet_starts_total", "granted"] == 1
    assert values["wahafleet_start_wait_seconds_sum",] == pytest.approx(40.1, abs=3)


@scenario
async def test_a_running_daemon_starts_who_waited_without_any_news(w: World) -> None:
    daemon = Daemon(w, pace=SLOW)
    w.store.add_chip(U1, C1)
    w.store.buckets[FLEET] = Bucket(-4.0, w.clock.now())
    async with daemon.running():
        daemon.queue.put(U1)
        took_s = await w.until(lambda: w.phase() == ("qr", None), 90)
    assert 48 <= took_s <= 60


@scenario
async def test_without_the_store_nothing_starts(w: World) -> None:
    async def away(*_arguments: Any) -> None:
        raise Unavailable("postgres", "down")

    daemon = Daemon(w)
    w.store.add_chip(U1, C1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(w.store, "take_starts", away)
        with pytest.raises(Unavailable):
            await passes_until(w, daemon, ("creating", None))
    assert not [call for call in w.faults.calls if call.startswith("waha.create")]
    row = w.store.chip(C1)
    assert row is not None
    assert row.observed.tries.last_at is None
