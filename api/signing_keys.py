"""The public keys of another token issuer: one from the settings, or a set that its issuer publishes (RFC 7517)."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import jwt
import structlog

from core.clock import Clock
from core.errors import DependencyError, Unavailable

_ALGORITHM: Final = "RS256"
# An unknown key id may be a key that was added just now, or an invention of whoever sent it.
_ASKED_EVERY_S: Final = 60.0
# A key that was taken out is believed no longer than this, unless the issuer is silent.
_OLD_AFTER_S: Final = 3600.0
_KEYS_LIMIT: Final = 50
_log = structlog.get_logger("api")


class SigningKeys(Protocol):
    async def find(self, kid: str | None) -> Any:
        """The key that PyJWT verifies with, None when there is none of that id. Raises Unavailable."""


class FixedKey:
    """One public key in PEM, whatever key id a token names."""

    def __init__(self, pem: str) -> None:
        self._pem = pem

    async def find(self, kid: str | None) -> Any:  # noqa: ARG002 - there is one
        return self._pem


class KeySource(Protocol):
    async def keys(self) -> list[Any]:
        """The members of the set that is published now. Raises DependencyError."""


class PublishedKeys:
    """A set at an address: asked on first use, hourly, and for a key id that is unknown, at most once a minute."""

    def __init__(self, source: KeySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._keys: dict[str | None, Any] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._flight: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> Any:
        """The key; a token without key id is taken when there is one key alone. Raises Unavailable before the
        set could be had for the first time."""
        key = self._known(kid)
        if (key is None or self._is_old()) and (self._may_ask() or self._flight is not None):
            await self._ask()
            key = self._known(kid)
        if self._fetched_at is None:
            raise Unavailable("upstream", "the keys that tokens are signed with could not be had yet")
        return key

    def _known(self, kid: str | None) -> Any:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _is_old(self) -> bool:
        return self._fetched_at is None or self._clock.monotonic() - self._fetched_at > _OLD_AFTER_S

    def _may_ask(self) -> bool:
        # Without any key every token waits for the answer, so a silent issuer is asked again soon.
        pause_s = _ASKED_EVERY_S if self._fetched_at is not None else 1.0
        return self._asked_at is None or self._clock.monotonic() - self._asked_at >= pause_s

    async def _ask(self) -> None:
        if self._flight is None:
            self._asked_at = self._clock.monotonic()
            self._flight = asyncio.create_task(self._fetch())
            self._flight.add_done_callback(self._landed)
        # A caller that hangs up must not take the others' answer away.
        await asyncio.shield(self._flight)

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _fetch(self) -> None:
        try:
            published = await self._source.keys()
        except DependencyError as error:
            _log.warning("signing_keys_away", error=error.message)
            return
        keys = _usable(published)
        if not keys:
            _log.warning("signing_keys_away", error="the set holds no RSA key for signatures")
            return
        self._keys = keys
        self._fetched_at = self._clock.monotonic()


def _usable(published: list[Any]) -> dict[str | None, Any]:
    found: dict[str | None, Any] = {}
    for member in published[:_KEYS_LIMIT]:
        # A set may hold keys of other kinds and for other uses; `oct` would make a public text a secret.
        if not isinstance(member, dict) or member.get("kty") != "RSA":
            continue
        if member.get("use", "sig") != "sig" or member.get("alg", _ALGORITHM) != _ALGORITHM:
            continue
        kid = member.get("kid")
        try:
            # The public part alone, whatever else is published.
            public = {name: member[name] for name in ("kty", "n", "e")}
            found[kid if isinstance(kid, str) else None] = jwt.PyJWK(public, _ALGORITHM).key
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            continue
    return found
