"""Access and refresh tokens: JWTs, HS256 where we issue them; RS256 where another issuer's keys are set."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

import jwt
import msgspec

from api.signing_keys import SigningKeys
from core.clock import Clock
from core.domain.names import parse_id
from core.errors import Unauthenticated
from core.settings import ApiSettings

_ALGORITHM: Final = "HS256"
_FOREIGN: Final = "RS256"
# `aud` and `iat` say nothing that we act on; `sub` is checked below, with a message of its own.
_OPTIONS: Final[Any] = {"require": ["exp"], "verify_aud": False, "verify_iat": False, "verify_sub": False}
# What the library raises, and what it lets through on claims of odd types.
_INVALID: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
_NEVER: Final = 2**53
_REFUSED: Final = "Token inválido ou expirado."
_REFRESH_REFUSED: Final = "Refresh token inválido ou expirado."

# A page shows the same token every second: its signature need not be checked each time. By digest, so that
# nothing in memory is worth stealing.
_REMEMBERED: Final = 10_000
_REMEMBERED_S: Final = 60.0


class Claims(msgspec.Struct, frozen=True):
    """What a valid access token says; None for what it does not say.

    Attributes:
        user_id: may belong to nobody; None when it cannot belong to anybody.
        expires_at: Unix time.
    """

    user_id: str | None
    role: str | None
    expires_at: float
    plan_slug: str | None = None
    name: str | None = None
    email: str | None = None
    is_active: bool | None = None


class RefreshClaims(msgspec.Struct, frozen=True):
    """What a refresh token of ours says. `jti_hash`: SHA-256 of its id, all that is stored of it."""

    user_id: str
    family_id: str
    jti_hash: bytes
    successor: str

    def __repr__(self) -> str:
        return f"RefreshClaims(family_id={self.family_id!r})"


class TokenPair(msgspec.Struct, frozen=True):
    """`jti_hash`, `expires_at`: of the refresh token."""

    access_token: str
    refresh_token: str
    family_id: str
    jti_hash: bytes
    expires_at: datetime

    def __repr__(self) -> str:
        return "TokenPair(***)"


class Tokens:
    """Issues and reads tokens.

    `keys`: of another issuer, whose tokens are taken as well. Our own are refused only when `foreign_only`.
    """

    def __init__(
        self,
        settings: ApiSettings,
        clock: Clock,
        keys: SigningKeys | None = None,
        *,
        foreign_only: bool = False,
    ) -> None:
        self._secret = settings.jwt_secret_key.reveal()
        self._access_s = settings.access_token_s
        self._refresh_s = settings.refresh_token_s
        self._clock = clock
        self._keys = keys
        self._foreign_only = foreign_only
        self._verified: dict[bytes, tuple[float, Claims]] = {}

    def issue(self, user_id: str, replaced: RefreshClaims | None = None) -> TokenPair:
        """A pair for a new login, or the one that follows `replaced` in its family.

        The refresh token's id follows from that of the one it replaces, so whoever shows the same one twice at once
        is given the same one twice, and no token is ever stored.
        """
        now = self._clock.now()
        jti = str(uuid.uuid4()) if replaced is None else replaced.successor
        family_id = str(uuid.uuid4()) if replaced is None else replaced.family_id
        expires = int(now.timestamp()) + self._refresh_s
        return TokenPair(
            self._encode(user_id, "access", now, self._access_s, jti=str(uuid.uuid4())),
            self._encode(user_id, "refresh", now, self._refresh_s, jti=jti, fam=family_id),
            family_id,
            _hashed(jti),
            datetime.fromtimestamp(expires, UTC),
        )

    async def read(self, token: str) -> Claims:
        """As `read_access`, also for another issuer's tokens.

        Raises Unavailable as well, when that issuer's keys cannot be had: the token may be good then.
        """
        if self._keys is None or _header(token).get("alg") != _FOREIGN:
            return self.read_access(token)
        key = await self._keys.find(_header(token).get("kid"))
        if key is None:
            raise Unauthenticated(_REFUSED, code="invalid_token")
        return _claims(_decoded(token, key, _FOREIGN))

    def read_access(self, token: str) -> Claims:
        """An access token that we issued, or whoever shares our secret.

        Raises Unauthenticated with the sentence that the page shows.
        """
        if self._foreign_only:
            raise Unauthenticated(_REFUSED, code="invalid_token")
        key = hashlib.blake2b(token.encode(), digest_size=16).digest()
        known = self._verified.get(key)
        if known is not None and time.time() < known[0]:
            return known[1]
        claims = _claims(_decoded(token, self._secret, _ALGORITHM))
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[key] = (min(claims.expires_at, time.time() + _REMEMBERED_S), claims)
        return claims

    def read_refresh(self, token: str, *, expired_too: bool = False) -> RefreshClaims:
        """Raises Unauthenticated with the sentence that the page shows. `expired_too`: enough to end a login."""
        options: Any = {**_OPTIONS, "verify_exp": not expired_too}
        try:
            claims = jwt.decode(token, self._secret, algorithms=[_ALGORITHM], options=options)
        except _INVALID as error:
            raise Unauthenticated(_REFRESH_REFUSED, code="invalid_refresh_token") from error
        user_id, family_id = parse_id(str(claims.get("sub"))), parse_id(str(claims.get("fam")))
        jti = claims.get("jti")
        if (
            claims.get("type") != "refresh"
            or user_id is None
            or family_id is None
            or not isinstance(jti, str)
        ):
            raise Unauthenticated(_REFRESH_REFUSED, code="invalid_refresh_token")
        return RefreshClaims(user_id, family_id, _hashed(jti), self._successor(family_id, jti))

    def _successor(self, family_id: str, jti: str) -> str:
        text = f"refresh\0{family_id}\0{jti}".encode()
        return hmac.new(self._secret.encode(), text, hashlib.sha256).hexdigest()

    def _encode(self, user_id: str, type_: str, now: datetime, life_s: int, **more: str) -> str:
        issued = int(now.timestamp())
        claims = {"sub": user_id, "type": type_, "iat": issued, "exp": issued + life_s, **more}
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)


def _header(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except _INVALID as error:
        raise Unauthenticated(_REFUSED, code="invalid_token") from error


def _decoded(token: str, key: Any, algorithm: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm], options=_OPTIONS)
    except _INVALID as error:
        raise Unauthenticated(_REFUSED, code="invalid_token") from error
    return claims


def _claims(claims: dict[str, Any]) -> Claims:
    if claims.get("type") != "access":
        raise Unauthenticated(_REFUSED, code="invalid_token")
    subject, active = claims.get("sub"), claims.get("is_active")
    if subject is None or subject == "":
        raise Unauthenticated("Token sem identificador de usuário.", code="token_without_subject")
    return Claims(
        parse_id(str(subject)),
        _text(claims, "role"),
        # Beyond what a float holds it does not matter how far.
        float(min(int(claims["exp"]), _NEVER)),
        plan_slug=_text(claims, "plan_slug"),
        name=_text(claims, "name"),
        email=_text(claims, "email"),
        is_active=active if isinstance(active, bool) else None,
    )


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value.strip() else None


def _hashed(jti: str) -> bytes:
    return hashlib.sha256(jti.encode()).digest()
