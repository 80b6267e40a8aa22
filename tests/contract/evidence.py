"""Evidence that a contract suite held on a real agent: docs/evidence/contract-<agent>-<version>.json.

The doubles are held to what real agents do by running the same cases on both. Where no real agent is on
PATH only the double runs, so the file says which cases the real one has passed, and a test fails when a case
was added since. Test processes that run side by side each add what they saw.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import msgspec

FOLDER = Path(__file__).parents[2] / "docs" / "evidence"
PASSED = "passed"


class Evidence(msgspec.Struct, frozen=True):
    """`cases`: name of a case -> what became of it on the real agent."""

    agent: str
    version: str
    cases: dict[str, str]


def cases_of(modules: Iterable[ModuleType]) -> frozenset[str]:
    """The cases that stand in `modules`: `<module>::<test function>`."""
    return frozenset(
        f"{module.__name__.rpartition('.')[2]}::{name}"
        for module in modules
        for name in vars(module)
        if name.startswith("test_")
    )


def record(agent: str, version: str, outcomes: dict[str, str], known: frozenset[str]) -> None:
    """Add what became of cases on a real agent; cases that no longer exist are left out."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"contract-{agent}-{version}.json"
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = msgspec.json.decode(path.read_bytes(), type=Evidence).cases if path.exists() else {}
        cases = {name: outcome for name, outcome in sorted((old | outcomes).items()) if name in known}
        text = msgspec.json.format(msgspec.json.encode(Evidence(agent, version, cases)), indent=2) + b"\n"
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)


def newest(agent: str) -> Evidence | None:
    """The evidence of the newest release of `agent` that there is, None when there is none."""
    found = [
        msgspec.json.decode(path.read_bytes(), type=Evidence)
        for path in FOLDER.glob(f"contract-{agent}-*.json")
    ]
    return max(found, key=lambda one: [int(part) for part in re.findall(r"\d+", one.version)], default=None)
