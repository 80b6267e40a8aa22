"""What the commands that replay seeds share: their arguments, and a process in which a seed replays exactly."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Callable

# Sets of strings are walked in an order that hangs on this; a replay needs it to be the same.
_HASH_SEED = "0"


def run(
    module: str,
    doc: str | None,
    one: Callable[[int, bool], int],
    many: Callable[[list[int], int, bool], int],
) -> int:
    """The exit code of `python -m module`. `one(seed, verbose)`, `many(seeds, workers, first)`."""
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": _HASH_SEED})
    # What a killed process was about to await is never awaited.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    # A seed's world is dropped as a whole; looking for cycles all the time costs a tenth of the run.
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay this one")
    what.add_argument("--seeds", help="run these, such as 0-499 or 3,17")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--workers", type=int, default=1, help="processes to run --seeds on")
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return one(chosen.seed, chosen.verbose)
    return many(_numbers(chosen.seeds), chosen.workers, chosen.first)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
