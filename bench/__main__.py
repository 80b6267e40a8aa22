"""`python -m bench`: what wahafleet adds to the bare sequence, from a wish to the port and to the QR.

The same doubles, with all their delays set to zero, serve both sides in turn:

    wahafleet   POST /chips, then GET /chips/{id}/qr until there is one
    bare        write the variable, register the job, wait for Consul, create the session, get the QR

Prints medians in milliseconds, the difference and the ratio. Exit code 1 when the difference to the QR is
above `--limit`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.sides import Bare, Sample, Side, Wahafleet
from core.settings import load
from core.variables import NO_LIMITS
from sandbox.free_ports import free_port
from sandbox.up.data import read_env

MEASURES = ("first_chip_port", "first_chip_qr", "further_chip_port", "further_chip_qr")


@contextmanager
def running(simulators: str, egress: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A sandbox without delays; its API and the settings that its parts run with."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wahafleet-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        log = folder / "up.log"
        command = [
            *(sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data", str(folder / "data")),
            *("--nomad", "double", "--consul", "double", "--simulators", simulators, "--no-delays"),
            *("--ports", "21000-21099", "--egress", egress),
        ]
        env = {**os.environ, **NO_LIMITS, "XDG_STATE_HOME": str(folder / "state")}
        with log.open("wb") as output:
            up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            deadline = time.monotonic() + 60
            while "ready after" not in log.read_text():
                if up.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the sandbox did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", read_env(folder / "data" / "settings.env")
        finally:
            up.terminate()
            up.wait(60)


async def measure(sides: tuple[Side, Side], rounds: int, warm_up: int) -> dict[str, list[Sample]]:
    """Samples by side, taken in turn so that whatever the machine does meanwhile meets both."""
    taken: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for number in range(warm_up + rounds):
        for side in sides if number % 2 else reversed(sides):
            sample = await side.round()
            if number >= warm_up:
                taken[side.name].append(sample)
    return taken


def summary(taken: dict[str, list[Sample]]) -> dict[str, dict[str, float | None]]:
    """Median of each measure and side, what wahafleet adds, and the ratio."""
    found = {}
    for measure_ in MEASURES:
        ours, bare = (
            statistics.median(getattr(sample, measure_) for sample in taken[side]) * 1000
            for side in ("wahafleet", "bare")
        )
        found[measure_] = {
            "wahafleet_ms": round(ours, 1),
            "bare_ms": round(bare, 1),
            "added_ms": round(ours - bare, 1),
            # Without a bare figure worth the name there is nothing to divide by.
            "ratio": round(ours / bare, 2) if bare >= 1 else None,
        }
    return found


async def run(api: str, env: dict[str, str], rounds: int, warm_up: int) -> dict[str, list[Sample]]:
    settings = load(env)
    async with Wahafleet(api, settings) as ours, Bare(settings) as bare:
        return await measure((ours, bare), rounds, warm_up)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds of each side")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that do not count")
    parser.add_argument("--limit", type=float, default=150.0, help="milliseconds that may be added to a QR")
    parser.add_argument("--simulators", choices=("process", "inline"), default="process")
    parser.add_argument(
        "--egress",
        choices=("direct", "guard"),
        default="direct",
        help="guard: our side also gives a label, looks at its exit and opens a tunnel, which the bare side does not",
    )
    given = parser.parse_args()
    with running(given.simulators, given.egress) as (api, env):
        taken = asyncio.run(run(api, env, given.rounds, given.warm_up))
    found = summary(taken)
    report = {
        "benchmark": "create",
        "rounds": given.rounds,
        "simulators": given.simulators,
        "egress": given.egress,
        "machine": {"python": platform.python_version(), "processors": os.cpu_count()},
        "limit_added_ms": given.limit,
        "results": found,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    over = [
        name for name in MEASURES if name.endswith("_qr") and (found[name]["added_ms"] or 0) > given.limit
    ]
    for name in over:
        sys.stderr.write(f"{name} adds {found[name]['added_ms']} ms, more than {given.limit:g}.\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
