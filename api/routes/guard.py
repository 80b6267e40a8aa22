"""Internal routes for the guards of hosts; what they say is `core.domain.guard_wire`. No user reaches them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response

from api.deadline import in_time
from api.guard_desk import GuardDesk, decoded
from api.routing import post
from api.services import services_of
from core.domain.guard_wire import Renew, Usage
from core.errors import Unauthenticated

# 4,096 allocations, or twice as many chips, with all their figures.
BODY_LIMIT_BYTES: Final = 4 * 1024 * 1024


@post(
    "/internal/guard/renew",
    status_code=200,
    request_max_body_size=BODY_LIMIT_BYTES,
    include_in_schema=False,
)
async def renew_leases(request: Request[Any, Any, Any]) -> Response[bytes]:
    desk, node_id = await _proven(request)
    asked = decoded(await request.body(), Renew)
    renewed = await in_time(desk.renew(node_id, asked))
    # The answer holds upstreams' passwords.
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(renewed), media_type="application/json", headers=headers)


@post(
    "/internal/guard/usage",
    status_code=204,
    request_max_body_size=BODY_LIMIT_BYTES,
    include_in_schema=False,
)
async def count_usage(request: Request[Any, Any, Any]) -> None:
    desk, node_id = await _proven(request)
    told = decoded(await request.body(), Usage)
    await in_time(desk.usage(node_id, told))


async def _proven(request: Request[Any, Any, Any]) -> tuple[GuardDesk, str]:
    """The guard's node; the body is read only then. A wrong key counts for its address. Raises TooManyRequests."""
    services = services_of(request)
    desk = services.guards
    assert desk is not None, "the routes are there only with the secret that they need"
    try:
        return desk, desk.node_of(request.headers.get("authorization", ""))
    except Unauthenticated:
        await services.limits.of_address(services.proxies.client_address(request.scope))
        raise
