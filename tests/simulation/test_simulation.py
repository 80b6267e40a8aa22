"""Seeds of the simulation, in chunks that test processes share.

They run in processes of their own: the order in which sets of strings are walked hangs on PYTHONHASHSEED, and
a replay needs it to be the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("WAHAFLEET_SIMULATION_SEEDS", "500"))
CHUNK = 10
# A seed takes a few seconds; this is for a machine that does much else.
CHUNK_TIMEOUT_S = 600


def simulate(
    *arguments: str, module: str = "tests.simulation", timeout_s: float = CHUNK_TIMEOUT_S
) -> dict[str, Any]:
    """What a run says; its exit code is left to the caller."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    start = done.stdout.find("{\n")
    assert start >= 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout[start:])
    return told


@pytest.mark.timeout(CHUNK_TIMEOUT_S + 30)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds_hold_and_converge(first: int) -> None:
    last = min(first + CHUNK, SEEDS) - 1
    told = simulate("--seeds", f"{first}-{last}")
    assert told["seeds"] == last - first + 1
    failed = [f"{one['replay']}\n    {one['failure']}" for one in told["failures"]]
    assert not failed, "\n".join(failed)


def test_a_seed_replays_exactly_and_is_as_busy_as_it_says() -> None:
    once, again = simulate("--seed", "5"), simulate("--seed", "5", "--verbose")
    assert once["digest"] == again["digest"]
    assert simulate("--seed", "6")["digest"] != once["digest"]
    assert sum(once["faults"].values()) >= 30
    assert 3 <= once["hosts"] <= 8
    assert 20 <= once["users"] <= 60
    assert once["passes"] > 500
