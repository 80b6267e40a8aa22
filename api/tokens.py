"""Access and refresh tokens: JWT, HS256."""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import datetime
from typing import Any, Final

import jwt
import msgspec

from core.clock import Clock
from core.domain.names import parse_id
from core.errors import Unauthenticated
from core.settings import ApiSettings

_ALGORITHM: Final = "HS256"
# `aud` and `iat` say nothing that we act on; `sub` is checked below, with a message of its own.
_OPTIONS: Final[Any] = {"require": ["exp"], "verify_aud": False, "verify_iat": False, "verify_sub": False}

# A page shows the same token every second: its signature need not be checked each time. By digest, so that
# nothing in memory is worth stealing.
_REMEMBERED: Final = 10_000
_REMEMBERED_S: Final = 60.0


class Claims(msgspec.Struct, frozen=True):
    """What a valid access token says. `user_id` may belong to nobody; None when it cannot belong to anybody."""

    user_id: str | None
    role: str | None


class TokenPair(msgspec.Struct, frozen=True):
    access_token: str
    refresh_token: str

    def __repr__(self) -> str:
        return "TokenPair(***)"


class Tokens:
    """Issues and reads tokens."""

    def __init__(self, settings: ApiSettings, clock: Clock) -> None:
        self._secret = settings.jwt_secret_key.reveal()
        self._access_s = settings.access_token_s
        self._refresh_s = settings.refresh_token_s
        self._clock = clock
        self._verified: dict[bytes, tuple[float, Claims]] = {}

    def issue(self, user_id: str) -> TokenPair:
        now = self._clock.now()
        return TokenPair(
            self._encode(user_id, "access", now, self._access_s),
            self._encode(user_id, "refresh", now, self._refresh_s),
        )

    def read_access(self, token: str) -> Claims:
        """Raises Unauthenticated with the sentence that the page shows."""
        key = hashlib.blake2b(token.encode(), digest_size=16).digest()
        known = self._verified.get(key)
        if known is not None and time.time() < known[0]:
            return known[1]
        expires_at, claims = self._read(token)
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[key] = (min(expires_at, time.time() + _REMEMBERED_S), claims)
        return claims

    def _read(self, token: str) -> tuple[float, Claims]:
        """When it expires, as a Unix time, and what it says."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=[_ALGORITHM], options=_OPTIONS)
        except jwt.PyJWTError as error:
            raise Unauthenticated("Token inválido ou expirado.", code="invalid_token") from error
        if claims.get("type") != "access":
            raise Unauthenticated("Token inválido ou expirado.", code="invalid_token")
        subject, role = claims.get("sub"), claims.get("role")
        if subject is None or subject == "":
            raise Unauthenticated("Token sem identificador de usuário.", code="token_without_subject")
        return claims["exp"], Claims(parse_id(str(subject)), role if isinstance(role, str) else None)

    def _encode(self, user_id: str, type_: str, now: datetime, life_s: int) -> str:
        issued = int(now.timestamp())
        claims = {
            "sub": user_id,
            "type": type_,
            "iat": issued,
            "exp": issued + life_s,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)
