"""Webhook envelopes, signatures and retries."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.waha.hashing import hmac_sha512_hex, sha512_hex
from sandbox.waha.settings import RetryPolicy
from sandbox.waha.webhooks import new_event_id

from .conftest import World

MakeWorld = Callable[..., World]


@given(key=st.binary(max_size=300), data=st.binary(max_size=500))
def test_hashes_agree_with_the_standard_library(key: bytes, data: bytes) -> None:
    assert hmac_sha512_hex(key, data) == hmac.new(key, data, hashlib.sha512).hexdigest()
    assert sha512_hex(data) == hashlib.sha512(data).hexdigest()


def test_event_ids_are_lower_case_ulids_in_order() -> None:
    ids = [new_event_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(re.fullmatch(r"evt_[0-7][0-9a-hjkmnp-tv-z]{25}", one) for one in ids)
    assert [one[:14] for one in ids] == sorted(one[:14] for one in ids)


def test_the_envelope_says_everything_once(make_world: MakeWorld) -> None:
    world = make_world(WHATSAPP_HOOK_HMAC_KEY="hook-key")
    world.create(config={"metadata": {"user": "42"}})
    world.timers.advance(1)
    world.scan()
    delivery = world.poster.deliveries[-1]
    envelope = delivery.envelope
    assert envelope["event"] == "session.status"
    assert envelope["session"] == "chip_1"
    assert envelope["metadata"] == {"user": "42"}
    assert envelope["me"]["id"].endswith("@c.us")
    assert envelope["engine"] == "GOWS"
    assert envelope["environment"]["worker"] == {"id": "u1"}
    assert [s["status"] for s in envelope["payload"]["statuses"]] == ["STARTING", "SCAN_QR_CODE", "WORKING"]
    assert envelope["payload"]["data"] is None
    assert envelope["timestamp"] > 1_700_000_000_000
    headers = delivery.headers
    assert headers["X-Webhook-Hmac"] == hmac.new(b"hook-key", delivery.raw, hashlib.sha512).hexdigest()
    assert headers["X-Webhook-Hmac-Algorithm"] == "sha512"
    assert headers["X-Webhook-Timestamp"].isdigit()
    assert headers["X-Webhook-Request-Id"]
    assert headers["User-Agent"] == "WAHA/2026.7.1"


def test_only_the_last_three_statuses_are_told(world: World) -> None:
    world.create()
    world.timers.advance(200)
    statuses = world.poster.deliveries[-1].envelope["payload"]["statuses"]
    assert [one["status"] for one in statuses] == ["SCAN_QR_CODE", "SCAN_QR_CODE", "FAILED"]


def test_without_a_key_nothing_is_signed(world: World) -> None:
    world.create()
    assert "X-Webhook-Hmac" not in world.poster.deliveries[0].headers


def test_a_session_has_hooks_of_its_own(world: World) -> None:
    hook = {
        "url": "http://127.0.0.1:2/own",
        "events": ["session.status"],
        "hmac": {"key": "own-key"},
        "customHeaders": [{"name": "X-Mine", "value": "yes"}],
    }
    other = {"url": "http://127.0.0.1:2/other", "events": ["message"]}
    world.create(config={"webhooks": [hook, other]})
    assert [one.url for one in world.poster.deliveries] == ["http://127.0.0.1:1/hook", hook["url"]]
    own = world.poster.deliveries[1]
    assert own.headers["X-Mine"] == "yes"
    assert own.headers["X-Webhook-Hmac"] == hmac.new(b"own-key", own.raw, hashlib.sha512).hexdigest()
    assert own.envelope["id"] == world.poster.deliveries[0].envelope["id"]


@pytest.mark.parametrize("events", ["", "message"])
def test_a_global_hook_gets_only_its_events(make_world: MakeWorld, events: str) -> None:
    world = make_world(WHATSAPP_HOOK_EVENTS=events)
    world.create()
    assert world.poster.deliveries == []


def test_a_failed_delivery_is_repeated_with_the_same_id_until_it_is_taken(world: World) -> None:
    world.poster.status = 503
    world.create(start=False)
    world.run(world.simulator.start("chip_1"))
    (first,) = world.poster.deliveries
    world.timers.advance(0.2)
    world.poster.status = None
    world.timers.advance(2)
    world.poster.status = 200
    world.timers.advance(20)
    again = [one for one in world.poster.deliveries if one.envelope["id"] == first.envelope["id"]]
    assert len(again) == 3
    assert len({one.raw for one in again}) == 1
    assert len({one.headers["X-Webhook-Request-Id"] for one in again}) == 3


def test_a_delivery_is_given_up_after_its_attempts(world: World) -> None:
    world.poster.status = 500
    world.create(start=False)
    world.run(world.simulator.start("chip_1"))
    first = world.poster.deliveries[0].envelope["id"]
    world.timers.advance(50)
    assert [one.envelope["id"] for one in world.poster.deliveries].count(first) == 4
    assert any("webhook_lost" in line for line in world.lines)


def test_a_kill_loses_what_waits(world: World) -> None:
    world.poster.status = 500
    world.create()
    world.simulator.abandon()
    sent = len(world.poster.deliveries)
    world.timers.advance(100)
    assert len(world.poster.deliveries) == sent


def test_events_are_lost_doubled_and_late_when_told_to(world: World) -> None:
    outbox = world.simulator.outbox
    outbox.plan_accidents("drop", 1, 0)
    world.create()
    assert world.heard() == []
    outbox.plan_accidents("duplicate", 1, 0)
    world.timers.advance(1)
    assert world.heard() == ["SCAN_QR_CODE", "SCAN_QR_CODE"]
    assert len({delivery.envelope["id"] for delivery in world.poster.deliveries}) == 1
    outbox.plan_accidents("delay", 1, 5)
    world.run(world.simulator.restart("chip_1"))
    world.timers.advance(10)
    assert world.heard()[2:] == ["STARTING", "SCAN_QR_CODE", "STOPPED"]


def test_a_kill_loses_late_events(world: World) -> None:
    world.simulator.outbox.plan_accidents("delay", 1, 5)
    world.create()
    world.simulator.abandon()
    world.timers.advance(10)
    assert world.heard() == []


def test_a_hook_that_does_not_answer_holds_nothing_up(world: World) -> None:
    world.poster.status = 0
    world.create()
    world.timers.advance(1)
    world.scan()
    assert world.status() == "WORKING"
    assert world.simulator.outbox.in_flight == 3


@pytest.mark.parametrize(
    ("policy", "waits"),
    [("constant", [2, 2, 2, 2]), ("linear", [2, 4, 6, 8]), ("exponential", [2, 4, 8, 16])],
)
def test_policies_wait_as_long_as_their_names_say(policy: str, waits: list[float]) -> None:
    retries = RetryPolicy(policy, 2, 15)
    assert [retries.wait(attempt, 0) for attempt in (1, 2, 3, 4)] == waits
    assert retries.wait(3, 1) == pytest.approx(waits[2] * (1.2 if policy == "exponential" else 1))
