"""The whole fleet, for operators: its figures, its plan, its pause, and what happens to it now."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream

from api import fleet, fleet_watch
from api.auth import Principal, actor_of, requires_operator
from api.bodies import StrictBody
from api.deadline import in_time
from api.openapi import STREAMED, errors
from api.parameters import cursor_of, limit_of, next_link
from api.rendering import wants_lower_case
from api.routes.containers import SECURED
from api.routes.containers_admin import operator_name
from api.routing import get, post
from api.schemas_operators import FleetPaused, FleetPlan, FleetSummary, PauseReason
from api.services import services_of
from api.streams import EventStream
from core.store import fleet_control

TAGS = ["fleet"]


@get(
    "/fleet",
    guards=[requires_operator],
    operation_id="getFleet",
    summary="Counts, hosts with their room, who waits, the pause and the rollout",
    description=(
        "All from the store. Hosts are those that carry containers; each says when a sweep saw it. `capacity` is "
        "`WAHAFLEET_HOST_CAPACITY` a host: the range of ports that Nomad's clients are set up with."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 503),
)
async def get_fleet(request: Request[Any, Any, Any]) -> FleetSummary:
    return await fleet.summary(services_of(request))


@get(
    "/fleet/events",
    guards=[requires_operator],
    operation_id="streamFleet",
    summary="What happens to the fleet, as server-sent events",
    description=(
        "`text/event-stream`. First `fleet` (as `GET /fleet`), then `container` (as in the list; `gone: true` when it "
        "was removed) and `chip` of users whose rows changed, a user's changes of a moment as one, and `fleet` again "
        "when its figures may have changed, every 5 s at most. A stream does not resume: whoever opens it lists "
        "`/containers` anew, `Last-Event-ID` is not looked at. `relist` says to do so again: too much changed at "
        "once, or the store was away. A comment comes at least every 15 s, `end` as on a chip's stream."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 429, 503) | {200: STREAMED},
)
async def stream_fleet(request: Request[Any, Principal, Any]) -> Stream:
    services = services_of(request)
    actor = actor_of(request)
    source = fleet_watch.messages(services, lower_case=wants_lower_case(request))
    return EventStream(services.streams, operator_name(actor), [source], request.auth.expires_at)


@get(
    "/fleet/plan",
    guards=[requires_operator],
    operation_id="getFleetPlan",
    summary="Dry run: what the next passes would do",
    description=(
        "The daemon's own decision over what its last passes saw, should nothing change outside meanwhile. `limit`: "
        "users a page looks at, 1 to 200; users at rest are left out, for nothing is planned for them. The next "
        'page stands in `Link: <...>; rel="next"`.'
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 422, 503),
)
async def get_fleet_plan(
    request: Request[Any, Any, Any],
    cursor: FromQuery[str | None] = None,
    limit: FromQuery[str] = "50",
) -> Response[FleetPlan]:
    size, after = limit_of(limit), cursor_of(cursor)
    found, following = await fleet.plan(services_of(request), after=after, limit=size)
    headers = {} if following is None else next_link(request.url.path, limit=str(size), cursor=following)
    return Response(found, headers=headers)


@post(
    "/fleet/pause",
    status_code=200,
    guards=[requires_operator],
    dto=StrictBody[PauseReason],
    operation_id="pauseFleet",
    summary="Change nothing outside until resumed; the body is optional",
    description=(
        "Daemons start nothing and stop nothing from then on, at once: no container, no session, no removal. What "
        "runs, runs on, and chips keep their status. Wishes are accepted and wait with reason `paused`; looks go "
        "on. A call that was sent before may still end. Paused already: nothing changes, the first reason stands."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(400, 401, 403, 413, 422, 503),
)
async def pause_fleet(
    request: Request[Any, Any, Any], data: JSONBody[PauseReason | None] = None
) -> FleetPaused:
    return await _set_paused(request, data, paused=True)


@post(
    "/fleet/resume",
    status_code=200,
    guards=[requires_operator],
    dto=StrictBody[PauseReason],
    operation_id="resumeFleet",
    summary="End the fleet's pause; the body is optional",
    description="Everybody who waits is looked at within seconds; starts are paced as always.",
    tags=TAGS,
    security=SECURED,
    responses=errors(400, 401, 403, 413, 422, 503),
)
async def resume_fleet(
    request: Request[Any, Any, Any], data: JSONBody[PauseReason | None] = None
) -> FleetPaused:
    return await _set_paused(request, data, paused=False)


async def _set_paused(
    request: Request[Any, Any, Any], data: PauseReason | None, *, paused: bool
) -> FleetPaused:
    actor = actor_of(request)
    reason = (data.reason if data is not None else None) or None
    control, _ = await in_time(
        fleet_control.set_paused(
            services_of(request).engine, paused=paused, reason=reason, by=operator_name(actor), actor=actor
        )
    )
    return fleet.control_of(control)
