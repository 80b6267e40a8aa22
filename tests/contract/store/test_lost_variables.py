"""Secrets that are gone from Nomad: noted under the lease of whoever sweeps."""

from __future__ import annotations

import pytest

from core.errors import StaleWrite
from core.store.interface import VARIABLES_LOST, Lease
from tests.contract.store.harness import Harness


async def _claimed(harness: Harness, key: str) -> Lease:
    lease = await harness.store.claim(key, "one", 60)
    assert isinstance(lease, Lease)
    return lease


async def _hashes(harness: Harness, *user_ids: str) -> list[str | None]:
    stored = {row.user_id: row.variables_hash for row in await harness.store.summaries()}
    loaded = []
    for user_id in user_ids:
        snapshot = await harness.store.load(user_id)
        assert snapshot is not None
        assert snapshot.container.variables_hash == stored[user_id]
        loaded.append(snapshot.container.variables_hash)
    return loaded


async def _users(harness: Harness, *hashes: str | None) -> list[str]:
    users = []
    for hash_ in hashes:
        user_id = await harness.user()
        await harness.container(user_id)
        lease = await _claimed(harness, user_id)
        if hash_ is not None:
            await harness.store.record_variables(lease, hash_)
        await harness.store.release(lease)
        users.append(user_id)
    return users


async def test_those_who_had_some_have_lost_them_and_nobody_else(harness: Harness) -> None:
    lost, kept, never = await _users(harness, "one", "other", None)
    fleet = await _claimed(harness, "fleet")
    nobody = "00000000-0000-4000-8000-000000000000"
    await harness.store.variables_lost(fleet, [never, lost, nobody])
    assert await _hashes(harness, lost, kept, never) == [VARIABLES_LOST, "other", None]
    await harness.store.variables_lost(fleet, [])
    again = await _claimed(harness, lost)
    await harness.store.record_variables(again, "one")
    assert await _hashes(harness, lost) == ["one"]


async def test_whoever_sweeps_no_more_notes_nothing(harness: Harness) -> None:
    (user,) = await _users(harness, "one")
    fleet = await _claimed(harness, "fleet")
    await harness.store.release(fleet)
    with pytest.raises(StaleWrite):
        await harness.store.variables_lost(fleet, [user])
    assert await _hashes(harness, user) == ["one"]
