"""Seeds of the fence: at no time do guards forward for two allocations of one user. See the package."""

from __future__ import annotations

import os
from functools import partial

import pytest

from tests.simulation.test_simulation import simulate as simulation

SEEDS = int(os.environ.get("WAHAFLEET_FENCE_SEEDS", "500"))
CHUNK = 50
_CHUNK_TIMEOUT_S = 300


simulate = partial(simulation, module="tests.simulation.fence", timeout_s=_CHUNK_TIMEOUT_S)


@pytest.mark.timeout(_CHUNK_TIMEOUT_S + 30)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_two_allocations_of_a_user_forward_at_once(first: int) -> None:
    last = min(first + CHUNK, SEEDS) - 1
    told = simulate("--seeds", f"{first}-{last}")
    failed = [f"{one['replay']}\n    {one['failure']}" for one in told["failures"]]
    assert not failed, "\n".join(failed)
    assert told["seeds"] == last - first + 1
    counts = told["counts"]
    assert told["faults_per_seed"] >= 20
    assert (
        min(counts[name] for name in ("chunks", "leases given", "moves", "confirmed closes")) > told["seeds"]
    )


def test_a_seed_replays_exactly() -> None:
    once, again = simulate("--seed", "5"), simulate("--seed", "5", "--verbose")
    assert once["digest"] == again["digest"]
    assert simulate("--seed", "6")["digest"] != once["digest"]
    assert once["virtual_s"] > 200
