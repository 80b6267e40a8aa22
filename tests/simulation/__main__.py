"""`python -m tests.simulation --seed N` replays one seed; `--seeds A-B` runs many and prints JSON."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.simulation.run import Outcome, run_seed

# Sets of strings are walked in an order that hangs on this; a replay needs it to be the same.
_HASH_SEED = "0"


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": _HASH_SEED})
    # What a killed daemon was about to await is never awaited.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    # A seed's world is dropped as a whole; looking for cycles all the time costs a tenth of the run.
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay this one")
    what.add_argument("--seeds", help="run these, such as 0-499 or 3,17")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--workers", type=int, default=1, help="processes to run --seeds on")
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return _one(chosen.seed, verbose=chosen.verbose)
    return _many(_numbers(chosen.seeds), chosen.workers, first=chosen.first)


def _one(seed: int, *, verbose: bool) -> int:
    outcome = run_seed(seed, verbose=verbose)
    for line in outcome.tail if verbose else outcome.tail[-60:]:
        _say(line)
    _say(json.dumps(_told(outcome), indent=1))
    return 0 if outcome.failure is None else 1


def _many(seeds: list[int], workers: int, *, first: bool) -> int:
    summary = Summary()
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            for outcome in pool.map(run_seed, seeds, chunksize=max(1, min(20, len(seeds) // (4 * workers)))):
                summary.add(outcome)
    else:
        for seed in seeds:
            summary.add(run_seed(seed))
            if first and summary.failures:
                break
    _say(json.dumps(summary.told(), indent=1))
    return 1 if summary.failures else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


class Summary:
    def __init__(self) -> None:
        self.seeds = self.passes = 0
        self.cpu_s = 0.0
        self.faults: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.passes += outcome.passes
        self.cpu_s += outcome.cpu_s
        for counter, more in (
            (self.faults, outcome.faults), (self.states, outcome.states), (self.counts, outcome.counts)
        ):  # fmt: skip
            counter.update(more)
        if outcome.failure is not None:
            replay = f"python -m tests.simulation --seed {outcome.seed} --verbose"
            self.failures.append({"seed": outcome.seed, "failure": outcome.failure, "replay": replay})
            sys.stderr.write(f"seed {outcome.seed}: {outcome.failure}\n")

    def told(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "failed": len(self.failures),
            "cpu_s_per_seed": round(self.cpu_s / max(1, self.seeds), 3),
            "passes": self.passes,
            "faults": dict(sorted(self.faults.items())),
            "states": dict(sorted(self.states.items())),
            "counts": dict(sorted(self.counts.items())),
            "failures": self.failures,
        }


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "failure": outcome.failure,
        "digest": outcome.digest,
        "cpu_s": round(outcome.cpu_s, 3),
        "hosts": outcome.hosts,
        "users": outcome.users,
        "daemons": outcome.daemons,
        "passes": outcome.passes,
        "faults": dict(sorted(outcome.faults.items())),
        "states": dict(sorted(outcome.states.items())),
        "counts": dict(sorted(outcome.counts.items())),
    }


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
