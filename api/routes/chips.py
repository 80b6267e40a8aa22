"""Chips: wishes are accepted and read here; the daemon makes them so."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.params import FromPath, JSONBody

from api import intents
from api.auth import actor_of, requires_user, standing_of
from api.bodies import StrictBody
from api.chip_cache import UserChips
from api.deadline import in_time
from api.openapi import CHIP_ERRORS, SECURED, USER_ERRORS, errors
from api.preferences import preference
from api.rendering import cached, rendered
from api.routing import delete, get, post
from api.schemas import Chip, NewChip, QrCode, Reconnect
from api.services import services_of
from core.store.accounts import Account

TAGS = ["chips"]
UserRequest = Request[Account, Any, Any]


async def chips_of(request: UserRequest) -> UserChips:
    """The caller's chips, as they stood when the guard let the request in, or later."""
    chips, user_id, standing = services_of(request).chips, request.user.id, standing_of(request)
    kept = chips.kept(user_id, standing)
    return kept if kept is not None else await in_time(chips.of(user_id, standing))


@get(
    "/chips",
    guards=[requires_user],
    operation_id="listChips",
    summary="All chips of the caller, oldest first",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS,
)
async def list_chips(request: UserRequest) -> Response[list[Chip]]:
    return cached(request, await chips_of(request), request.user.id)


@post(
    "/chips",
    guards=[requires_user],
    dto=StrictBody[NewChip],
    operation_id="createChip",
    summary="Create a chip",
    description=(
        "The chip is stored before anything is waited for. The answer comes when its port or the reason "
        "for having none is known; `Prefer: wait=N` (0-30) and `Prefer: respond-async` change how long."
    ),
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS | errors(400, 402, 403, 413, 422),
)
async def create_chip(request: UserRequest, data: JSONBody[NewChip]) -> Response[Chip]:
    services = services_of(request)
    wanted = preference(request.headers.get("prefer", ""), services.settings.api.create_wait_s)
    chip = await intents.create(services, request.user.id, data.alias, wanted, actor=actor_of(request))
    headers = {"Location": f"/api/v1/chips/{chip.id}"}
    if wanted.applied:
        headers["Preference-Applied"] = wanted.applied
    return rendered(request, chip, headers)


@get(
    "/chips/{chip_id:str}",
    guards=[requires_user],
    operation_id="getChip",
    summary="One chip",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS,
)
async def get_chip(request: UserRequest, chip_id: FromPath[str]) -> Response[Chip]:
    chips = await chips_of(request)
    return cached(request, chips, request.user.id, intents.chosen(chips, chip_id))


@delete(
    "/chips/{chip_id:str}",
    guards=[requires_user],
    operation_id="deleteChip",
    summary="Delete a chip; its session is torn down behind the answer",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS,
)
async def delete_chip(request: UserRequest, chip_id: FromPath[str]) -> None:
    await intents.delete(services_of(request), request.user.id, chip_id, actor=actor_of(request))


@get(
    "/chips/{chip_id:str}/qr",
    guards=[requires_user],
    operation_id="getChipQr",
    summary="The QR code to scan, or why there is none",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS,
)
async def get_qr(request: UserRequest, chip_id: FromPath[str]) -> QrCode:
    chip = intents.chosen(await chips_of(request), chip_id)
    return await services_of(request).qr.answer(chip)


@post(
    "/chips/{chip_id:str}/disconnect",
    status_code=200,
    guards=[requires_user],
    operation_id="disconnectChip",
    summary="Disconnect a chip; its credentials are kept",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS,
)
async def disconnect_chip(request: UserRequest, chip_id: FromPath[str]) -> Response[Chip]:
    chip = await intents.disconnect(services_of(request), request.user.id, chip_id, actor=actor_of(request))
    return rendered(request, chip)


@post(
    "/chips/{chip_id:str}/reconnect",
    status_code=200,
    guards=[requires_user],
    dto=StrictBody[Reconnect],
    operation_id="reconnectChip",
    summary="Connect a chip again; the body is optional",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS | errors(400, 413, 422),
)
async def reconnect_chip(
    request: UserRequest, chip_id: FromPath[str], data: JSONBody[Reconnect | None] = None
) -> Response[Chip]:
    fresh = data is not None and data.fresh
    chip = await intents.reconnect(
        services_of(request), request.user.id, chip_id, fresh=fresh, actor=actor_of(request)
    )
    return rendered(request, chip)
