"""A real daemon keeps what it sees, and a chip is explained from the store alone."""

from __future__ import annotations

from typing import Any

import pytest

from core.clock import SystemClock
from core.domain.explain import Explanation, explain
from core.domain.policy import Policy
from core.store.queries import read_story
from tests.integration.daemon.fleet import Fleet, until
from tests.integration.daemon.test_away import road

pytestmark = pytest.mark.timeout(90)


async def explained(fleet: Fleet, user: str, chip: str) -> Explanation:
    story = await read_story(fleet.engine, user, chip)
    assert story is not None
    return explain(story, SystemClock().now(), Policy(egress="direct"))


def first(code: str) -> Any:
    return lambda told: told.causes[0].code == code


async def test_what_a_daemon_saw_explains_a_chip(fleet: Fleet) -> None:
    async with road(fleet.env["NOMAD_ADDR"]) as (way, url), fleet.daemon(NOMAD_ADDR=url):
        user = await fleet.user()
        chip = await fleet.chip(user)

        async def told() -> Explanation:
            return await explained(fleet, user, chip)

        await until(told, first("waits_for_scan"), 30)
        await fleet.scan(user, chip)
        seen = await until(told, first("connected"))
        row = await fleet.container_row(user)
        assert row is not None
        story = await read_story(fleet.engine, user, chip)
        assert story is not None
        assert story.evidence is not None
        assert [a.id for a in story.evidence.allocations] == [str(row["allocation_id"])]
        assert [check.passing for check in story.evidence.checks] == [True]
        words = [word.status for word in story.evidence.sessions[chip].trail]
        assert words[-2:] == ["SCAN_QR_CODE", "WORKING"]
        assert {budget.name: budget.spent for budget in seen.budgets}["sessions"] == 1

        way.close()
        await fleet.chip(user)  # somebody must look to notice
        away = await until(told, first("dependency_nomad"), 30)
        shown = {proof.about: proof for proof in away.causes[0].evidence}
        assert shown["job"].detail["modify_index"] > 0
        assert shown["job"].observed_at is None  # seen last, not now
        way.open = True
        await until(told, first("connected"), 30)

        await fleet.unlink(user, chip)
        unlinked = await until(told, first("unlinked"), 30)
        assert "Conectar" in unlinked.person
