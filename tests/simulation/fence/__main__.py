"""`python -m tests.simulation.fence --seed N` replays one seed; `--seeds A-B` runs many and prints JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.simulation.command import run, say
from tests.simulation.fence.run import Outcome, run_seed


def main() -> int:
    return run("tests.simulation.fence", __doc__, _one, _many)


def _one(seed: int, verbose: bool) -> int:
    outcome = run_seed(seed, verbose=verbose)
    for line in outcome.tail if verbose else outcome.tail[-60:]:
        say(line)
    say(
        json.dumps(
            {**_told(outcome), "seed": seed, "failure": outcome.failure, "digest": outcome.digest}, indent=1
        )
    )
    return 0 if outcome.failure is None else 1


def _many(seeds: list[int], workers: int, first: bool) -> int:
    total: dict[str, Any] = {"seeds": 0, "cpu_s": 0.0, "lasted_s": 0.0}
    counters: dict[str, Counter[str]] = {"faults": Counter(), "counts": Counter()}
    failures: list[dict[str, Any]] = []
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    chunk = max(1, min(50, len(seeds) // (4 * workers)))
    for outcome in pool.map(run_seed, seeds, chunksize=chunk) if pool else map(run_seed, seeds):
        total["seeds"] += 1
        total["cpu_s"] += outcome.cpu_s
        total["lasted_s"] += outcome.lasted_s
        counters["faults"].update(outcome.faults)
        counters["counts"].update(outcome.counts)
        if outcome.failure is not None:
            replay = f"python -m tests.simulation.fence --seed {outcome.seed} --verbose"
            failures.append({"seed": outcome.seed, "failure": outcome.failure, "replay": replay})
            sys.stderr.write(f"seed {outcome.seed}: {outcome.failure}\n")
            if first:
                break
    if pool:
        pool.shutdown(cancel_futures=True)
    told = {
        "seeds": total["seeds"],
        "failed": len(failures),
        "cpu_s_per_seed": round(total["cpu_s"] / max(1, total["seeds"]), 4),
        "virtual_s_per_seed": round(total["lasted_s"] / max(1, total["seeds"]), 1),
        "faults_per_seed": round(sum(counters["faults"].values()) / max(1, total["seeds"]), 1),
        **{name: dict(sorted(counter.items())) for name, counter in counters.items()},
        "failures": failures,
    }
    say(json.dumps(told, indent=1))
    return 1 if failures else 0


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "cpu_s": round(outcome.cpu_s, 3),
        "virtual_s": round(outcome.lasted_s, 1),
        "hosts": outcome.hosts,
        "faults": dict(sorted(outcome.faults.items())),
        "counts": dict(sorted(outcome.counts.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
