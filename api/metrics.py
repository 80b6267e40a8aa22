"""What one API process counts, for Prometheus. Labels take values from short fixed lists: never a user, never a path.

Each process answers for itself: whoever scrapes several asks each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from litestar import Litestar
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.services import Services

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
# A path that is no route of ours: what stands in it is the caller's own text.
UNKNOWN_ROUTE: Final = "unknown"


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # A label's own counter costs more to find than to raise. As many as there are labels: few.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._requests = Counter(
            "wahafleet_api_requests",
            "Requests by route template, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "wahafleet_api_request_seconds",
            "How long answers took, but for live streams.",
            ["route"],
            registry=self.registry,
            buckets=_SECONDS,
        )

    def count(self, scope: Any, status: int, seconds: float, *, streamed: bool) -> None:
        """One request that ended. `status`: 0 when nothing was answered. `streamed`: it lasted as long as it was read."""
        # The framework names the template once it has found the route; `/` is what it names for no route, too.
        route = scope.get("path_template") or UNKNOWN_ROUTE
        if status in (404, 405) and "route_handler" not in scope:
            route = UNKNOWN_ROUTE
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        counter = self._counters.get((route, method, status))
        if counter is None:
            counter = self._requests.labels(route, method, str(status))
            self._counters[route, method, status] = counter
        counter.inc()
        if streamed:
            return
        histogram = self._histograms.get(route)
        if histogram is None:
            histogram = self._histograms[route] = self._seconds.labels(route)
        histogram.observe(seconds)

    def watch(self, app: Litestar) -> None:
        """Read the application's own parts too, anew with each scrape, while it is open."""
        self.registry.register(_Parts(lambda: getattr(app.state, "services", None)))


class _Parts(Collector):
    def __init__(self, services: Callable[[], Services | None]) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        services = self._services()
        if services is None:
            return
        yield GaugeMetricFamily(
            "wahafleet_api_streams_open", "Live streams and sockets open now.", services.streams.open
        )
        pool: Any = services.engine.pool
        used, size = pool.checkedout(), services.settings.store.pool_size
        yield GaugeMetricFamily("wahafleet_api_store_connections_used", "Pooled connections in use.", used)
        yield GaugeMetricFamily("wahafleet_api_store_connections_most", "As many there may be.", size)
        found = CounterMetricFamily(
            "wahafleet_api_qr_cache",
            "QR codes that were asked for, by where they came from.",
            labels=["outcome"],
        )
        hits, misses = services.qr.cache_counts
        found.add_metric(["hit"], hits)
        found.add_metric(["miss"], misses)
        yield found
