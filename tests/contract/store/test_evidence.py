"""What passes saw is kept when it says something new, and costs nothing while it does not."""

from __future__ import annotations

import msgspec
import pytest

from core.domain.evidence import AllocationSeen, CheckSeen, EventSeen, Evidence, JobSeen, SessionSeen
from core.errors import StaleWrite
from core.store.interface import Lease, PortTaken
from tests.contract.store.harness import Harness, Kept
from tests.contract.store.test_status import ALL, ALLOCATION, QR, READY, Scene
from tests.contract.store.test_status import scene as scene  # the fixture
from tests.world_rows import START

STARTING = SessionSeen("STARTING", False)


def seen(chip_id: str, session: SessionSeen = STARTING) -> Evidence:
    return Evidence(
        job=JobSeen(7, "running"),
        allocations=(
            AllocationSeen(
                ALLOCATION, "host-1", "run", "running", START, 1, (EventSeen("Started", "ok ✓", START),)
            ),
        ),
        checks=(CheckSeen(ALLOCATION, "10.0.0.1", 3100, passing=True),),
        sessions={chip_id: session},
        databases=2,
        answers=True,
    )


async def kept(scene: Scene) -> Kept:
    found = await scene.harness.kept(scene.user_id)
    assert found is not None
    return found


async def test_without_evidence_none_is_kept(scene: Scene) -> None:
    await scene.see(QR)
    assert await scene.harness.kept(scene.user_id) is None


async def test_what_was_seen_is_kept_as_it_was(scene: Scene) -> None:
    evidence = seen(scene.chip_id)
    await scene.see(QR, evidence=evidence)
    found = (await kept(scene)).evidence
    trail = found.sessions[scene.chip_id].trail
    assert [word.status for word in trail] == ["STARTING"]
    assert msgspec.structs.replace(found, sessions=evidence.sessions) == evidence


async def test_the_same_again_writes_nothing_and_is_no_news(scene: Scene) -> None:
    await scene.see(QR, evidence=seen(scene.chip_id))
    before = await kept(scene), await scene.container(), await scene.chip()
    written = await scene.see(QR, evidence=seen(scene.chip_id))
    assert not written.changed
    assert (await kept(scene), await scene.container(), await scene.chip()) == before


async def test_evidence_alone_is_no_news_and_moves_no_status(scene: Scene) -> None:
    await scene.see(QR, evidence=seen(scene.chip_id))
    before, chip = await kept(scene), await scene.chip()
    written = await scene.see(QR, evidence=seen(scene.chip_id, SessionSeen("SCAN_QR_CODE", False)))
    assert not written.changed
    after = await kept(scene)
    assert after.observed_at > before.observed_at
    assert [word.status for word in after.evidence.sessions[scene.chip_id].trail] == [
        "STARTING",
        "SCAN_QR_CODE",
    ]
    assert await scene.chip() == chip


async def test_what_an_outage_hides_stays_as_it_was_last_seen(scene: Scene) -> None:
    await scene.see(QR, evidence=seen(scene.chip_id))
    before = (await kept(scene)).evidence
    await scene.see(QR, evidence=Evidence(away={"nomad": "dependency_nomad"}))
    after = (await kept(scene)).evidence
    assert after.away == {"nomad": "dependency_nomad"}
    assert (after.job, after.allocations, after.sessions) == (before.job, before.allocations, before.sessions)
    await scene.see(QR, evidence=seen(scene.chip_id))
    assert (await kept(scene)).evidence == before


async def test_nobody_writes_it_without_the_lease(scene: Scene) -> None:
    await scene.see(QR, evidence=seen(scene.chip_id))
    before = await kept(scene)
    await scene.harness.expire(scene.lease)
    assert isinstance(await scene.store.claim(scene.user_id, "two", 60), Lease)
    with pytest.raises(StaleWrite):
        await scene.see(QR, evidence=Evidence())
    assert await kept(scene) == before


async def test_a_status_that_is_refused_for_its_port_keeps_none(scene: Scene) -> None:
    await scene.see(QR)
    harness = scene.harness
    other = await harness.user()
    await harness.container(other)
    lease = await harness.store.claim(other, "one", 60)
    assert isinstance(lease, Lease)
    assert READY.placed is not None
    taken = msgspec.structs.replace(
        READY,
        placed=msgspec.structs.replace(READY.placed, allocation_id=other),
        allocation_id=other,
        endpoint=None,
    )
    answer = await harness.store.write_status(lease, taken, {}, {}, 1, evidence=seen(scene.chip_id))
    assert isinstance(answer, PortTaken)
    assert await harness.kept(other) is None


async def test_it_goes_with_its_container(scene: Scene, harness: Harness) -> None:
    await scene.see(QR, evidence=seen(scene.chip_id))
    await harness.wish(scene.chip_id, "deleted")
    await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)
    assert await scene.store.remove_container(scene.lease) is True
    assert await harness.kept(scene.user_id) is None
