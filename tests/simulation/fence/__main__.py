"""`python -m tests.simulation.fence --seed N` replays one seed; `--seeds A-B` runs many and prints JSON."""

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

from tests.simulation.fence.run import Outcome, run_seed

_HASH_SEED = "0"


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        command = [sys.executable, "-m", "tests.simulation.fence", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": _HASH_SEED})
    # What a killed guard was about to await is never awaited.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fence", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay this one")
    what.add_argument("--seeds", help="run these, such as 0-4999 or 3,17")
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
    _say(
        json.dumps(
            {**_told(outcome), "seed": seed, "failure": outcome.failure, "digest": outcome.digest}, indent=1
        )
    )
    return 0 if outcome.failure is None else 1


def _many(seeds: list[int], workers: int, *, first: bool) -> int:
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
    _say(json.dumps(told, indent=1))
    return 1 if failures else 0


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "cpu_s": round(outcome.cpu_s, 3),
        "virtual_s": round(outcome.lasted_s, 1),
        "hosts": outcome.hosts,
        "faults": dict(sorted(outcome.faults.items())),
        "counts": dict(sorted(outcome.counts.items())),
    }


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
