"""Whose turn it is."""

from __future__ import annotations

import asyncio

import pytest

from core.domain.actions import ContainerStatus
from core.domain.desired import Registered, SpecHashes, Tries
from core.domain.pacing import Pace
from core.errors import StaleWrite
from core.store.interface import Busy, Lease
from tests.contract.store.harness import Harness


async def _claimed(harness: Harness, key: str, owner: str = "one", ttl_s: float = 60) -> Lease:
    lease = await harness.store.claim(key, owner, ttl_s)
    assert isinstance(lease, Lease)
    return lease


async def test_a_free_key_is_claimed_and_then_busy_for_others(harness: Harness) -> None:
    lease = await _claimed(harness, "fleet")
    assert (lease.key, lease.owner, lease.token, lease.ttl_s) == ("fleet", "one", 1, 60)
    busy = await harness.store.claim("fleet", "two", 60)
    assert isinstance(busy, Busy)
    assert 59 < busy.retry_after_s <= 60


async def test_own_claim_again_raises_the_token_and_makes_the_older_lease_stale(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    first = await _claimed(harness, user_id)
    second = await _claimed(harness, user_id)
    assert second.token == first.token + 1
    with pytest.raises(StaleWrite):
        await harness.store.record_variables(first, "x")
    await harness.store.record_variables(second, "x")


async def test_of_many_claimers_at_once_one_wins(harness: Harness) -> None:
    for round_ in range(5):
        answers = await asyncio.gather(
            *(harness.store.claim(f"key-{round_}", f"owner-{n}", 60) for n in range(8))
        )
        assert sum(isinstance(answer, Lease) for answer in answers) == 1


async def test_of_many_claimers_of_an_expired_lease_one_wins(harness: Harness) -> None:
    lease = await _claimed(harness, "fleet", "dead")
    for token in range(2, 6):
        await harness.expire(lease)
        answers = await asyncio.gather(
            *(harness.store.claim("fleet", f"owner-{token}-{n}", 60) for n in range(8))
        )
        won = [answer for answer in answers if isinstance(answer, Lease)]
        assert [winner.token for winner in won] == [token]
        lease = won[0]


async def test_an_expired_lease_changes_hands_and_the_old_one_can_do_nothing(harness: Harness) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    old = await _claimed(harness, user_id, "old")
    await harness.expire(old)
    new = await _claimed(harness, user_id, "new")
    assert new.token > old.token
    store = harness.store
    assert await store.extend(old) is None
    assert await store.release(old) is None
    for write in (
        store.record_registered(old, Registered(SpecHashes("a", "b"), 1)),
        store.record_variables(old, "x"),
        store.take_starts(old, [], Pace(), {chip_id: Tries(1, 1)}),
        store.write_status(old, ContainerStatus(phase="ready"), {}, {}, 1),
        store.remove_chip(old, chip_id, 99),
        store.remove_container(old),
    ):
        with pytest.raises(StaleWrite):
            await write
    columns = await harness.container_columns(user_id)
    assert columns is not None
    assert (columns["phase"], columns["job_modify_index"], columns["variables_hash"]) == (
        "absent",
        None,
        None,
    )
    assert isinstance(await store.claim(user_id, "third", 60), Busy)


async def test_extending_keeps_the_token_and_the_key(harness: Harness) -> None:
    lease = await _claimed(harness, "fleet", ttl_s=5)
    await asyncio.sleep(0.02)
    longer = await harness.store.extend(lease)
    assert longer is not None
    assert (longer.token, longer.ttl_s) == (lease.token, 5)
    assert longer.ends_at > lease.ends_at
    busy = await harness.store.claim("fleet", "two", 5)
    assert isinstance(busy, Busy)
    assert busy.retry_after_s > 4.9


async def test_an_expired_lease_that_nobody_took_is_still_its_owners(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await _claimed(harness, user_id)
    await harness.expire(lease)
    await harness.store.record_variables(lease, "x")
    assert await harness.store.extend(lease) is not None
    assert isinstance(await harness.store.claim(user_id, "two", 60), Busy)


async def test_release_frees_the_key_and_ends_the_lease_for_good(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await _claimed(harness, user_id)
    assert await harness.store.release(lease) is not None
    # A heartbeat that was under way must not bring it back.
    assert await harness.store.extend(lease) is None
    with pytest.raises(StaleWrite):
        await harness.store.record_variables(lease, "x")
    again = await _claimed(harness, user_id, "two")
    assert again.token == lease.token + 1


async def test_release_tells_the_users_newest_generation(harness: Harness) -> None:
    user_id = await harness.user()
    first = await harness.chip(user_id)
    await harness.chip(user_id)
    lease = await _claimed(harness, user_id)
    wished = await harness.wish(first, "disconnected")
    assert await harness.store.release(lease) == wished
    lease = await _claimed(harness, user_id)
    await harness.chip(user_id)  # a new chip is news too, although its predecessors were wished more often
    assert (await harness.store.release(lease) or 0) > wished


async def test_release_of_a_key_that_is_no_user(harness: Harness) -> None:
    assert await harness.store.release(await _claimed(harness, "fleet")) == 0


async def test_a_short_life_ends_by_itself(harness: Harness) -> None:
    await _claimed(harness, "fleet", "one", ttl_s=0.05)
    for _ in range(100):
        answer = await harness.store.claim("fleet", "two", 60)
        if isinstance(answer, Lease):
            break
        assert isinstance(answer, Busy)
        assert answer.retry_after_s <= 0.05
        await asyncio.sleep(answer.retry_after_s)
    assert isinstance(answer, Lease)
    assert answer.token == 2
