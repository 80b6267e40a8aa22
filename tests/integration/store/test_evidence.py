"""Evidence that another version of the daemon kept."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actions import ContainerStatus
from core.domain.evidence import Evidence, JobSeen
from core.store.engine import transaction
from core.store.interface import Lease, Written
from core.store.queries import read_story
from tests.contract.store.harness import PostgresHarness

SEEN = Evidence(job=JobSeen(7, "running"))


async def test_another_shape_breaks_nobody_and_is_written_anew(engine: AsyncEngine) -> None:
    harness = PostgresHarness(engine)
    user = await harness.user()
    chip = await harness.chip(user)
    lease = await harness.store.claim(user, "one", 60)
    assert isinstance(lease, Lease)

    async def write() -> None:
        written = await harness.store.write_status(
            lease, ContainerStatus(phase="ready"), {}, {}, 1, evidence=SEEN
        )
        assert isinstance(written, Written)

    await write()
    async with transaction(engine) as connection:
        other = text("UPDATE evidence SET body = :body, digest = 'of another shape'")
        await connection.execute(other, {"body": '{"job": 7, "allocations": {}}'})
    story = await read_story(engine, user, chip)
    assert story is not None
    assert story.evidence is None
    await write()
    story = await read_story(engine, user, chip)
    assert story is not None
    assert story.evidence == SEEN
