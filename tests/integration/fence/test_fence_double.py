"""Hosts fall silent on Nomad's double, twenty times faster than in life; judged by what arrives upstream.

`make test` tries 20 moves, `make soak` with WAHAFLEET_TEST_FACTOR=10 and more the 200 of the acceptance.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.free_ports import free_range
from tests.integration.fence.fleets import FastDouble
from tests.integration.fence.trial import FAULTS, distribution, trial
from tests.scale import examples

CASES = min(200, examples(20))
USERS = 10 if CASES == 20 else 20
SEED = int(os.environ.get("WAHAFLEET_FENCE_SEED", "1"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FastDouble]:
    made = FastDouble(tmp_path / "nomad", 3, free_range(100, "127.0.0.1"))
    yield made
    made.close()


@pytest.mark.timeout(600)
async def test_no_two_allocations_of_a_user_are_heard_at_a_time(
    fleet: FastDouble, database_url: str, tmp_path: Path
) -> None:
    async with trial(fleet, database_url, tmp_path, USERS, SEED) as made:
        number = 0
        while len(made.cases) < CASES:
            await made.silence(FAULTS[number % len(FAULTS)])
            number += 1
        sys.stdout.write(f"{distribution(made.cases)}\n")
        assert made.judge.overlaps == []
        assert all(case.gap_s > 0 for case in made.cases)


async def test_a_planned_move_costs_no_wait_for_a_lease(
    fleet: FastDouble, database_url: str, tmp_path: Path
) -> None:
    async with trial(fleet, database_url, tmp_path, 6, SEED) as made:
        await made.drain()
        waited = sorted(round(case.waited_s, 3) for case in made.cases)
        sys.stdout.write(f"{distribution(made.cases)}\nfrom the placement to the first word, s: {waited}\n")
        assert made.judge.overlaps == []
        # From the placement to the first word: one question of the guard, and not what is left of a lease.
        assert max(case.waited_s for case in made.cases) < 2


async def test_a_lease_that_ends_with_lost_would_be_seen(
    fleet: FastDouble, database_url: str, tmp_path: Path
) -> None:
    """The judge is worth something: with a planted bug it hears two at a time."""
    async with trial(fleet, database_url, tmp_path, 6, SEED, ttl_s=12, frees_lost=True) as made:
        await made.silence("cut", hurried=1.0)
        assert made.judge.overlaps != []
