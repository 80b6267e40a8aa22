"""What passes keep for the plan: written when it says something new, and gone with its container."""

from __future__ import annotations

import msgspec

from core.domain.actions import ContainerStatus
from core.domain.desired import SpecHashes
from core.domain.looks import Look, StoredFact
from core.store.interface import Lease, Written
from tests.contract.store.harness import Harness

LOOK = Look(
    hashes=SpecHashes("s", "r"),
    variables_hash="v",
    renderable=True,
    release="rel",
    job=StoredFact(),
    allocations=StoredFact(value=()),
    evaluation=StoredFact(why="not_asked"),
    instances=StoredFact(value=()),
    sessions=StoredFact(why="waha_not_ready"),
    storage=StoredFact(why="not_asked"),
    peers=StoredFact(why="not_asked"),
)


async def see(harness: Harness, user: str, look: Look | None) -> Written:
    lease = await harness.store.claim(user, "d1", 60)
    assert isinstance(lease, Lease)
    written = await harness.store.write_status(lease, ContainerStatus(phase="placing"), {}, {}, 1, look=look)
    assert isinstance(written, Written)
    return written


async def test_a_look_is_kept_while_it_says_the_same(harness: Harness) -> None:
    user = await harness.user()
    await harness.container(user, pinned=True)
    assert await harness.look(user) is None
    await see(harness, user, LOOK)
    assert await harness.look(user) == LOOK
    before = await harness.container_columns(user)
    assert not (await see(harness, user, LOOK)).changed
    assert await harness.container_columns(user) == before  # nothing was written at all
    acted = msgspec.structs.replace(LOOK, acted=("RegisterJob",))
    assert not (await see(harness, user, acted)).changed  # no news to anybody
    assert await harness.look(user) == acted
    await see(harness, user, None)
    assert await harness.look(user) == acted
