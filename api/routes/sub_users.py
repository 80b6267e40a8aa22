"""Logins at providers, for operators. Passwords come in and never go out."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.params import FromPath, JSONBody

from api.auth import actor_of, requires_operator
from api.bodies import StrictBody, changes_of
from api.deadline import in_time
from api.openapi import errors
from api.provider_views import sub_user_view
from api.routes.containers import SECURED
from api.routes.providers import TAGS, known
from api.routing import delete, get, post, put
from api.schemas_providers import NewSubUser, ProxySubUser, SubUserChange
from api.services import services_of
from core.domain.names import parse_id
from core.domain.providers import SubUser
from core.store import sub_users_admin as store

_READ: Final = errors(401, 403, 404, 503)
_WRITE: Final = errors(400, 401, 403, 404, 413, 422, 503)


@get(
    "/fleet/providers/{provider:str}/sub-users",
    guards=[requires_operator],
    operation_id="listSubUsers",
    summary="A provider's sub-users, by login; without their passwords",
    tags=TAGS,
    security=SECURED,
    responses=_READ,
)
async def list_sub_users(request: Request[Any, Any, Any], provider: FromPath[str]) -> list[ProxySubUser]:
    found = await in_time(store.list_sub_users(services_of(request).engine, known(provider)))
    return [sub_user_view(row) for row in found]


@post(
    "/fleet/providers/{provider:str}/sub-users",
    guards=[requires_operator],
    dto=StrictBody[NewSubUser],
    operation_id="createSubUser",
    summary="Make a sub-user",
    description="The password is kept sealed. Chips that wait for a proxy get labels of it at once.",
    tags=TAGS,
    security=SECURED,
    responses=_WRITE | errors(409),
)
async def create_sub_user(
    request: Request[Any, Any, Any], provider: FromPath[str], data: JSONBody[NewSubUser]
) -> ProxySubUser:
    services = services_of(request)
    made = store.create_sub_user(
        services.engine,
        services.vault.sealer,
        known(provider),
        SubUser(data.login, data.password),
        max_labels=data.max_labels,
        enabled=data.enabled,
        actor=actor_of(request),
    )
    return sub_user_view(await in_time(made))


@put(
    "/fleet/providers/{provider:str}/sub-users/{sub_user_id:str}",
    guards=[requires_operator],
    dto=StrictBody[SubUserChange],
    operation_id="changeSubUser",
    summary="Change a sub-user's password, its limit, or whether it is used",
    description=(
        "`enabled: false`: its chips get labels of another sub-user. A new password closes the tunnels of its chips, "
        "which come back with it."
    ),
    tags=TAGS,
    security=SECURED,
    responses=_WRITE,
)
async def change_sub_user(
    request: Request[Any, Any, Any],
    provider: FromPath[str],
    sub_user_id: FromPath[str],
    data: JSONBody[SubUserChange],
) -> ProxySubUser:
    services = services_of(request)
    changed = store.change_sub_user(
        services.engine,
        services.vault.sealer,
        known(provider),
        _known_id(sub_user_id),
        changes_of(data),
        actor=actor_of(request),
    )
    return sub_user_view(await in_time(changed))


@delete(
    "/fleet/providers/{provider:str}/sub-users/{sub_user_id:str}",
    guards=[requires_operator],
    operation_id="removeSubUser",
    summary="Remove a sub-user that no chip goes out through",
    description="409 `sub_user_in_use` while chips go out through it.",
    tags=TAGS,
    security=SECURED,
    responses=_READ | errors(409),
)
async def remove_sub_user(
    request: Request[Any, Any, Any], provider: FromPath[str], sub_user_id: FromPath[str]
) -> None:
    engine, actor = services_of(request).engine, actor_of(request)
    await in_time(store.remove_sub_user(engine, known(provider), _known_id(sub_user_id), actor=actor))


@delete(
    "/fleet/providers/{provider:str}/sub-users/{sub_user_id:str}/trouble",
    status_code=200,
    guards=[requires_operator],
    operation_id="clearSubUserTrouble",
    summary="Forget what was last told against a sub-user, so that chips try again at once",
    description="It is forgotten by itself ten minutes after it was told.",
    tags=TAGS,
    security=SECURED,
    responses=_READ,
)
async def clear_sub_user_trouble(
    request: Request[Any, Any, Any], provider: FromPath[str], sub_user_id: FromPath[str]
) -> ProxySubUser:
    engine, actor = services_of(request).engine, actor_of(request)
    cleared = store.clear_sub_user_trouble(engine, known(provider), _known_id(sub_user_id), actor=actor)
    return sub_user_view(await in_time(cleared))


def _known_id(sub_user_id: str) -> str:
    found = parse_id(sub_user_id)
    if found is None:
        raise store.unknown_sub_user()
    return found
