"""Passwords: argon2id, hashed off the event loop; bcrypt of the old system is accepted and replaced."""

from __future__ import annotations

import os
import secrets
from functools import partial

import anyio
import anyio.to_thread
import bcrypt
import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_BCRYPT = ("$2a$", "$2b$", "$2x$", "$2y$")
_BCRYPT_LIMIT = 72  # bytes that bcrypt looks at; the old system cut there without a word


class Verdict(msgspec.Struct, frozen=True):
    """Outcome of one try.

    Attributes:
        matches: the password is right.
        better_hash: what the store should keep from now on, when the stored hash is of an older kind.
    """

    matches: bool
    better_hash: str | None = None


class Passwords:
    """Hashes and checks passwords, a few at a time: each takes 64 MiB and a processor for a while."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """`hasher`: argon2id with its library's defaults (RFC 9106, second choice) unless given."""
        self._hasher = hasher or PasswordHasher()
        self._limit = anyio.CapacityLimiter(max(2, os.cpu_count() or 2))
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        return await anyio.to_thread.run_sync(self._hasher.hash, password, limiter=self._limit)

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Check against a stored hash. None (no such account, or it has no password) costs the same time."""
        return await anyio.to_thread.run_sync(partial(self._verify, stored, password), limiter=self._limit)

    def _verify(self, stored: str | None, password: str) -> Verdict:
        if stored is None:
            self._decoy = self._decoy or self._hasher.hash(secrets.token_hex(16))
            self._matches(self._decoy, password)
            return Verdict(False)
        if not self._matches(stored, password):
            return Verdict(False)
        old = stored.startswith(_BCRYPT) or self._hasher.check_needs_rehash(stored)
        return Verdict(True, self._hasher.hash(password) if old else None)

    def _matches(self, stored: str, password: str) -> bool:
        if stored.startswith(_BCRYPT):
            try:
                return bcrypt.checkpw(password.encode()[:_BCRYPT_LIMIT], stored.encode())
            except ValueError:
                return False  # an imported hash that is none
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
