"""Pairing by a code, and what proxies did for one's chips."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.params import FromPath, JSONBody

from api import pairing
from api.auth import actor_of, requires_user
from api.bodies import StrictBody
from api.deadline import in_time
from api.intents import known_id
from api.openapi import CHIP_ERRORS, SECURED, USER_ERRORS, errors
from api.routing import get, post
from api.schemas_live import ChipProxy, NewPairingCode, PairingCode
from api.services import services_of
from core.domain.proxy_usage import ProxyUsage, proxy_usage
from core.store import queries
from core.store.accounts import Account
from core.store.intents import unknown_chip

TAGS = ["chips"]
UserRequest = Request[Account, Any, Any]
_DIRECT = "Este chip sai para a internet sem proxy."
_NOT_MEASURED = "O proxy deste chip ainda não foi medido."


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


@get(
    "/chips/{chip_id:str}/proxy",
    guards=[requires_user],
    operation_id="getChipProxy",
    summary="The proxy that a chip goes out through",
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS,
)
async def get_chip_proxy(request: UserRequest, chip_id: FromPath[str]) -> ChipProxy:
    services = services_of(request)
    chip = await in_time(queries.read_chip(services.engine, request.user.id, known_id(chip_id)))
    if chip is None:
        raise unknown_chip()
    # Nothing assigns or meters proxies yet, so there is nothing on record to tell.
    return ChipProxy(
        enabled=services.proxy_enabled,
        provider=None,
        label=None,
        country=None,
        exit_ip=None,
        exit_ip_since=None,
        bytes_this_month=0,
        message=_NOT_MEASURED if services.proxy_enabled else _DIRECT,
    )


@get(
    "/user/proxy/usage",
    guards=[requires_user],
    operation_id="getProxyUsage",
    summary="Proxy traffic of all one's chips, this calendar month",
    tags=["me"],
    security=SECURED,
    responses=USER_ERRORS,
)
async def get_proxy_usage(request: UserRequest) -> ProxyUsage:
    limit_gb = await in_time(queries.proxy_limit_gb(services_of(request).engine, request.user.id))
    # As when a chip is created: what nobody meters was not used.
    return proxy_usage(0, limit_gb)
