"""The fleet's pause as passes and the rollout read it: one contract, on PostgreSQL and in memory."""

from __future__ import annotations

from tests.contract.store.harness import Harness


async def test_everybody_reads_the_pause_until_it_ends(harness: Harness) -> None:
    user = await harness.user()
    await harness.container(user)

    async def seen() -> tuple[bool, bool]:
        snapshot = await harness.store.load(user)
        assert snapshot is not None
        return await harness.store.is_fleet_paused(), snapshot.fleet_paused

    assert await seen() == (False, False)
    async with harness.listening("intents") as heard:
        assert await harness.pause_fleet()
        assert await heard() == ["fleet"]
    assert await seen() == (True, True)
    assert not await harness.pause_fleet()
    assert await seen() == (True, True)
    assert await harness.pause_fleet(paused=False)
    assert await seen() == (False, False)
    assert not await harness.pause_fleet(paused=False)
