"""Attached mode: who a token's user is, as the WHAGO backend tells it.

The store's row is what all processes share: it says what is known of a user and how old that is. Whoever finds it
older than the setting asks with the caller's own token, all requests of a user together; through Redis all processes
together, without it each for itself. What the token itself claims wins.

So the upstream is asked about a user, not about each token: one that is signed and has not expired is good while what
is known of its user is fresh, whichever token that was asked with. Only what the upstream said of a token itself is
held against it, for a while.

    upstream says                    known before              never seen
    a profile                        that                      that
    nothing, or nothing of sense     what was known            503, unless the token claims a plan
    401                              401, for this token       401
    403                              403, suspended            403
    a plan that has no row here      403, and a log line       403, and a log line
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
import structlog

from api.deadline import in_time
from api.tokens import Claims
from core.clients.cache import Cache
from core.clients.upstream import ACCOUNT_REFUSED, SYSTEM, UpstreamClient
from core.clock import Clock
from core.domain.profiles import Profile, profile
from core.errors import DependencyError, DomainError, Forbidden, Rejected, Unauthenticated, Unavailable
from core.store import upstream_accounts as store
from core.store.accounts import Account
from core.store.engine import Engine
from core.store.upstream_accounts import KnownAccount

# A refusal costs the upstream one call in so long for each token, however often the page asks.
_REFUSED_FOR_S: Final = 15.0
# An upstream that was silent is left alone, so that those who are known wait for it once and not at each request.
_AWAY_FOR_S: Final = 5.0
# Beyond the call itself, for the write: who waits for another's answer finds it in the store then.
_WRITE_S: Final = 2.0
_SETTLED_S: Final = 1.0
_REFUSALS_LIMIT: Final = 10_000
_TRIES: Final = 3

_log = structlog.get_logger("api")


class _RefusedError(Exception):
    """The outcome of one token, which says nothing of the user's others."""

    def __init__(self, digest: bytes, refusal: DomainError) -> None:
        super().__init__(refusal.code)
        self.digest = digest
        self.refusal = refusal


