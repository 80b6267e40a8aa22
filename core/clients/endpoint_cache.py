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
        return await self.read(user_id, await self._cache.get(endpoint_key(user_id)))

    async def read(self, user_id: str, written: bytes | None) -> Endpoint | None:
        """As `get`, of what was just read under `endpoint_key`."""
        if written is None:
            return None
        try:
            return _decoder.decode(written)
        except msgspec.MsgspecError:
            # Written by another release. It may not be read again before its time is over.
            await self.drop(user_id)
            return None

    async def put(self, user_id: str, endpoint: Endpoint) -> None:
        await self._cache.set(endpoint_key(user_id), msgspec.json.encode(endpoint), self._ttl_s)

    async def drop(self, *user_ids: str) -> None:
        """Forget them: the endpoint changed, was withdrawn, or did not answer."""
        await self._cache.delete(*(endpoint_key(user_id) for user_id in user_ids))


def endpoint_key(user_id: str) -> str:
    """Where the endpoint stands."""
    return f"endpoint:{user_id}"
