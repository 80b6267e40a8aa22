"""What the daemon tells about itself over HTTP: is it alive, can it do its work, what did it count.

    GET /live      200 as long as the event loop turns; a supervisor restarts what does not answer
    GET /ready     200, or 503 with what stands in the way: sources silent for too long, systems away
    GET /metrics   Prometheus text

It is for supervisors and operators, never for the outside: it tells no secret and no user, and answers nothing
else. It listens where WAHAFLEET_DAEMON_LISTEN says, and nowhere without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.status_server import Answer, StatusPages, json_answer, readiness
from daemon.fleet import Fleet
from daemon.metrics import Metrics
from daemon.outages import Outages
from daemon.sources.supervisor import Supervisor
from daemon.sweep import Sweep
from daemon.workqueue import WorkQueue

# A sweep is late when three in a row did not come to their end.
_SWEEPS_MISSED: Final = 3
_SLOW_S: Final = 60.0


class Health(StatusPages):
    """Reads the parts of a running daemon, each time anew."""

    paths = ("/live", "/ready", "/metrics")

    def __init__(
        self,
        *,
        sources: Sequence[Supervisor],
        outages: Outages,
        queue: WorkQueue,
        fleet: Fleet,
        sweep: Sweep,
        metrics: Metrics,
    ) -> None:
        self._sources = sources
        self._outages = outages
        self._queue = queue
        self._fleet = fleet
        self._sweep = sweep
        self.stopping = False
        self.registry = metrics.registry
        metrics.registry.register(_Parts(self))

    def problems(self) -> list[str]:
        """Why it cannot do its work as it should, in fixed words: `source <name>`, `<system>`, `sweep`, `stopping`.

        A source that is silent says nothing of what happens in its system, and without the store there are
        no leases, so nothing happens at all.
        """
        found = [f"source {source.name}" for source in self._sources if source.too_old]
        found += sorted(self._outages.away_s())
        age_s = self._sweep.age_s
        if (
            self._fleet.holding
            and age_s is not None
            and age_s > _SWEEPS_MISSED * self._sweep.every_s + _SLOW_S
        ):
            found.append("sweep")
        if self.stopping:
            found.append("stopping")
        return found

    def page(self, path: str) -> Answer:
        return json_answer(200, {"status": "live"}) if path == "/live" else readiness(self.problems())

    def families(self) -> Iterator[Metric]:
        """What is read from the parts at each scrape instead of being counted."""
        ages = GaugeMetricFamily(
            "wahafleet_source_age_seconds", "Since a source's last sign of life.", labels=["source"]
        )
        restarts = GaugeMetricFamily(
            "wahafleet_source_restarts", "How often a source was started again.", labels=["source"]
        )
        silent = GaugeMetricFamily(
            "wahafleet_source_too_old",
            "1 for a source silent for longer than a healthy one.",
            labels=["source"],
        )
        for source in self._sources:
            age_s = source.age_s()
            if age_s is not None:
                ages.add_metric([source.name], age_s)
            restarts.add_metric([source.name], source.restarts)
            silent.add_metric([source.name], source.too_old)
        away = GaugeMetricFamily(
            "wahafleet_dependency_away_seconds",
            "For how long a system that is away has been so.",
            labels=["system"],
        )
        for system, away_s in self._outages.away_s().items():
            away.add_metric([system], away_s)
        yield from (ages, restarts, silent, away)
        yield GaugeMetricFamily(
            "wahafleet_queue_length", "Users that wait for a pass.", value=len(self._queue)
        )
        yield GaugeMetricFamily(
            "wahafleet_passes_running", "Passes under way.", value=len(self._queue.running)
        )
        if (swept_s := self._sweep.age_s) is not None:
            yield GaugeMetricFamily(
                "wahafleet_sweep_age_seconds", "Since the last whole sweep.", value=swept_s
            )


class _Parts(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        return self._health.families()
