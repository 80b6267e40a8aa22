"""User id -> endpoint, for the few calls that go straight to a container."""

from __future__ import annotations

import msgspec

from core.clients.cache import Cache
from core.domain.facts import Endpoint

_decoder = msgspec.json.Decoder(Endpoint)


class EndpointCache:
    """Where a user's WAHA answers, kept for `ttl_s`; the store is asked when it is not here.

    An entry may be stale for up to `ttl_s`. It names its allocation, and a container answers to its own
    API key alone, so a stale one leads to a refused call, never to somebody else's chips.
    """

    def __init__(self, cache: Cache, ttl_s: float) -> None:
        self._cache = cache
        self._ttl_s = ttl_s

    async def get(self, user_id: str) -> Endpoint | None:
        body = await self._cache.get(_key(user_id))
        if body is None:
            return None
        try:
            return _decoder.decode(body)
        except msgspec.MsgspecError:
            # Written by another release. It may not be read again before its time is over.
            await self._cache.delete(_key(user_id))
            return None

    async def put(self, user_id: str, endpoint: Endpoint) -> None:
        await self._cache.set(_key(user_id), msgspec.json.encode(endpoint), self._ttl_s)

    async def drop(self, *user_ids: str) -> None:
        """Forget them: the endpoint changed, was withdrawn, or did not answer."""
        await self._cache.delete(*(_key(user_id) for user_id in user_ids))


def _key(user_id: str) -> str:
    return f"endpoint:{user_id}"
