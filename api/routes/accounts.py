"""Register, log in, and one's own account."""

from __future__ import annotations

import uuid
from typing import Any

from litestar import Request, Response, get, post, put
from litestar.datastructures import Cookie
from litestar.params import JSONBody

from api.auth import ACCESS_COOKIE, REFRESH_COOKIE, SUSPENDED, actor_of, requires_user
from api.bodies import StrictBody
from api.deadline import in_time
from api.openapi import SECURED, USER_ERRORS, errors
from api.schemas import AccountChange, IssuedTokens, Login, PlanFeatures, Registration, Session, User
from api.services import Services, services_of
from core.domain.accounts import FieldError, clean_email
from core.errors import DomainError, Forbidden, Unauthenticated
from core.store import accounts
from core.store.accounts import Account, NewAccount

TAGS = ["accounts"]


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
    await services.limits.of_register(services.proxies.client_address(request))
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
    return _session(request, services, account)


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
    async with services.limits.login(services.proxies.client_address(request), data.email):
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
        inactive = Unauthenticated("Usuário inválido ou inativo.", code="invalid_user")
        raise await _refused(request, account, inactive)
    better = None
    if stored is not None and verdict.better_hash is not None:
        better = (stored, verdict.better_hash)
    login = accounts.record_login(services.engine, account.id, better_hash=better, actor=actor_of(request))
    await in_time(login)
    return _session(request, services, account)


async def _refused(
    request: Request[Any, Any, Any], account: Account | None, error: DomainError
) -> DomainError:
    """`error`, once it is on record that this login was refused."""
    user_id = None if account is None else account.id
    engine = services_of(request).engine
    await in_time(accounts.record_refused_login(engine, user_id, code=error.code, actor=actor_of(request)))
    return error


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
        raise Unauthenticated("Usuário inválido ou inativo.", code="invalid_user")
    return _user(account)


def _session(request: Request[Any, Any, Any], services: Services, account: Account) -> Response[Session]:
    pair = services.tokens.issue(account.id)
    session = Session(
        user=_user(account),
        tokens=IssuedTokens(pair.access_token, pair.refresh_token),
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
    )
    settings = services.settings.api
    secure = services.proxies.is_https(request)
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
