"""Seeds of the fence: at no time do guards forward for two allocations of one user. See the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SEEDS = int(os.environ.get("WAHAFLEET_FENCE_SEEDS", "500"))
CHUNK = 50
_CHUNK_TIMEOUT_S = 300


def simulate(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.simulation.fence", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_CHUNK_TIMEOUT_S, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    start = done.stdout.find("{\n")
    assert start >= 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout[start:])
    return told


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
