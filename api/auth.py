"""Who calls. Runs as a guard, after routing: an unknown path is a 404 whatever the credentials are."""

from __future__ import annotations

import hmac
from typing import Any, Final

import msgspec
import structlog
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from api.deadline import in_time
from api.services import Services, services_of
from core.crypto import hashed_access_key
from core.domain.actor import Actor, ActorKind
from core.domain.api_keys import KeyRole, prefix_of
from core.errors import Forbidden, Unauthenticated
from core.store import api_keys
from core.store.accounts import Account
from core.store.standings import Standing

ACCESS_COOKIE: Final = "whago_access_token"
REFRESH_COOKIE: Final = "whago_refresh_token"
# Where the request's hold on its Idempotency-Key stands in the connection's scope.
CLAIM: Final = "wahafleet.claim"
SUSPENDED: Final = "Sua conta está suspensa. Entre em contato com o suporte."

_OPERATOR: Final = "operator"


class Principal(msgspec.Struct, frozen=True):
    """Who calls.

    Attributes:
        account: None for the operator's command line, which is nobody in particular.
        operator: may use the operator's routes.
        service: a trusted service (campaigns, heat-up), known by its key.
        key_id: the API key that was shown, if one was.
        expires_at: when the token does, as Unix time; None for what does not end by itself.
        standing: of the account's user, as it was read for this request; None when it was not.
    """

    account: Account | None
    operator: bool
    service: bool = False
    key_id: str | None = None
    expires_at: float | None = None
    standing: Standing | None = None


