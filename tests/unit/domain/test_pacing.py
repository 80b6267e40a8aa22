"""Start tokens: who may start now, and when everybody else may."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.pacing import (
    FLEET,
    LOOK_AGAIN_S,
    Ask,
    Bucket,
    Group,
    Limit,
    Pace,
    Waits,
    admit,
    estimate,
    host_key,
    in_order,
    provider_key,
    refilled,
    waits_of,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
PACE = Pace(fleet=Limit(5, 20), host=Limit(1, 10), provider=Limit(2, 20))


def ask(
    number: int, host: str = "a", provider: str | None = None, *, order: int = 20, down_s: float = 0
) -> Ask:
    return Ask(f"chip-{number:03}", host, provider, order, NOW - timedelta(seconds=down_s))


def buckets(**tokens: float) -> dict[str, Bucket]:
    keys = {"fleet": FLEET, "a": host_key("a"), "b": host_key("b"), "x": provider_key("x")}
    return {keys[name]: Bucket(left, NOW) for name, left in tokens.items()}


def granted(asks: list[Ask], ahead: dict[str, dict[Group, int]], stored: dict[str, Bucket]) -> list[str]:
    return list(admit(in_order(asks, NOW), ahead, stored, PACE, NOW).granted)


# --- buckets ------------------------------------------------------------------------------------------------
def test_a_bucket_fills_with_time_up_to_its_brim() -> None:
    half = Bucket(0.5, NOW)
    assert refilled(half, Limit(2, 4), NOW + timedelta(seconds=1)) == 2.5
    assert refilled(half, Limit(2, 4), NOW + timedelta(hours=1)) == 4
    assert refilled(half, Limit(2, 4), NOW - timedelta(hours=1)) == 0.5  # its clock was set back


def test_a_lone_user_with_ten_new_chips_does_not_notice() -> None:
    admission = admit(in_order([ask(n) for n in range(10)], NOW), {}, {}, Pace(), NOW)
    assert len(admission.granted) == 10
    assert admission.buckets == {FLEET: Bucket(10, NOW), host_key("a"): Bucket(0, NOW)}


def test_it_is_all_buckets_or_none() -> None:
    stored = buckets(fleet=5, a=0.4, x=5)
    admission = admit([ask(1, "a", "x")], {}, stored, PACE, NOW)
    assert (admission.granted, admission.buckets) == ((), {})
    assert granted([ask(1, "a", "x")], {}, buckets(fleet=5, a=5, x=0.4)) == []
    assert granted([ask(1, "a", "x")], {}, buckets(fleet=0.4, a=5, x=5)) == []
    written = admit([ask(1, "a", "x")], {}, buckets(fleet=5, a=5, x=5), PACE, NOW).buckets
    assert {key: bucket.tokens for key, bucket in written.items()} == {
        FLEET: 4,
        host_key("a"): 4,
        provider_key("x"): 4,
    }


# --- the line -----------------------------------------------------------------------------------------------
def test_the_plan_goes_first_then_who_waits_longest_then_the_id() -> None:
    asks = [ask(1, down_s=50), ask(2, order=0), ask(3, order=0, down_s=9), ask(5), ask(4)]
    assert [one.chip_id[-1] for one in in_order(asks, NOW)] == ["3", "2", "1", "4", "5"]
    assert granted(asks, {}, buckets(fleet=2)) == ["chip-003", "chip-002"]


def test_who_waits_since_now_says_so_and_nobody_waits_since_tomorrow() -> None:
    new = Ask("new", "a", None, 20, None)
    early = Ask("early", "a", None, 20, NOW + timedelta(hours=1))  # told by a clock that is ahead
    assert {one.waiting_since for one in in_order([new, early], NOW)} == {NOW}


def test_tokens_are_kept_for_those_ahead() -> None:
    line: dict[str, dict[Group, int]] = {"chip-001": {("b", None): 3}}
    assert granted([ask(1)], line, buckets(fleet=3)) == []
    assert granted([ask(1)], line, buckets(fleet=4)) == ["chip-001"]


def test_who_is_held_up_by_a_busy_host_holds_up_nobody_else() -> None:
    line: dict[str, dict[Group, int]] = {"chip-001": {("b", None): 50}, "chip-002": {("b", None): 50}}
    assert granted([ask(1, "a")], line, buckets(fleet=3, b=0.9)) == ["chip-001"]
    assert granted([ask(1, "a")], line, buckets(fleet=3, b=2)) == ["chip-001"]
    assert granted([ask(1, "a")], line, buckets(fleet=3, b=3)) == []
    assert granted([ask(2, "b")], line, buckets(fleet=9, b=9)) == []


def test_the_same_pass_stands_in_its_own_line() -> None:
    admission = admit([ask(n) for n in range(3)], {}, buckets(fleet=20, a=1), PACE, NOW)
    assert admission.granted == ("chip-000",)
    waits = waits_of([ask(1), ask(2)], {}, {}, admission, PACE)
    assert [wait.position for wait in waits.values()] == [1, 2]
    assert [wait.wait_s for wait in waits.values()] == pytest.approx([1.0, 2.0])


# --- estimates ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ahead", "tokens", "expected_s"),
    [
        ({}, {FLEET: 0.0}, 0.2),
        ({}, {FLEET: 0.0, host_key("a"): 0.0}, 1.0),
        ({("a", None): 9}, {host_key("a"): 0.0}, 10.0),
        # Eight other hosts let all of theirs through: the fleet's own bucket decides.
        ({(f"h{n}", None): 10 for n in range(8)}, {FLEET: 0.0}, 16.2),
        # Ten hosts that are empty themselves let through twice what the fleet may.
        ({(f"h{n}", None): 10 for n in range(10)}, {FLEET: 0.0, **{host_key(f"h{n}"): 0.0 for n in range(10)}}, 20.2),
        # One that is slow holds up only its own.
        ({("b", None): 500}, {FLEET: 0.0, host_key("b"): 0.0}, 0.25),
        ({(None, None): 10}, {FLEET: 0.0}, 2.2),
    ],
)  # fmt: skip
def test_estimates(ahead: dict[Group, int], tokens: dict[str, float], expected_s: float) -> None:
    assert estimate(ask(1), ahead, tokens, PACE) == pytest.approx(expected_s)


def test_a_provider_is_waited_for_too() -> None:
    tokens = {provider_key("x"): 0.0}
    assert estimate(ask(1, "a", "x"), {("b", "x"): 9}, tokens, PACE) == pytest.approx(5.0)
    assert estimate(ask(1, "a", "x"), {("b", "y"): 9}, tokens, PACE) == pytest.approx(0.5)


groups = st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "x"])), st.integers(1, 30))


@settings(max_examples=150)
@given(groups, st.integers(0, 20), st.integers(0, 10), st.sampled_from([None, "x"]))
def test_an_estimate_is_when_it_comes(
    line: dict[Group, int], fleet: int, hosts: int, via: str | None
) -> None:
    """Everybody ahead asks ten times a second, and so does the last one: it gets its token as it was told.

    Rounding to whole tokens, and tenths of seconds, may cost a second or two. Where a provider and the fleet hold
    up the line in turn, each counts as served what the other one held up: there it may come sooner.
    """
    stored = buckets(fleet=fleet, **dict.fromkeys("ab", hosts))
    last = ask(999, "a", via)
    first = admit([last], {last.chip_id: line}, stored, PACE, NOW)
    if first.granted:
        return
    told_s = waits_of([last], {last.chip_id: line}, {}, first, PACE)[last.chip_id].wait_s
    left, now, came_s = Counter(line), NOW, 0.0
    while True:
        for group in sorted(left, key=repr):
            one = ask(1, group[0] or "", group[1], down_s=900)
            while left[group] and (got := admit([one], {}, stored, PACE, now)).granted:
                stored |= got.buckets
                left[group] -= 1
        if admit([last], {last.chip_id: +left}, stored, PACE, now).granted:
            break
        now, came_s = now + timedelta(seconds=0.1), came_s + 0.1
    assert came_s <= told_s + 2.0 + 0.1 * came_s
    if via is None and {provider for _, provider in line} == {None}:
        assert told_s <= came_s + 2.0 + 0.1 * came_s


def test_nobody_asks_again_later_than_agreed_nor_at_once() -> None:
    assert Waits(1, 500).look_again_s == LOOK_AGAIN_S
    assert Waits(1, 0.0).look_again_s > 0.1
    assert NOW + timedelta(seconds=40) < Waits(1, 12).counts_until(NOW) <= NOW + timedelta(seconds=60)
