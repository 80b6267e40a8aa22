"""Who may ask how often. Users, keys and addresses are counted apart; a refusal says how long to wait.

Counted after routing, so an unknown path stays a 404; only the address's own limit stands before it. WAHA's webhooks
come from a few hosts in any number, so they count for nobody once their signature holds, and a bad one counts for
its address. Health and metrics are asked by machines and never counted.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from core.clients.cache import Cache
from core.clients.limits import Limits
from core.clock import Clock
from core.domain.limits import Limit
from core.errors import TooManyRequests, Unauthenticated
from core.settings import LimitSettings

if TYPE_CHECKING:
    from api.auth import Principal

WEBHOOKS: Final = "/api/v1/webhooks/waha/"
# Of guards, who prove themselves; whoever does not is counted there.
INTERNAL: Final = frozenset({"/internal/guard/renew", "/internal/guard/usage"})
UNCOUNTED: Final = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})

_KEY_TEXT: Final = "Limite de requisições por minuto atingido para esta API Key."


class RequestLimits:
    """The limits of the API, on counters that all its processes share."""

    def __init__(self, settings: LimitSettings, cache: Cache, clock: Clock) -> None:
        self._limits = Limits(cache, clock)
        # Batches keep the polls of open pages off Redis: a process asks once for twenty of them.
        self._reads = Limit("read", settings.reads, batch=max(1, settings.reads // 30))
        self._writes = Limit("write", settings.writes)
        self._address = Limit("address", settings.address, batch=max(1, settings.address // 60))
        self._register = Limit("register", settings.register)
        self._key = Limit("key", settings.key)
        self._service_key = Limit(
            "service_key", settings.service_key, batch=max(1, settings.service_key // 30)
        )
        self._login = Limit("login", settings.login, settings.login_window_s)

    async def close(self) -> None:
        await self._limits.close()

    async def of_principal(self, principal: Principal, method: str) -> None:
        """Count one request of somebody who is known. Raises TooManyRequests."""
        if principal.key_id is not None:
            trusted = principal.service or principal.account is None
            after_s = await self._limits.take(self._service_key if trusted else self._key, principal.key_id)
            if after_s:
                raise TooManyRequests(_KEY_TEXT, after_s=after_s, code="key_limit")
        if principal.account is not None:
            limit = self._reads if method in ("GET", "HEAD") else self._writes
            await self._counted(limit, principal.account.id)

    async def of_address(self, address: str) -> None:
        """Count one request, whoever sent it. Raises TooManyRequests."""
        await self._counted(self._address, address_key(address))

    async def of_register(self, address: str) -> None:
        """Count one account that somebody wants to open. Raises TooManyRequests."""
        await self._counted(self._register, address_key(address))

    @asynccontextmanager
    async def login(self, address: str, email: str) -> AsyncIterator[None]:
        """Around one login. Raises TooManyRequests after too many failures from there for this e-mail.

        Counted before the password is looked at: a hundred tries at once are a hundred. A failure stays counted
        (Unauthenticated, code `wrong_login`), a success clears all, anything else was no try.
        """
        # An e-mail is nobody else's business, least of all the cache's.
        digest = hashlib.blake2b(email.strip().lower().encode(), digest_size=16).hexdigest()
        key = f"{address_key(address)}:{digest}"
        after_s = await self._limits.take(self._login, key)
        if after_s:
            text = f"Muitas tentativas de login. Tente novamente em {after_s} segundos."
            raise TooManyRequests(text, after_s=after_s, code="login_throttled")
        try:
            yield
        except Exception as error:
            if not (isinstance(error, Unauthenticated) and error.code == "wrong_login"):
                await self._limits.give_back(self._login, key)
            raise
        await self._limits.forget(self._login, key)

    async def _counted(self, limit: Limit, key: str) -> None:
        after_s = await self._limits.take(limit, key)
        if after_s:
            text = f"Muitas requisições. Tente novamente em {after_s} segundos."
            raise TooManyRequests(text, after_s=after_s)


@lru_cache(maxsize=10_000)
def address_key(address: str) -> str:
    """What an address counts as. One line of a provider has a whole IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return hashlib.blake2b(address.encode(), digest_size=16).hexdigest() if address else "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
