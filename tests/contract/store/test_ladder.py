"""What the ladder needs of a store: consent, bans, releases, a chip's memory, and how others fare."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Breaker, Consent, Memory, Rhythm
from core.domain.facts import Group, Peers
from core.domain.routes import LabelWhy
from core.errors import NotFound
from core.store.interface import ChipRow, Lease
from tests.contract.store.harness import Harness
from tests.contract.store.test_status import CONNECTED, QR, READY, Scene, scene

__all__ = ["scene"]

FAILED = ChipStatus(phase="failed", status="DISCONNECTED", reason="reconnect_failed", waha_status="FAILED")
MEMORY = Memory(
    Breaker(
        starts=(datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC), datetime(2026, 1, 1, 12, 9, tzinfo=UTC)),
        open_until=datetime(2026, 1, 1, 12, 30, tzinfo=UTC),
        trips=(datetime(2026, 1, 1, 12, 9, tzinfo=UTC),),
        opened_generation=3,
    ),
    Rhythm(gap_s=720, restarts=(datetime(2026, 1, 1, 9, tzinfo=UTC),)),
)


async def stored(scene: Scene) -> ChipRow:
    snapshot = await scene.store.load(scene.user_id)
    assert snapshot is not None
    return snapshot.chips[0]


async def test_consent_belongs_to_the_newest_wish_alone(scene: Scene) -> None:
    assert (await stored(scene)).consent is Consent.NONE
    await scene.harness.reconnect(scene.chip_id)
    assert (await stored(scene)).consent is Consent.PRESS
    await scene.harness.reconnect(scene.chip_id, fresh=True)
    assert (await stored(scene)).consent is Consent.FRESH
    await scene.harness.disconnect(scene.chip_id)
    assert (await stored(scene)).consent is Consent.NONE


async def test_a_press_on_what_is_under_way_consents_to_nothing(scene: Scene) -> None:
    await scene.see(CONNECTED)
    before = await scene.chip()
    await scene.harness.reconnect(scene.chip_id, fresh=True)
    assert await scene.chip() == before


async def test_memory_is_kept_and_loaded_as_it_was_written(scene: Scene) -> None:
    assert (await stored(scene)).memory == Memory()
    await scene.see(msgspec.structs.replace(CONNECTED, memory=MEMORY))
    assert (await stored(scene)).memory == MEMORY
    # A pass that a newer wish overtook still knows what it did.
    more = msgspec.structs.replace(MEMORY, rhythm=Rhythm(gap_s=900))
    await scene.harness.disconnect(scene.chip_id)
    await scene.see(msgspec.structs.replace(CONNECTED, memory=more), generation=1)
    assert (await stored(scene)).memory == more
    assert (await scene.chip())["phase"] == "connected"


async def test_the_first_connection_that_a_wish_sees_is_a_new_one(scene: Scene) -> None:
    await scene.see(CONNECTED)
    first = (await scene.chip())["connected_at"]
    await scene.see(CONNECTED)
    assert (await scene.chip())["connected_at"] == first
    await scene.harness.disconnect(scene.chip_id)
    await scene.harness.reconnect(scene.chip_id, fresh=True)
    await scene.see(CONNECTED)  # it never went away: the consent is spent all the same
    row = await stored(scene)
    assert row.connected_at is not None
    assert row.connected_at > row.intent_at > first


async def test_a_ban_stands_until_it_is_lifted_and_buys_nothing(scene: Scene) -> None:
    before = await scene.chip()
    assert await scene.harness.ban(scene.chip_id) is True
    assert await scene.harness.ban(scene.chip_id) is False
    assert (await stored(scene)).banned
    assert await scene.harness.ban(scene.chip_id, banned=False) is True
    assert not (await stored(scene)).banned
    after, container = await scene.chip(), await scene.container()
    assert after["generation"] == before["generation"]
    assert container["generation"] == before["generation"] + 2
    events = await scene.harness.events(scene.chip_id)
    assert sorted(event.code for event in events) == ["ban_lifted", "ban_set"]
    assert all(event.extra_data == {"by": "ana"} for event in events)


async def test_a_release_needs_a_quarantine_and_is_newer_than_it(scene: Scene) -> None:
    assert await scene.harness.release(scene.chip_id) is False
    generation = (await scene.chip())["generation"]
    held = Memory(Breaker(quarantined_generation=generation))
    await scene.see(ChipStatus(phase="quarantined", status="ERROR", reason="quarantined", memory=held))
    assert await scene.harness.release(scene.chip_id) is True
    assert (await stored(scene)).released_generation > generation
    assert await scene.harness.release(scene.chip_id) is False
    assert (await scene.chip())["generation"] == generation


async def test_nobody_bans_or_releases_what_is_gone(scene: Scene) -> None:
    await scene.harness.wish(scene.chip_id, "deleted")
    for call in (scene.harness.ban, scene.harness.release):
        with pytest.raises(NotFound):
            await call(scene.chip_id)


async def beside(harness: Harness, container: ContainerStatus, *chips: ChipStatus) -> None:
    """Another user whose chips were all connected before they came to stand as given."""
    user_id = await harness.user()
    ids = [await harness.chip(user_id) for _ in chips]
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    snapshot = await harness.store.load(user_id)
    assert snapshot is not None
    generations = {chip.id: chip.generation for chip in snapshot.chips}
    away = msgspec.structs.replace(container, placed=None, endpoint=None, port=None, address=None)
    for seen in ([CONNECTED] * len(chips), chips):
        told = dict(zip(ids, seen, strict=True))
        await harness.store.write_status(lease, away, told, generations, 1)


async def test_peers_are_the_paired_chips_of_others_here_and_everywhere(scene: Scene) -> None:
    await scene.see(FAILED)  # one's own chips are no peers
    store, nobody = scene.store, Peers()
    assert await store.peers(scene.user_id, 900) == nobody
    elsewhere = msgspec.structs.replace(READY, node_name="host-9")
    retrying = ChipStatus(phase="retrying", status="CONNECTING", waha_status="FAILED")
    gone = msgspec.structs.replace(FAILED, unlinked_generation=1)
    await beside(scene.harness, READY, CONNECTED, FAILED, gone)
    await beside(scene.harness, elsewhere, CONNECTED, CONNECTED, retrying)
    assert await store.peers(scene.user_id, 900) == Peers(host=Group(1, 1, 1), engine=Group(2, 2, 3))
    assert await store.peers(scene.user_id, 0) == Peers(host=Group(1, 0, 1), engine=Group(2, 0, 3))


async def test_peers_through_a_provider_have_a_live_label_of_it(scene: Scene) -> None:
    harness, store = scene.harness, scene.store
    await harness.provider("local")
    await harness.provider("spare", is_default=False)
    for slug in ("local", "spare"):
        await harness.sub_user(slug, "ana")
    labelled = ((scene.lease, scene.chip_id), *[await _beside_failed(harness) for _ in range(3)])
    for lease, chip_id in labelled[:3]:
        await store.assign_label(lease, chip_id, LabelWhy.FIRST)
    assert (await store.peers(scene.user_id, 900)).provider == Group(2, 2, 0)
    await store.release_label(*labelled[1])
    assert (await store.peers(scene.user_id, 900)).provider == Group(1, 1, 0)
    await harness.change_provider("local", enabled=False, is_default=False)
    await harness.change_provider("spare", is_default=True)
    await store.assign_label(*labelled[2], LabelWhy.MOVED)
    assert (await store.peers(scene.user_id, 900)) == Peers(
        host=Group(), engine=Group(3, 3, 0), provider=Group()
    )


async def _beside_failed(harness: Harness) -> tuple[Lease, str]:
    """A chip of another user on another host, which was connected and failed."""
    user_id = await harness.user()
    chip_id = await harness.chip(user_id)
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    away = msgspec.structs.replace(
        READY, placed=None, endpoint=None, port=None, address=None, node_name="h-9"
    )
    snapshot = await harness.store.load(user_id)
    assert snapshot is not None
    generations = {chip.id: chip.generation for chip in snapshot.chips}
    for seen in (CONNECTED, FAILED):
        await harness.store.write_status(lease, away, {chip_id: seen}, generations, 1)
    return lease, chip_id


async def test_a_chip_without_a_qr_yet_is_nobodys_peer(scene: Scene) -> None:
    user_id = await scene.harness.user()
    chip_id = await scene.harness.chip(user_id)
    lease = await scene.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    away = msgspec.structs.replace(READY, placed=None, endpoint=None, port=None, address=None)
    for seen in (QR, FAILED):
        await scene.store.write_status(lease, away, {chip_id: seen}, {chip_id: 1}, 1)
    assert await scene.store.peers(scene.user_id, 900) == Peers()
