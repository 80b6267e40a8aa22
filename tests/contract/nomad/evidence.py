"""What was seen on a real agent, kept in docs/evidence so that the double cannot drift unseen."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "evidence"
_PREFIX = "contract-nomad-"


def case_of(nodeid: str) -> str:
    """`tests/contract/nomad/test_jobs.py::test_x[real]` -> `test_jobs::test_x`."""
    path, _, name = nodeid.partition("::")
    return f"{Path(path).stem}::{name.partition('[')[0]}"


def all_cases() -> set[str]:
    """Every case of this suite: the test functions that ask for a cluster."""
    package = importlib.import_module("tests.contract.nomad")
    found = set()
    for module_info in pkgutil.iter_modules(package.__path__):
        if not module_info.name.startswith("test_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and "cluster" in inspect.signature(function).parameters:
                found.add(f"{module_info.name}::{name}")
    return found


def releases() -> dict[str, dict[str, str]]:
    """Version -> case -> result, of every release there is evidence of, oldest first."""
    files = sorted(FOLDER.glob(f"{_PREFIX}*.json"), key=lambda file: _order(file.stem.removeprefix(_PREFIX)))
    bodies = [json.loads(file.read_text()) for file in files]
    return {body["version"]: body["cases"] for body in bodies}


class EvidenceWriter:
    """Gathers results of one run and lays them over what is already known of that release."""

    def __init__(self) -> None:
        self._results: dict[str, dict[str, str]] = {}

    def note(self, version: str, case: str, report: pytest.TestReport) -> None:
        results = self._results.setdefault(version, {})
        if report.failed:
            results[case] = "failed"
        elif report.when == "call" and report.passed:
            results.setdefault(case, "passed")

    def write(self) -> None:
        for version, results in self._results.items():
            FOLDER.mkdir(parents=True, exist_ok=True)
            file = FOLDER / f"{_PREFIX}{version}.json"
            known = json.loads(file.read_text())["cases"] if file.exists() else {}
            exist = all_cases()
            cases = {case: result for case, result in sorted({**known, **results}.items()) if case in exist}
            body = {"agent": "nomad", "version": version, "cases": cases}
            file.write_text(json.dumps(body, indent=2) + "\n")


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
