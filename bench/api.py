"""`python -m bench.api`: what the polls of the pages cost.

    rates   requests a second of `GET /chips` (200 and 304), `GET /chips/{id}` and `/qr` of one API process, in
            turn with bare handlers that do one asyncpg query, or verify the same JWT and do one Redis GET
    polls   pages that poll two API processes as the deployed ones do, while a daemon and simulated containers
            run: p50 and p99 of each route, and how often a container was asked for one and the same code

Prints JSON. Exit code 1 when a goal is missed: `GET /chips` at 0.5 of a bare query, a 304 at 0.8 of JWT and
Redis, p99 of each route below 50 ms, no code asked for twice.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from typing import Any

import msgspec

from bench import api_polls, api_rates

P99_MS = 50.0
GOALS = {"list_by_bare_row": 0.5, "304_by_bare_jwt_redis": 0.8}


def missed(rates: dict[str, Any] | None, polls: dict[str, Any] | None) -> list[str]:
    """One sentence for each goal that was not met."""
    found = []
    for name, goal in GOALS.items() if rates else ():
        reached = rates["ratios"][name]["median_of_rounds"] if rates else 0
        if reached < goal:
            found.append(f"{name} is {reached}, less than {goal}.")
    if polls:
        for name, route in polls["routes"].items():
            if route["p99_ms"] >= P99_MS:
                found.append(f"p99 of {name} is {route['p99_ms']} ms, not below {P99_MS:g}.")
            if bad := {status for status in route["statuses"] if status not in (200, 304)}:
                found.append(f"{name} was answered with {sorted(bad)}.")
        if polls["codes_asked_for_again"]:
            found.append(f"{polls['codes_asked_for_again']} codes were asked for more than once.")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of wrk over all handlers; 0 leaves them out"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run of wrk")
    parser.add_argument("--connections", type=int, default=16, help="of wrk")
    parser.add_argument("--users", type=int, default=50, help="with pages that poll; 0 leaves them out")
    parser.add_argument("--chips", type=int, default=10, help="of each user, with one page each")
    parser.add_argument("--polled", type=float, default=60.0, help="seconds of polls that are measured")
    given = parser.parse_args()
    rates = polls = None
    if given.rounds and shutil.which("wrk") is None:
        sys.stderr.write("wrk is not on PATH, so rates are left out: apt-get install wrk.\n")
    elif given.rounds:
        rates = api_rates.measure(given.rounds, given.seconds, given.connections, _say)
    if given.users:
        polls = api_polls.measure(given.users, given.chips, 15, given.polled)
    report = {
        "benchmark": "api",
        "machine": {"python": platform.python_version(), "processors": os.cpu_count()},
        "rates": rates,
        "polls": polls,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    short = missed(rates, polls)
    sys.stderr.write("".join(f"{line}\n" for line in short))
    return 1 if short else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
