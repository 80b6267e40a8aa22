"""The rule of limits: exact in any window, honest about the wait, generous to nobody."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.limits import SLOTS, Counter, Limit, Taken, give_back, slot_length_ms, take

pytestmark = pytest.mark.hypothesis

limits = st.builds(
    Limit,
    name=st.just("x"),
    most=st.integers(1, 40),
    window_s=st.sampled_from([1, 12, 60, 900]),
    batch=st.integers(1, 20),
)
# In thousandths of the window, so that stories of any window look alike.
steps = st.lists(st.integers(0, 400), min_size=1, max_size=80)
starts = st.integers(0, 10**12)


def tries(limit: Limit, start: int, gaps: list[int]) -> list[tuple[int, Taken]]:
    """Who asks after each gap, and what comes of it."""
    counter, told = Counter(), []
    for now in itertools.accumulate((gap * limit.window_s for gap in gaps), initial=start):
        taken = take(counter, limit, now)
        counter = taken.counter
        told.append((now, taken))
    return told


@given(limits, starts, steps)
def test_no_window_holds_more_than_the_limit(limit: Limit, start: int, gaps: list[int]) -> None:
    told = [(now, taken.granted) for now, taken in tries(limit, start, gaps)]
    for end, _ in told:
        inside = sum(count for now, count in told if end - limit.window_s * 1000 < now <= end)
        assert inside <= limit.most


@given(limits, starts, steps)
def test_waiting_as_long_as_told_is_enough_and_never_endless(
    limit: Limit, start: int, gaps: list[int]
) -> None:
    for now, taken in tries(limit, start, gaps):
        if taken.granted:
            assert taken.after_ms == 0
            continue
        assert 0 < taken.after_ms <= limit.window_s * 1000 + slot_length_ms(limit)
        assert take(taken.counter, limit, now + taken.after_ms).granted > 0
        assert take(taken.counter, limit, now + taken.after_ms - 1).granted == 0


@given(limits, starts, steps, st.integers(1, 5))
def test_processes_that_take_batches_grant_one_batch_each_too_much_at_most(
    limit: Limit, start: int, gaps: list[int], processes: int
) -> None:
    counter = Counter()
    stock = [0] * processes
    let_in: list[int] = []
    for number, now in enumerate(itertools.accumulate((gap * limit.window_s for gap in gaps), initial=start)):
        mine = number % processes
        if not stock[mine]:
            taken = take(counter, limit, now)
            counter, stock[mine] = taken.counter, taken.granted
        if stock[mine]:
            stock[mine] -= 1
            let_in.append(now)
    for end in let_in:
        inside = sum(1 for now in let_in if end - limit.window_s * 1000 < now <= end)
        assert inside <= limit.most + processes * limit.batch


@given(limits, starts, steps)
def test_what_is_given_back_can_be_taken_again(limit: Limit, start: int, gaps: list[int]) -> None:
    now, taken = tries(limit, start, gaps)[-1]
    counter = taken.counter
    while counter.slots:
        assert all(count > 0 for _, count in counter.slots)
        counter = give_back(counter)
    assert give_back(counter) == Counter()
    assert take(counter, limit, now).granted > 0


def test_who_keeps_to_the_limit_is_never_refused() -> None:
    limit = Limit("read", 600, 60, batch=20)
    # A twelfth less than the limit: the slot that is leaving counts whole.
    gap_ms = 60_000 / (600 * SLOTS / (SLOTS + 1))
    counter = Counter()
    left = 0
    for number in range(5_000):
        if not left:
            taken = take(counter, limit, int(number * gap_ms))
            counter, left = taken.counter, taken.granted
        assert left > 0, number
        left -= 1


def test_a_burst_gets_the_whole_limit_and_not_one_more() -> None:
    limit = Limit("write", 60)
    counter = Counter()
    for _ in range(60):
        counter = take(counter, limit, 1_000).counter
    refused = take(counter, limit, 1_000)
    assert refused.granted == 0
    assert refused.after_ms == 64_000  # from the end of the slot that began at 0
