"""A real Nomad agent is frozen by SIGSTOP, five times; the containers on its host run on, and so does its guard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.nomad.conftest import first_port
from tests.integration.fence.fleets import RealAgents
from tests.integration.fence.trial import FAULTS, distribution, trial
from tests.real_agents import require_programs


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RealAgents]:
    require_programs("nomad")
    made = RealAgents(tmp_path / "nomad", first_port(80))
    yield made
    made.close()


@pytest.mark.timeout(400)
async def test_no_two_allocations_of_a_user_are_heard_at_a_time(
    fleet: RealAgents, database_url: str, tmp_path: Path
) -> None:
    async with trial(fleet, database_url, tmp_path, 4, 1) as made:
        for fault in FAULTS:
            await made.silence(fault)
        sys.stdout.write(f"{distribution(made.cases)}\n")
        assert len(made.cases) >= len(FAULTS)
        assert made.judge.overlaps == []
        assert all(case.gap_s > 0 for case in made.cases)
