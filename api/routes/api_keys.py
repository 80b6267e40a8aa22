"""A user's API keys. Those of services and operators are made by the command line alone."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.params import FromPath, FromQuery, JSONBody

from api.auth import actor_of, requires_plan_with_api, requires_user
from api.bodies import StrictBody
from api.deadline import in_time
from api.openapi import SECURED, USER_ERRORS, errors
from api.parameters import limit_of, next_link
from api.routing import delete, get, post
from api.schemas_accounts import ApiKey, CreatedApiKey, NewApiKey
from api.services import services_of
from core.domain.names import parse_id
from core.errors import InvalidInput
from core.store import api_keys as store
from core.store.accounts import Account

TAGS = ["accounts"]
UserRequest = Request[Account, Any, Any]


@get(
    "/api-keys",
    guards=[requires_user],
    operation_id="listApiKeys",
    summary="One's own API keys, newest first, revoked ones too",
    description="`limit`: 1 to 200, 100 by default. The next page stands in `Link`.",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS | errors(422),
)
async def list_api_keys(
    request: UserRequest, limit: FromQuery[str] = "100", cursor: FromQuery[str] = ""
) -> Response[list[ApiKey]]:
    requires_plan_with_api(request.user)
    wanted = limit_of(limit)
    if cursor and parse_id(cursor) is None:
        told = "Use o valor que a página anterior informou."
        raise InvalidInput(f"cursor: {told}", fields={"cursor": told})
    keys = await in_time(
        store.list_of(services_of(request).engine, request.user.id, limit=wanted + 1, after=cursor or None)
    )
    more = len(keys) > wanted
    headers = next_link("/api/v1/api-keys", limit=str(wanted), cursor=keys[wanted - 1].id) if more else {}
    return Response([_shown(key) for key in keys[:wanted]], headers=headers)


@post(
    "/api-keys",
    guards=[requires_user],
    dto=StrictBody[NewApiKey],
    operation_id="createApiKey",
    summary="Make an API key; it is shown in this answer and never again",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS | errors(400, 413, 422),
)
async def create_api_key(request: UserRequest, data: JSONBody[NewApiKey]) -> CreatedApiKey:
    requires_plan_with_api(request.user)
    made, key = await in_time(
        store.create(
            services_of(request).engine, name=data.name, user_id=request.user.id, actor=actor_of(request)
        )
    )
    return CreatedApiKey(
        id=made.id,
        name=made.name,
        prefix=made.prefix,
        created_at=made.created_at,
        last_used_at=made.last_used_at,
        revoked_at=made.revoked_at,
        is_active=True,
        key=key,
    )


@delete(
    "/api-keys/{key_id:str}",
    guards=[requires_user],
    operation_id="revokeApiKey",
    summary="Revoke an API key; whatever the plan",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS | errors(404),
)
async def revoke_api_key(request: UserRequest, key_id: FromPath[str]) -> None:
    engine = services_of(request).engine
    await in_time(store.revoke(engine, request.user.id, key_id, actor=actor_of(request)))


def _shown(key: store.ApiKey) -> ApiKey:
    return ApiKey(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        revoked_at=key.revoked_at,
        is_active=key.revoked_at is None,
    )
