"""`python -m tests.simulation --seed N` replays one seed; `--seeds A-B` runs many and prints JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.simulation.command import run, say
from tests.simulation.run import Outcome, run_seed


def main() -> int:
    return run("tests.simulation", __doc__, _one, _many)


def _one(seed: int, verbose: bool) -> int:
    outcome = run_seed(seed, verbose=verbose)
    for line in outcome.tail if verbose else outcome.tail[-60:]:
        say(line)
    say(json.dumps(_told(outcome), indent=1))
    return 0 if outcome.failure is None else 1


def _many(seeds: list[int], workers: int, first: bool) -> int:
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
    say(json.dumps(summary.told(), indent=1))
    return 1 if summary.failures else 0


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


if __name__ == "__main__":
    sys.exit(main())
