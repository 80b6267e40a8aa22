"""Register, log in and out, refresh, and one's own account."""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.params import JSONBody

from api.auth import (
    ACCESS_COOKIE,
    REFRESH_COOKIE,
    SUSPENDED,
    actor_for,
    actor_of,
    invalid_user,
    requires_user,
)
from api.bodies import StrictBody
from api.deadline import in_time
from api.openapi import SECURED, USER_ERRORS, errors
from api.problems import unavailable
from api.routing import get, post, put
from api.schemas import AccountChange, IssuedTokens, Login, PlanFeatures, Registration, Session, User
from api.schemas_accounts import LoggedOut
from api.services import Services, services_of
from api.tokens import TokenPair
from core.domain.accounts import FieldError, clean_email
from core.domain.refresh import Verdict
from core.errors import DomainError, Forbidden, Unauthenticated, Unavailable
from core.store import accounts
from core.store import refresh_families as families
from core.store.accounts import Account, NewAccount

TAGS = ["accounts"]
_log = structlog.get_logger("api")


@post(
    "/auth/register",
    dto=StrictBody[Registration],
    operation_id="register",
    summary="Open an account",
    tags=TAGS,
    responses=errors(400, 413, 422, 503),
)
async def register(request: Request[Any, Any, Any], data: JSONBody[Registration]) -> Response[Session]:
    services = services_of(request)
    await services.limits.of_register(services.proxies.client_address(request.scope))
    new = NewAccount(
        id=str(uuid.uuid4()),
        email=data.email,
        name=data.name,
        phone=data.phone,
        company_name=data.company_name or None,
        document=data.document or None,
        password_hash=await services.passwords.hash(data.password),
        plan_slug=data.plan_slug,
    )
    account = await in_time(accounts.create(services.engine, new, actor=actor_of(request)))
    return await _begun(request, services, account, new.password_hash)


@post(
    "/auth/login",
    status_code=200,
    dto=StrictBody[Login],
    operation_id="login",
    summary="Log in with e-mail and password",
    tags=TAGS,
    responses=errors(400, 401, 403, 413, 422, 503),
)
async def login(request: Request[Any, Any, Any], data: JSONBody[Login]) -> Response[Session]:
    services = services_of(request)
    async with services.limits.login(services.proxies.client_address(request.scope), data.email):
        return await _logged_in(request, data)


async def _logged_in(request: Request[Any, Any, Any], data: Login) -> Response[Session]:
    services = services_of(request)
    try:
        found = await in_time(accounts.find_login(services.engine, clean_email(data.email)))
    except FieldError:
        found = None
    account, stored = found or (None, None)
    verdict = await services.passwords.verify(stored, data.password)
    if account is None or not verdict.matches:
        raise await _refused(
            request, account, Unauthenticated("Email ou senha incorretos.", code="wrong_login")
        )
    if account.suspended:
        raise await _refused(request, account, Forbidden(SUSPENDED, code="account_suspended"))
    if not account.is_active:
        raise await _refused(request, account, invalid_user())
    answer = await _begun(request, services, account, stored)
    better = None
    if stored is not None and verdict.better_hash is not None:
        better = (stored, verdict.better_hash)
    login = accounts.record_login(services.engine, account.id, better_hash=better, actor=actor_of(request))
    await in_time(login)
    return answer


async def _refused(
    request: Request[Any, Any, Any], account: Account | None, error: DomainError
) -> DomainError:
    """`error`, once it is on record that this login was refused."""
    user_id = None if account is None else account.id
    engine = services_of(request).engine
    await in_time(accounts.record_refused_login(engine, user_id, code=error.code, actor=actor_of(request)))
    return error


@post(
    "/auth/refresh",
    status_code=200,
    operation_id="refresh",
    summary="Exchange the refresh token for a new pair",
    description=(
        "The token comes as cookie `whago_refresh_token`; a body is not read. Each token may be used once: one that "
        "is used again ends every token that came of the same login. A repetition within ten seconds is answered "
        "with the same new refresh token, for a page that asks twice at once."
    ),
    tags=TAGS,
    responses=errors(401, 403, 503),
)
async def refresh(request: Request[Any, Any, Any]) -> Response[Session]:
    services = services_of(request)
    shown = request.cookies.get(REFRESH_COOKIE, "").strip()
    if not shown:
        raise Unauthenticated("Refresh token não encontrado.", code="refresh_token_missing")
    claims = services.tokens.read_refresh(shown)
    account = await in_time(accounts.find(services.engine, claims.user_id))
    if account is None or not account.is_active:
        raise invalid_user()
    if account.suspended:
        raise Forbidden(SUSPENDED, code="account_suspended")
    pair = services.tokens.issue(account.id, claims)
    presented = families.Token(claims.family_id, claims.jti_hash, pair.expires_at)
    verdict = await in_time(
        families.refresh(
            services.engine, account.id, presented, _stored(pair), actor=actor_for(request, account.id)
        )
    )
    if verdict is Verdict.REUSED:
        _log.warning("refresh_token_reused", user_id=account.id, family_id=claims.family_id)
    if verdict not in (Verdict.ROTATE, Verdict.REPEAT):
        raise Unauthenticated("Refresh token inválido ou expirado.", code="invalid_refresh_token")
    return _session(request, services, account, pair)


