"""A claim for news that another owner has answered since: nothing is left to look at."""

from __future__ import annotations

import asyncio

import pytest

from core.store.interface import Answered, Busy, Lease
from tests.contract.store.harness import Harness

LONG_AGO_S = 3600.0


async def _looked(harness: Harness, key: str, owner: str, *, looked: bool = True) -> None:
    lease = await harness.store.claim(key, owner, 60)
    assert isinstance(lease, Lease)
    await harness.store.release(lease, looked=looked)


async def test_news_older_than_anothers_look_are_answered(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    await _looked(harness, user_id, "one")
    for _ in range(2):
        answer = await harness.store.claim(user_id, "two", 60, news_age_s=LONG_AGO_S)
        assert isinstance(answer, Answered)
    claimed = await harness.store.claim(user_id, "two", 60)
    assert isinstance(claimed, Lease)
    assert claimed.token == 2  # the answered claims changed nothing


async def test_news_that_came_after_the_look_began_are_not_answered_by_it(harness: Harness) -> None:
    user_id = await harness.user()
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    await asyncio.sleep(0.05)
    await harness.store.release(lease, looked=True)
    # It began 50 ms ago, so it may have looked before what happened 10 ms ago.
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=0.01), Lease)


@pytest.mark.parametrize("news_age_s", [None, 0.0, LONG_AGO_S])
async def test_own_looks_answer_nothing(harness: Harness, news_age_s: float | None) -> None:
    # What came while it looked is kept by its own queue, which knows better than any clock.
    user_id = await harness.user()
    await _looked(harness, user_id, "one")
    assert isinstance(await harness.store.claim(user_id, "one", 60, news_age_s=news_age_s), Lease)


async def test_a_look_that_did_not_see_everything_answers_nothing(harness: Harness) -> None:
    user_id = await harness.user()
    await _looked(harness, user_id, "one", looked=False)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=LONG_AGO_S), Lease)


async def test_a_look_under_way_is_busy_until_it_ends_and_an_earlier_one_still_answers(
    harness: Harness,
) -> None:
    user_id = await harness.user()
    first = await harness.store.claim(user_id, "one", 60)
    assert isinstance(first, Lease)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=LONG_AGO_S), Busy)
    await harness.store.release(first, looked=True)
    again = await harness.store.claim(user_id, "one", 60)
    assert isinstance(again, Lease)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=LONG_AGO_S), Answered)
    # Never released: what it saw nobody knows, and the look before it began before these news.
    await asyncio.sleep(0.02)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=0.001), Busy)
    await harness.expire(again)
    assert isinstance(await harness.store.claim(user_id, "two", 60, news_age_s=0.001), Lease)


async def test_a_lost_lease_answers_nothing(harness: Harness) -> None:
    user_id = await harness.user()
    old = await harness.store.claim(user_id, "one", 60)
    assert isinstance(old, Lease)
    await harness.expire(old)
    new = await harness.store.claim(user_id, "two", 60)
    assert isinstance(new, Lease)
    assert await harness.store.release(old, looked=True) is None
    await harness.store.release(new)
    assert isinstance(await harness.store.claim(user_id, "three", 60, news_age_s=LONG_AGO_S), Lease)
