"""What the guard tells about itself over HTTP, to this machine alone.

    GET /health    200, or 503 with what stands in the way, in fixed words
    GET /metrics   Prometheus text

Labels take values from short fixed lists: never a user, a chip or an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.clock import Boottime
from core.domain.egress_errors import EgressError
from core.status_server import Answer, StatusPages, readiness
from egress.leases import Leases, Times
from egress.listener import Listener
from egress.meter import Meter

# Answers of the API that may be missed before it counts as away.
_MISSED: Final = 3


class Health(StatusPages, Collector):
    """Reads the parts of a running guard, each time anew."""

    paths = ("/health", "/metrics")

    def __init__(
        self, listener: Listener, leases: Leases, meter: Meter, times: Times, boottime: Boottime
    ) -> None:
        self._listener = listener
        self._leases = leases
        self._meter = meter
        self._times = times
        self._boottime = boottime
        self.stopping = False
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def problems(self) -> list[str]:
        """Why it cannot do its work as it should: `api`, `full`, `stopping`."""
        found = []
        answered_at = self._leases.answered_at
        if answered_at is None or self._boottime() - answered_at > _MISSED * self._times.renew_s:
            found.append("api")
        if self._listener.is_full:
            found.append("full")
        if self.stopping:
            found.append("stopping")
        return found

    def collect(self) -> Iterator[Metric]:
        listener, leases = self._listener, self._leases
        inward, outward = self._meter.totals()
        amount = CounterMetricFamily("wahafleet_guard_bytes", "Bytes forwarded.", labels=["direction"])
        amount.add_metric(["in"], inward)
        amount.add_metric(["out"], outward)
        refused = CounterMetricFamily(
            "wahafleet_guard_refused", "Tunnels that were not opened.", labels=["reason"]
        )
        for reason in EgressError:
            refused.add_metric([reason.value], listener.refused[reason])
        yield from (amount, refused)
        yield CounterMetricFamily("wahafleet_guard_tunnels", "Tunnels opened.", value=listener.established)
        yield CounterMetricFamily(
            "wahafleet_guard_connections", "Connections taken.", value=listener.accepted
        )
        yield CounterMetricFamily(
            "wahafleet_guard_lease_failures", "Requests for leases without an answer.", value=leases.failures
        )
        yield CounterMetricFamily(
            "wahafleet_guard_leases_run_out", "Leases that ended by their deadline.", value=leases.ran_out
        )
        yield GaugeMetricFamily("wahafleet_guard_tunnels_open", "Tunnels now.", value=len(listener.tunnels))
        yield GaugeMetricFamily("wahafleet_guard_knocking", "Tunnels on their way.", value=listener.knocking)
        yield GaugeMetricFamily("wahafleet_guard_leases_held", "Leases held.", value=leases.held)
        yield GaugeMetricFamily(
            "wahafleet_guard_leases_unconfirmed",
            "Closed leases that the API has not heard of yet.",
            value=leases.unconfirmed,
        )
        if leases.answered_at is not None:
            yield GaugeMetricFamily(
                "wahafleet_guard_api_age_seconds",
                "Since the API's last answer.",
                value=self._boottime() - leases.answered_at,
            )

    def page(self, _path: str) -> Answer:
        return readiness(self.problems())
