"""Chip id -> the last QR, so that many pollers of one chip cost its container one call."""

from __future__ import annotations

from datetime import datetime

import msgspec

from core.clients.cache import Cache
from core.clock import Clock, SystemClock


class CachedQr(msgspec.Struct, frozen=True):
    """A QR as the container gave it.

    Attributes:
        png_base64: the picture, base 64, None when the session has none to show in this status.
        waha_status: the session's status in the same answer.
        expires_at: aware; when the code on the picture is no longer good.
    """

    png_base64: str | None
    waha_status: str
    expires_at: datetime


_decoder = msgspec.json.Decoder(CachedQr)


class QrCache:
    """QR codes, each kept until it expires but for `ttl_s` at most."""

    def __init__(self, cache: Cache, ttl_s: float, *, clock: Clock | None = None) -> None:
        self._cache = cache
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()

    async def get(self, chip_id: str) -> CachedQr | None:
        body = await self._cache.get(_key(chip_id))
        if body is None:
            return None
        try:
            qr = _decoder.decode(body)
        except msgspec.MsgspecError:
            await self._cache.delete(_key(chip_id))
            return None
        return qr if qr.expires_at > self._clock.now() else None

    async def put(self, chip_id: str, qr: CachedQr) -> None:
        left_s = (qr.expires_at - self._clock.now()).total_seconds()
        await self._cache.set(_key(chip_id), msgspec.json.encode(qr), min(self._ttl_s, left_s))

    async def drop(self, *chip_ids: str) -> None:
        """Forget them: the chip's phase changed, or a new QR was asked for."""
        await self._cache.delete(*(_key(chip_id) for chip_id in chip_ids))


def _key(chip_id: str) -> str:
    return f"qr:{chip_id}"
