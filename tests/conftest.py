"""What all tests share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings

from tests.scale import examples

# A slow machine is no failure of a rule; what fails is printed so that it can be run again as it was.
settings.register_profile("wahafleet", deadline=None, print_blob=True, max_examples=examples(100))
settings.load_profile("wahafleet")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each reason for skips once: pytest's own list has a line for every test, and hides failures above it."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        told = report.longrepr
        reasons[told[2] if isinstance(told, tuple) else str(told)] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"SKIPPED [{count}] {reason.removeprefix('Skipped: ')}")
