"""Looks into containers, and their restart by request; one's own container for its user."""

from __future__ import annotations

from typing import Any, Final, cast

from litestar import Request, Response
from litestar.params import FromPath, FromQuery
from litestar.response import ServerSentEvent

from api import look_ins
from api.auth import actor_of, requires_operator, requires_user
from api.deadline import in_time
from api.openapi import SECURED as USER_SECURED
from api.openapi import errors
from api.parameters import flag_of, number_of
from api.routes.containers import SECURED, TAGS, container_of, unknown_container
from api.routing import get, post
from api.schemas import ContainerLog, ContainerStats, OwnContainer, RestartAccepted
from api.services import Services, services_of
from core.domain.actor import Actor
from core.domain.views import text_of
from core.store.accounts import Account
from core.store.containers import ContainerView, read_container
from core.store.containers_admin import restart_container

MOST_LINES: Final = 2000
_OWN: Final = ["me"]
_ACCEPTED: Final = "O container vai reiniciar; os chips voltam sozinhos, sem novo QR Code."


@get(
    "/containers/{user_id:str}/stats",
    guards=[requires_operator],
    operation_id="getContainerStats",
    summary="What a user's container uses, sampled while somebody looks",
    description="The first look waits up to 3 s for a sample; without one the figures are null and `message` says why.",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 503),
)
async def get_container_stats(request: Request[Any, Any, Any], user_id: FromPath[str]) -> ContainerStats:
    services = services_of(request)
    return await look_ins.stats(services, await container_of(services, user_id))


@get(
    "/containers/{user_id:str}/logs",
    guards=[requires_operator],
    operation_id="getContainerLogs",
    summary="The newest lines of a user's container, without secrets",
    description=(
        f"`lines`: 1 to {MOST_LINES}. With `follow=true` the answer is `text/event-stream`: one event a line, its "
        "number as the id, `Last-Event-ID` goes on from there."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 422, 503),
)
async def get_container_logs(
    request: Request[Any, Any, Any],
    user_id: FromPath[str],
    lines: FromQuery[str] = "200",
    follow: FromQuery[str] = "false",
) -> Response[ContainerLog]:
    services = services_of(request)
    wanted, follows = number_of("lines", lines, MOST_LINES), flag_of("follow", follow)
    found = await container_of(services, user_id)
    if follows:
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else None
        stream = look_ins.followed(services, found.user_id, wanted, after)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        # The document shows the answer that is JSON.
        return cast(Response[ContainerLog], ServerSentEvent(stream, headers=headers))
    return Response(await look_ins.log(services, found, wanted))


@post(
    "/containers/{user_id:str}/restart",
    status_code=202,
    guards=[requires_operator],
    operation_id="restartContainer",
    summary="Restart a user's container in place; its sessions come back without a QR code",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 409, 503),
)
async def restart_container_of(request: Request[Any, Any, Any], user_id: FromPath[str]) -> RestartAccepted:
    services = services_of(request)
    found = await container_of(services, user_id)
    return await _restarted(services, found.user_id, actor_of(request))


@get(
    "/me/container",
    guards=[requires_user],
    operation_id="getMyContainer",
    summary="One's own container",
    tags=_OWN,
    security=USER_SECURED,
    responses=errors(401, 403, 404, 503),
)
async def get_my_container(request: Request[Account, Any, Any]) -> OwnContainer:
    services = services_of(request)
    found = await _own(services, request.user.id)
    return OwnContainer(
        container_name=found.container_name,
        status=found.status,
        phase=found.phase,
        reason=found.reason,
        reason_text=text_of(found.reason),
        port=found.port,
        image=services.settings.job.image,
        engine=services.settings.job.engine,
        chips=found.chips,
        created_at=found.created_at,
    )


@post(
    "/me/container/restart",
    status_code=202,
    guards=[requires_user],
    operation_id="restartMyContainer",
    summary="Restart one's own container in place; its sessions come back without a QR code",
    tags=_OWN,
    security=USER_SECURED,
    responses=errors(401, 403, 404, 409, 503),
)
async def restart_my_container(request: Request[Account, Any, Any]) -> RestartAccepted:
    services = services_of(request)
    found = await _own(services, request.user.id)
    return await _restarted(services, found.user_id, actor_of(request))


async def _restarted(services: Services, user_id: str, actor: Actor) -> RestartAccepted:
    if await in_time(restart_container(services.engine, user_id, actor=actor)) is None:
        raise unknown_container()
    return RestartAccepted(user_id, "restarting", _ACCEPTED)


async def _own(services: Services, user_id: str) -> ContainerView:
    found = await in_time(read_container(services.engine, user_id))
    if found is None or found.deleted:
        raise unknown_container()
    return found
