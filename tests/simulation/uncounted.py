"""Metrics that count nothing: nobody scrapes a simulated daemon, and the counters have tests of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from core.domain.pacing import Turns
from core.domain.routes import Reading
from daemon.metrics import Metrics, Outcome
from daemon.outcome import Result


class _Gauge:
    def inc(self, amount: float = 1) -> None:
        return

    def dec(self, amount: float = 1) -> None:
        return

    def set(self, value: float) -> None:
        return


class Uncounted(Metrics):
    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        gauge: Any = _Gauge()
        self.leases_held = self.fleet_holder = self.rollout_paused = gauge

    def count_pass(self, outcome: Outcome, took_s: float) -> None:
        return

    def count_effects(self, results: Iterable[Result]) -> None:
        return

    def count_starts(self, turns: Turns) -> None:
        return

    def count_reading(self, reading: Reading) -> None:
        return

    def count_duty(self, duty: str, outcome: str, took_s: float) -> None:
        return

    def observe_listing(self, took_s: float) -> None:
        return

    def count_findings(self, found: Mapping[str, int]) -> None:
        return

    def set_users(self, by_phase: Mapping[tuple[str, str], int]) -> None:
        return

    def forget_users(self) -> None:
        return

    def set_orphans(self, by_state: Mapping[tuple[str, str], int]) -> None:
        return

    def set_rollout(self, *, waiting: int, moving: int, failed: int) -> None:
        return
