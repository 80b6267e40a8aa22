"""What chips go out through, and what that costs: for their users and for operators."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from api.auth import actor_of, requires_operator, requires_user, requires_user_or_command_line
from api.deadline import in_time
from api.intents import known_id
from api.openapi import CHIP_ERRORS, SECURED, USER_ERRORS, errors
from api.parameters import MOST, cursor_of, limit_of, next_link
from api.provider_views import usage_view
from api.routes.containers import SECURED as OPERATORS
from api.routes.containers import user_of
from api.routes.containers_admin import operator_name
from api.routing import get, post
from api.schemas_live import ChipProxy
from api.schemas_proxies import ChipExit, FleetProxyUsage, LabelRotation
from api.services import services_of
from core.domain.history import event_id, event_number
from core.domain.proxy_usage import ProxyUsage, proxy_usage
from core.domain.states import reason_text
from core.errors import InvalidInput, NotFound
from core.store import chips_admin, proxy_views
from core.store.accounts import Account
from core.store.containers_admin import NO_SUCH_USER
from core.store.intents import unknown_chip
from core.store.proxy_views import ChipProxyRow

TAGS = ["proxies"]
_DIRECT: Final = "Este chip sai para a internet sem proxy."
_NO_LABEL: Final = "Este chip ainda não tem um proxy; ele recebe um quando iniciar."
_RELEASED: Final = "O chip está desconectado; o mesmo proxy volta com ele."
_NOT_READ: Final = "O endereço de saída deste chip ainda não foi verificado."
_ROTATING: Final = "O proxy deste chip está sendo trocado."
_ASKED: Final = "A troca de proxy foi pedida; o chip reconecta com um novo endereço em instantes."
_ASKED_ALREADY: Final = "A troca de proxy já foi pedida e segue em andamento."
_MONTH: Final = re.compile(r"(20[0-9]{2}|2[1-9][0-9]{2})-(0[1-9]|1[0-2])", re.ASCII)


@get(
    "/chips/{chip_id:str}/proxy",
    guards=[requires_user_or_command_line],
    operation_id="getChipProxy",
    summary="The proxy that a chip goes out through",
    tags=["chips"],
    security=[*SECURED, {"operator": []}],
    responses=CHIP_ERRORS,
)
async def get_chip_proxy(request: Request[Any, Any, Any], chip_id: FromPath[str]) -> ChipProxy:
    services = services_of(request)
    known = await _visible(request, chip_id)
    row = await in_time(proxy_views.chip_proxy(services.engine, known))
    if row is None:
        raise unknown_chip()
    enabled = services.proxy_enabled
    return ChipProxy(
        enabled=enabled,
        provider=row.provider,
        label=row.label,
        country=row.country,
        exit_ip=row.exit_ip,
        exit_ip_since=row.exit_since,
        bytes_this_month=row.bytes_this_month,
        message=_message(row) if enabled else _DIRECT,
    )


@get(
    "/chips/{chip_id:str}/proxy/history",
    guards=[requires_user_or_command_line],
    operation_id="listChipExits",
    summary="Labels and exit addresses of a chip, newest first",
    description=(
        f'`limit`: 1 to {MOST}. The next page is named in `Link: <...>; rel="next"`; its `cursor` is the id of the '
        "last line here. A line begins when label or address changes; an address is read hourly at most."
    ),
    tags=["chips"],
    security=[*SECURED, {"operator": []}],
    responses=CHIP_ERRORS | errors(422),
)
async def list_chip_exits(
    request: Request[Any, Any, Any],
    chip_id: FromPath[str],
    limit: FromQuery[str] = "50",
    cursor: FromQuery[str | None] = None,
) -> Response[list[ChipExit]]:
    wanted, before = limit_of(limit), _before(cursor)
    known = await _visible(request, chip_id)
    engine = services_of(request).engine
    found = await in_time(proxy_views.list_exits(engine, known, before=before, limit=wanted + 1))
    page = [
        ChipExit(
            id=event_id(one.number),
            provider=one.provider,
            label=one.label,
            label_generation=one.label_generation,
            exit_ip=one.exit_ip,
            seen_from=one.seen_from,
            seen_until=one.seen_until,
            why=one.why,
        )
        for one in found[:wanted]
    ]
    path, more = f"/api/v1/chips/{known}/proxy/history", len(found) > wanted
    return Response(page, headers=next_link(path, limit=str(wanted), cursor=page[-1].id) if more else {})


@post(
    "/chips/{chip_id:str}/proxy/rotate",
    status_code=202,
    guards=[requires_operator],
    operation_id="rotateChipLabel",
    summary="Give a chip another label, and with it another exit",
    description=(
        "A wish: the daemon assigns the next label, and the chip's tunnels are closed so that it comes back through "
        "it, without a restart and without a QR code. A wish that is on its way stands for this one too."
    ),
    tags=TAGS,
    security=OPERATORS,
    responses=errors(401, 403, 404, 409, 503),
)
async def rotate_chip_label(request: Request[Any, Any, Any], chip_id: FromPath[str]) -> LabelRotation:
    known, actor = known_id(chip_id), actor_of(request)
    wished = chips_admin.rotate_label(
        services_of(request).engine, known, by=operator_name(actor), actor=actor
    )
    generation, new = await in_time(wished)
    return LabelRotation(known, "rotating", generation, _ASKED if new else _ASKED_ALREADY)


@get(
    "/user/proxy/usage",
    guards=[requires_user],
    operation_id="getProxyUsage",
    summary="Proxy traffic of all one's chips, this calendar month",
    tags=["me"],
    security=SECURED,
    responses=USER_ERRORS,
)
async def get_proxy_usage(request: Request[Account, Any, Any]) -> ProxyUsage:
    used, cost, limit_gb = await in_time(
        proxy_views.usage_of_user(services_of(request).engine, request.user.id)
    )
    return proxy_usage(used, limit_gb, cost)


@get(
    "/fleet/proxy/usage",
    guards=[requires_operator],
    operation_id="getFleetProxyUsage",
    summary="Proxy traffic and its cost, by provider and by user",
    description=(
        "`month`: `YYYY-MM`, this one by default (UTC). `user`: an id or e-mail, for that user alone. `limit`: users a "
        'page, 1 to 200; the next page stands in `Link: <...>; rel="next"`. Sums and `providers` are of all pages.'
    ),
    tags=TAGS,
    security=OPERATORS,
    responses=errors(401, 403, 404, 422, 503),
)
async def get_fleet_proxy_usage(
    request: Request[Any, Any, Any],
    month: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: FromQuery[str] = "50",
) -> Response[FleetProxyUsage]:
    services = services_of(request)
    chosen, size, after = _month(month), limit_of(limit), cursor_of(cursor)
    user_id = None if user is None else await user_of(services, user)
    if user is not None and user_id is None:
        raise NotFound(NO_SUCH_USER, code="user_not_found")
    found = await in_time(
        proxy_views.usage_of_month(services.engine, chosen, user_id=user_id, after=after, limit=size + 1)
    )
    headers = {}
    if len(found.users) > size:
        found = proxy_views.cut_to(found, size)
        headers = next_link(
            request.url.path, month=month, user=user, limit=str(size), cursor=found.users[-1].user_id
        )
    return Response(usage_view(found), headers=headers)


async def _visible(request: Request[Any, Any, Any], chip_id: str) -> str:
    """The id of a chip that the caller may see. Raises NotFound."""
    known, account = known_id(chip_id), request.scope.get("user")
    owner = await in_time(chips_admin.owner_of(services_of(request).engine, known))
    if owner is None or (account is not None and account.id != owner):
        raise unknown_chip()
    return known


def _message(row: ChipProxyRow) -> str | None:
    if row.label is None or row.generation is None or row.requested_generation is None:
        return _NO_LABEL
    if row.released_at is not None:
        return _RELEASED
    if row.requested_generation > row.generation:
        return _ROTATING
    if row.unusable is not None or row.failure is not None:
        return reason_text(row.unusable or row.failure)
    return _NOT_READ if row.exit_ip is None else None


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    number = event_number(cursor)
    if number is None:
        told = "Use o cursor que a página anterior informou em Link."
        raise InvalidInput(f"cursor: {told}", fields={"cursor": told})
    return number


def _month(text: str | None) -> date | None:
    if text is None:
        return None
    found = _MONTH.fullmatch(text)
    if found is None:
        told = "Use um mês como 2026-07."
        raise InvalidInput(f"month: {told}", fields={"month": told})
    return date(int(found[1]), int(found[2]), 1)
