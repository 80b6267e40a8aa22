"""What the guard tells about itself over HTTP, to this machine alone.

    GET /health    200, or 503 with what stands in the way, in fixed words
    GET /metrics   Prometheus text

Labels take values from short fixed lists: never a user, a chip or an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from core.clock import Boottime
from core.domain.egress_errors import EgressError
from egress.leases import Leases, Times
from egress.listener import Listener
from egress.meter import Meter

_JSON: Final = "application/json"
# Answers of the API that may be missed before it counts as away.
_MISSED: Final = 3

Answer = tuple[int, str, bytes]


class Health(Collector):
    """Reads the parts of a running guard, each time anew."""

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

    def answer(self, method: str, path: str, accept: str) -> Answer:
        """(status, content type, body) of one request."""
        if path not in ("/health", "/metrics"):
            return _json(404, {"error": "There is /health and /metrics here."})
        if method not in ("GET", "HEAD"):
            return _json(405, {"error": f"{path} is only read: use GET."})
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(self.registry)
        problems = self.problems()
        return _json(
            503 if problems else 200, {"status": "not ready" if problems else "ready", "problems": problems}
        )

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        accept = headers.get(b"accept", b"").decode("latin-1")
        status, content_type, body = self.answer(scope["method"], scope["path"], accept)
        fields = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _json(status: int, body: object) -> Answer:
    return status, _JSON, msgspec.json.encode(body) + b"\n"