class UpstreamAccounts:
    """Accounts of another backend."""

    def __init__(
        self,
        engine: Engine,
        cache: Cache,
        client: UpstreamClient,
        clock: Clock,
        *,
        profile_s: float,
        timeout_s: float,
    ) -> None:
        """`profile_s`: how long what it told of a user holds. `timeout_s`: of one call of `client`."""
        self._engine = engine
        self._cache = cache
        self._client = client
        self._clock = clock
        self._profile_s = profile_s
        self._wait_s = timeout_s + _WRITE_S
        self._away_until = 0.0
        self._refusals: dict[bytes, tuple[float, DomainError]] = {}

    async def account(self, user_id: str, claims: Claims, token: str) -> Account:
        """The user's account, active or not.

        Raises Unauthenticated, Forbidden, and Unavailable for one who was never seen while the upstream is away.
        """
        digest = hashlib.sha256(token.encode()).digest()
        self._raise_if_refused(digest)
        known = await in_time(store.find(self._engine, user_id))
        if not self._is_fresh(known):
            known = await self._brought_up_to_date(user_id, claims, token, digest, known)
        if known is None:
            return await self._from_claims(user_id, claims)
        return await self._claimed(known.account, claims)

    def _is_fresh(self, known: KnownAccount | None) -> bool:
        return known is not None and known.age_s is not None and known.age_s < self._profile_s

    async def _brought_up_to_date(
        self, user_id: str, claims: Claims, token: str, digest: bytes, known: KnownAccount | None
    ) -> KnownAccount | None:
        for _ in range(_TRIES):
            self._raise_if_refused(digest)
            if self._clock.monotonic() < self._away_until:
                return known
            try:
                await self._cache.single_flight(
                    f"profile:{user_id}",
                    _SETTLED_S,
                    lambda: self._ask(user_id, claims, token, digest),
                    self._wait_s,
                )
            except _RefusedError as error:
                if error.digest == digest:
                    raise _again(error.refusal) from error
                continue  # another token's: this one asks for itself
            except Unavailable as error:
                if error.system != SYSTEM:
                    raise
                return known
            break
        return await in_time(store.find(self._engine, user_id)) or known

    async def _ask(self, user_id: str, claims: Claims, token: str, digest: bytes) -> bytes:
        # Another process may have been told meanwhile.
        if self._is_fresh(await in_time(store.find(self._engine, user_id))):
            return b"known"
        try:
            told = await self._client.profile(token)
            if told.id.lower() != user_id:
                raise Unavailable(SYSTEM, "it answers with another user's profile", code="unreadable")
        except Rejected as error:
            raise self._refused(digest, _refusal(error)) from error
        except DependencyError as error:
            if self._clock.monotonic() >= self._away_until:
                _log.warning("upstream_away", error=error.message)
            self._away_until = self._clock.monotonic() + _AWAY_FOR_S
            raise
        found = profile(
            user_id,
            claims.plan_slug or told.plan_slug,
            is_active=told.is_active if claims.is_active is None else claims.is_active,
            email=claims.email or told.email,
            name=claims.name or told.name,
            phone=told.phone,
            company_name=told.company_name,
            document=told.document,
        )
        try:
            await self._remembered(found, told=True)
        except Forbidden as error:
            raise self._refused(digest, error) from error
        return b"told"

    async def _from_claims(self, user_id: str, claims: Claims) -> Account:
        if claims.plan_slug is None:
            raise Unavailable(SYSTEM, "a user who was never seen cannot be asked for")
        active = claims.is_active is not False
        found = profile(user_id, claims.plan_slug, is_active=active, email=claims.email, name=claims.name)
        return await self._remembered(found, told=False)

    async def _claimed(self, account: Account, claims: Claims) -> Account:
        """The account as the token claims it to be; written when that is something else than what is stored."""
        claimed = profile(
            account.id,
            claims.plan_slug or account.plan_slug,
            is_active=account.is_active if claims.is_active is None else claims.is_active,
            email=claims.email or account.email,
            name=claims.name or account.name,
        )
        changes = {
            name: value
            for name in ("plan_slug", "is_active", "email", "name")
            if getattr(claims, name) is not None
            and (value := getattr(claimed, name)) != getattr(account, name)
        }
        if not changes:
            return account
        stored = msgspec.structs.replace(_profile_of(account), **changes)
        return await self._remembered(stored, told=False)

    async def _remembered(self, found: Profile, *, told: bool) -> Account:
        try:
            return await in_time(store.remember(self._engine, found, told=told))
        except Forbidden:
            _log.error("upstream_plan_unknown", plan=found.plan_slug[:40], user_id=found.user_id)
            raise

    def _raise_if_refused(self, digest: bytes) -> None:
        until, refusal = self._refusals.get(digest, (0.0, None))
        if refusal is not None and self._clock.monotonic() < until:
            raise _again(refusal)

    def _refused(self, digest: bytes, refusal: DomainError) -> _RefusedError:
        now = self._clock.monotonic()
        if len(self._refusals) >= _REFUSALS_LIMIT:
            self._refusals = {key: entry for key, entry in self._refusals.items() if entry[0] > now}
        if len(self._refusals) < _REFUSALS_LIMIT:
            self._refusals[digest] = (now + _REFUSED_FOR_S, refusal)
        return _RefusedError(digest, refusal)


def _refusal(error: Rejected) -> DomainError:
    if error.code == ACCOUNT_REFUSED:
        return Forbidden("Sua conta está suspensa. Entre em contato com o suporte.", code="account_suspended")
    return Unauthenticated("Token inválido ou expirado.", code="invalid_token")


def _again(refusal: DomainError) -> DomainError:
    """The same once more: one exception raised in many requests would gather all their tracebacks."""
    return type(refusal)(refusal.message, code=refusal.code)


def _profile_of(account: Account) -> Profile:
    return Profile(
        user_id=account.id,
        email=account.email,
        name=account.name,
        phone=account.phone,
        company_name=account.company_name,
        document=account.document,
        plan_slug=account.plan_slug,
        is_active=account.is_active,
    )
