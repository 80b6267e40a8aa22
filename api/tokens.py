"""Access and refresh tokens: JWT, HS256."""

from __future__ import annotations

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


class Claims(msgspec.Struct, frozen=True):
    """What a valid access token says.

    Attributes:
        user_id: may belong to nobody; None when it cannot belong to anybody.
        expires_at: Unix time.
    """

    user_id: str | None
    role: str | None
    expires_at: float


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

    def issue(self, user_id: str) -> TokenPair:
        now = self._clock.now()
        return TokenPair(
            self._encode(user_id, "access", now, self._access_s),
            self._encode(user_id, "refresh", now, self._refresh_s),
        )

    def read_access(self, token: str) -> Claims:
        """Raises Unauthenticated with the sentence that the page shows."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=[_ALGORITHM], options=_OPTIONS)
        except jwt.PyJWTError as error:
            raise Unauthenticated("Token inválido ou expirado.", code="invalid_token") from error
        if claims.get("type") != "access":
            raise Unauthenticated("Token inválido ou expirado.", code="invalid_token")
        subject, role = claims.get("sub"), claims.get("role")
        if subject is None or subject == "":
            raise Unauthenticated("Token sem identificador de usuário.", code="token_without_subject")
        return Claims(
            parse_id(str(subject)), role if isinstance(role, str) else None, float(int(claims["exp"]))
        )

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
