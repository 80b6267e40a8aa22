"""A status write that frees its key: with what it wrote, or not at all."""

from __future__ import annotations

import msgspec
import pytest

from core.domain.actions import ContainerStatus
from core.errors import StaleWrite
from core.store.interface import Answered, Busy, Lease, PortTaken, Release, Written
from tests.contract.store.harness import Harness
from tests.contract.store.test_placements_and_ports import running
from tests.contract.store.test_status import QR

LONG_AGO_S = 3600.0
BOOTING = ContainerStatus(phase="booting")


async def claimed(harness: Harness, user_id: str, owner: str = "one") -> Lease:
    lease = await harness.store.claim(user_id, owner, 60)
    assert isinstance(lease, Lease)
    return lease


@pytest.mark.parametrize(("release", "answered"), [(Release.LOOKED, True), (Release.UNLOOKED, False)])
async def test_the_key_is_free_and_its_late_writes_are_stale(
    harness: Harness, release: Release, answered: bool
) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    status = running(1)  # moves the placement and opens an entry too
    written = await harness.store.write_status(lease, status, {chip_id: QR}, {chip_id: 1}, 1, release=release)
    assert isinstance(written, Written)
    stored = await harness.container_columns(user_id)
    assert stored is not None
    assert (written.released, written.generation) == (True, stored["generation"])
    with pytest.raises(StaleWrite):
        await harness.store.write_status(lease, BOOTING, {}, {}, 1)
    assert await harness.store.extend(lease) is None
    assert await harness.store.release(lease) is None
    for_old_news = await harness.store.claim(user_id, "two", 60, news_age_s=LONG_AGO_S)
    assert isinstance(for_old_news, Answered) is answered
    assert (await claimed(harness, user_id, "two")).token > lease.token


async def test_a_write_without_release_keeps_the_key(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await claimed(harness, user_id)
    written = await harness.store.write_status(lease, BOOTING, {}, {}, 1)
    assert isinstance(written, Written)
    assert not written.released
    assert isinstance(await harness.store.claim(user_id, "two", 60), Busy)


async def test_a_write_that_finds_nothing_to_change_leaves_the_key_to_its_release(harness: Harness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await claimed(harness, user_id)
    await harness.store.write_status(lease, BOOTING, {}, {}, 1)
    again = await harness.store.write_status(lease, BOOTING, {}, {}, 1, release=Release.LOOKED)
    assert isinstance(again, Written)
    assert not again.released
    assert isinstance(await harness.store.claim(user_id, "two", 60), Busy)
    assert await harness.store.release(lease, looked=True) is not None


async def test_a_wish_that_came_since_the_look_is_told_with_the_release(harness: Harness) -> None:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await claimed(harness, user_id)
    newest = await harness.wish(chip_id, "disconnected")
    written = await harness.store.write_status(
        lease, BOOTING, {chip_id: QR}, {chip_id: 1}, 1, release=Release.LOOKED
    )
    assert isinstance(written, Written)
    assert (written.released, written.generation) == (True, newest)


async def test_a_taken_port_frees_nothing(harness: Harness) -> None:
    first, second = await harness.user(), await harness.user()
    leases = []
    for user_id in (first, second):
        await harness.container(user_id)
        leases.append(await claimed(harness, user_id))
    await harness.store.write_status(leases[0], running(1), {}, {}, 1)
    taken = await harness.store.write_status(leases[1], running(2), {}, {}, 1, release=Release.LOOKED)
    assert isinstance(taken, PortTaken)
    assert await harness.store.extend(leases[1]) is not None
    other = msgspec.structs.replace(leases[1], owner="somebody else")
    with pytest.raises(StaleWrite):
        await harness.store.write_status(other, BOOTING, {}, {}, 1, release=Release.LOOKED)
    assert await harness.store.extend(leases[1]) is not None