async def requires_user(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: lets users in. Raises Unauthenticated, or Forbidden for a suspended one."""
    principal = await authenticate(connection)
    if principal.account is None:
        raise Forbidden(
            "Esta rota pertence a um usuário. Entre com o token de um usuário.", code="user_required"
        )
    await _let_in(connection, principal)


async def requires_user_or_command_line(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    """Guard: lets users in, and the operator's command line as nobody. Raises as `requires_user`."""
    await _let_in(connection, await authenticate(connection))


async def requires_service(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: lets trusted services and operators in. Raises Unauthenticated, or Forbidden for anybody else."""
    principal = await authenticate(connection)
    if not (principal.service or principal.operator):
        raise Forbidden("Recurso disponível apenas para serviços autorizados.", code="service_required")
    await _let_in(connection, principal)


async def requires_operator(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: lets operators in. Raises Unauthenticated, or Forbidden for anybody else."""
    principal = await authenticate(connection)
    if not principal.operator:
        raise Forbidden("Recurso disponível apenas para operadores.", code="operator_required")
    await _let_in(connection, principal)


def standing_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Standing | None:
    """What a guard read on its way, for handlers that would read it again."""
    principal: Principal | None = connection.scope.get("auth")
    return None if principal is None else principal.standing


def actor_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Actor:
    """Who a guard let in, for the audit log; a visitor on a route without one."""
    principal: Principal | None = connection.scope.get("auth")
    kind = ActorKind.VISITOR
    if principal is not None:
        kind = ActorKind.USER
        if principal.service:
            kind = ActorKind.SERVICE
        elif principal.operator:
            kind = ActorKind.OPERATOR
    claim: Any = connection.scope.get(CLAIM)
    return Actor(
        kind=kind,
        user_id=principal.account.id if principal is not None and principal.account is not None else None,
        key_id=None if principal is None else principal.key_id,
        address=services_of(connection).proxies.client_address(connection.scope),
        request_id=structlog.contextvars.get_contextvars().get("request_id", ""),
        claim=claim,
    )


def actor_for(connection: ASGIConnection[Any, Any, Any, Any], user_id: str) -> Actor:
    """The user whose token was shown on a route without a guard."""
    return msgspec.structs.replace(actor_of(connection), kind=ActorKind.USER, user_id=user_id)


async def _let_in(connection: ASGIConnection[Any, Any, Any, Any], principal: Principal) -> None:
    connection.scope["user"] = principal.account
    connection.scope["auth"] = principal
    method = str(connection.scope.get("method", "GET"))  # a socket has none
    await services_of(connection).limits.of_principal(principal, method)


async def authenticate(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """The first credential that holds: cookie, bearer, API key. What does not hold is ignored while another does.

    Raises Unauthenticated with the reason of the API key if one was shown, else of the first token; Forbidden for a
    suspended account and for a key whose plan has none; Unavailable.
    """
    key = connection.headers.get("x-api-key", "").strip()
    try:
        return await authenticate_by_token(connection)
    except Unauthenticated:
        if not key:
            raise
    return await _by_key(services_of(connection), key)


async def authenticate_by_token(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """As `authenticate`, for callers whose API key counts nothing."""
    services = services_of(connection)
    refused: Unauthenticated | None = None
    for token in _tokens(connection):
        if _is_operator_token(services, token):
            return Principal(None, operator=True)
        try:
            principal = await _principal(services, token)
        except Unauthenticated as error:
            refused = refused or error
            continue
        return _not_suspended(principal)
    raise refused or Unauthenticated("Token de acesso não encontrado.", code="token_missing")


def _not_suspended(principal: Principal) -> Principal:
    if principal.account is not None and principal.account.suspended:
        raise Forbidden(SUSPENDED, code="account_suspended")
    return principal


def _tokens(connection: ASGIConnection[Any, Any, Any, Any]) -> list[str]:
    found = []
    cookie = connection.cookies.get(ACCESS_COOKIE, "").strip()
    if cookie:
        found.append(cookie)
    scheme, _, value = connection.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        found.append(value.strip())
    return found


def _is_operator_token(services: Services, token: str) -> bool:
    expected = services.settings.api.operator_token
    return expected is not None and hmac.compare_digest(expected.reveal().encode(), token.encode())


async def _principal(services: Services, token: str) -> Principal:
    claims = await services.tokens.read(token)
    account, standing = None, None
    if claims.user_id is not None and services.upstream is not None:
        account = await services.upstream.account(claims.user_id, claims, token)
    elif claims.user_id is not None:
        found = await services.accounts.find(claims.user_id)
        account, standing = found or (None, None)
    if account is None or not account.is_active:
        raise invalid_user()
    listed = services.operators
    by_list = account.id in listed or account.email in listed
    operator = by_list or (claims.role or account.role) == _OPERATOR
    return Principal(account, operator=operator, expires_at=claims.expires_at, standing=standing)


async def _by_key(services: Services, key: str) -> Principal:
    prefix = prefix_of(key)
    found = None if prefix is None else await in_time(api_keys.find_live(services.engine, prefix))
    attached = services.upstream is not None
    if (
        found is None
        or not hmac.compare_digest(found.key_hash, hashed_access_key(key))
        # Keys of users are WHAGO's there, like all that is theirs.
        or (attached and found.role == KeyRole.USER)
    ):
        raise Unauthenticated("API Key inválida.", code="invalid_api_key")
    if found.role == KeyRole.USER:
        account = found.account
        if account is None or not account.is_active:
            raise invalid_user()
        # Told before the plan: who is suspended has more to hear of than keys.
        _not_suspended(Principal(account, operator=False))
        requires_plan_with_api(account)
    if found.use_is_old:
        await in_time(api_keys.used(services.engine, found.id))
    return Principal(
        found.account,
        operator=found.role == KeyRole.OPERATOR,
        service=found.role == KeyRole.SERVICE,
        key_id=found.id,
    )


def requires_plan_with_api(account: Account) -> None:
    """Raises Forbidden for a plan without API access."""
    if not account.api_access:
        raise Forbidden("Recurso disponível apenas no plano Enterprise.", code="plan_without_api")


def invalid_user() -> Unauthenticated:
    """A token or a login of nobody, or of an account that is not active."""
    return Unauthenticated("Usuário inválido ou inativo.", code="invalid_user")