@post(
    "/auth/logout",
    status_code=200,
    operation_id="logout",
    summary="Log out: ends the login and clears both cookies, whatever they are worth",
    description="A body is not read. While the store is away the cookies are cleared all the same, with the 503.",
    tags=TAGS,
    responses=errors(503),
)
async def logout(request: Request[Any, Any, Any]) -> Response[LoggedOut]:
    services = services_of(request)
    secure = services.proxies.is_https(request.scope)
    cookies = [_cookie(name, "", 0, secure=secure) for name in (ACCESS_COOKIE, REFRESH_COOKIE)]
    try:
        claims = services.tokens.read_refresh(request.cookies.get(REFRESH_COOKIE, ""), expired_too=True)
        actor = actor_for(request, claims.user_id)
        await in_time(families.end(services.engine, claims.user_id, claims.family_id, actor=actor))
    except Unauthenticated:
        pass  # no login to end: what is left is to clear what the browser holds
    except Unavailable as error:
        _log.warning("dependency_away", system=error.system, error=error.message, path=request.url.path)
        answer: Response[Any] = unavailable(request.url.path)
        answer.cookies = cookies
        return answer
    return Response(LoggedOut("Sessão encerrada."), cookies=cookies)


@get(
    "/users/me",
    guards=[requires_user],
    operation_id="getMe",
    summary="One's own account",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS,
)
async def get_me(request: Request[Account, Any, Any]) -> User:
    return _user(request.user)


@put(
    "/users/me",
    guards=[requires_user],
    dto=StrictBody[AccountChange],
    operation_id="changeMe",
    summary="Change one's own account",
    tags=TAGS,
    security=SECURED,
    responses=USER_ERRORS | errors(400, 413, 422),
)
async def change_me(request: Request[Account, Any, Any], data: JSONBody[AccountChange]) -> User:
    account = await in_time(
        accounts.change(services_of(request).engine, request.user.id, data.changes(), actor=actor_of(request))
    )
    if account is None:
        raise invalid_user()
    return _user(account)


async def _begun(
    request: Request[Any, Any, Any], services: Services, account: Account, password_hash: str | None
) -> Response[Session]:
    """The answer to a proved password. Raises Unauthenticated when it was changed in this very moment."""
    pair = services.tokens.issue(account.id)
    begun = families.begin(services.engine, account.id, _stored(pair), password_hash=password_hash)
    if not await in_time(begun):
        raise Unauthenticated("Email ou senha incorretos.", code="wrong_login")
    return _session(request, services, account, pair)


def _stored(pair: TokenPair) -> families.Token:
    return families.Token(pair.family_id, pair.jti_hash, pair.expires_at)


def _session(
    request: Request[Any, Any, Any], services: Services, account: Account, pair: TokenPair
) -> Response[Session]:
    session = Session(
        user=_user(account),
        tokens=IssuedTokens(pair.access_token, pair.refresh_token),
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
    )
    settings = services.settings.api
    secure = services.proxies.is_https(request.scope)
    cookies = [
        _cookie(ACCESS_COOKIE, pair.access_token, settings.access_token_s, secure=secure),
        _cookie(REFRESH_COOKIE, pair.refresh_token, settings.refresh_token_s, secure=secure),
    ]
    return Response(session, cookies=cookies)


def _cookie(name: str, value: str, life_s: int, *, secure: bool) -> Cookie:
    return Cookie(
        key=name, value=value, path="/", max_age=life_s, secure=secure, httponly=True, samesite="lax"
    )


def _user(account: Account) -> User:
    return User(
        id=account.id,
        email=account.email,
        name=account.name,
        phone=account.phone,
        company_name=account.company_name,
        document=account.document,
        credits=account.credits,
        plan=account.plan_title,
        plan_slug=account.plan_slug,
        plan_features=PlanFeatures(api_access=account.api_access, webhooks=False),
        is_active=account.is_active,
        is_verified=account.is_verified,
        created_at=account.created_at,
        updated_at=account.updated_at,
    )
