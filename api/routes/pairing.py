"""Pairing by a code."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.params import FromPath, JSONBody

from api import pairing
from api.auth import actor_of, requires_user
from api.bodies import StrictBody
from api.openapi import CHIP_ERRORS, SECURED, errors
from api.routing import post
from api.schemas_live import NewPairingCode, PairingCode
from api.services import services_of
from core.store.accounts import Account

TAGS = ["chips"]
UserRequest = Request[Account, Any, Any]


@post(
    "/chips/{chip_id:str}/pairing-code",
    status_code=200,
    guards=[requires_user],
    dto=StrictBody[NewPairingCode],
    operation_id="requestPairingCode",
    summary="A code to type on the phone instead of scanning a QR",
    description=(
        "Counts as a press on Conectar: the chip is wished connected, and QR sets are bought, unless such a wish is "
        "on its way already. Waits up to 10 s for the session; 503 with `Retry-After` when it does not come up."
    ),
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS | errors(400, 409, 413, 422),
)
async def request_pairing_code(
    request: UserRequest, chip_id: FromPath[str], data: JSONBody[NewPairingCode]
) -> PairingCode:
    services = services_of(request)
    return await pairing.pairing_code(
        services, request.user.id, chip_id, data.phone_number, actor_of(request)
    )
