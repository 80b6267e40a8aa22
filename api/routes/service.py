"""Health, at the root and without a token."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response
from prometheus_client.exposition import choose_encoder

from api.deadline import in_time
from api.metrics import Metrics
from api.openapi import errors
from api.problems import STORE_AWAY, problem
from api.routing import get
from api.schemas import Health, Readiness
from api.services import Services, services_of
from core.errors import Unavailable
from core.store.health import check

SERVICE: Final = "wahafleet-api"
TAGS = ["service"]


@get("/health", operation_id="health", summary="The process answers", tags=TAGS)
async def health() -> Health:
    return Health("ok", SERVICE)


@get("/health/live", operation_id="live", summary="The process answers", tags=TAGS)
async def live() -> Health:
    return Health("ok", SERVICE)


@get(
    "/health/ready",
    operation_id="ready",
    summary="Whether requests can be served, and what they depend on",
    description="503 while the store is away. Without Redis everything is answered, only slower.",
    tags=TAGS,
    responses=errors(503),
)
async def ready(request: Request[Any, Any, Any]) -> Response[Readiness]:
    services = services_of(request)
    cache = await _cache_state(services)
    try:
        await in_time(check(services.engine))
    except Unavailable:
        answer: Response[Any] = problem(
            503,
            "service_unavailable",
            STORE_AWAY,
            request.url.path,
            headers={"Retry-After": "2"},
            dependencies={"store": "unavailable", "cache": cache},
        )
        return answer
    status = "degraded" if cache == "unavailable" else "ok"
    return Response(Readiness(status, SERVICE, {"store": "ok", "cache": cache}))


@get(
    "/metrics",
    media_type="text/plain",
    operation_id="metrics",
    summary="What this process counts, as Prometheus text",
    description=(
        "Requests by route template, method and status, durations, streams open, connections of the store, hits of the "
        "QR cache. Of the process that answers; no user and no address stands in it."
    ),
    tags=TAGS,
)
async def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    counted: Metrics = request.app.state.metrics
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(counted.registry).decode(), headers={"Content-Type": media_type})


async def _cache_state(services: Services) -> str:
    if services.settings.cache.redis_url is None:
        return "off"
    return "ok" if await services.cache.ping() else "unavailable"
