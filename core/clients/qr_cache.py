"""Chip id -> the QR that its session shows, so that many pollers of one chip cost its container one call.

A container tells by webhook that it shows a new code, and that news is kept beside the code as its turn. A
code that was asked for in the turn that still stands is the one that is shown, for as long as a turn lasts;
without such news nobody knows when it changes, and it is kept for a few seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from core.clients.cache import Cache, Kept
from core.clock import Clock, SystemClock

T = TypeVar("T")

# News of the next code may be late. Until then the old one is shown, which costs a scan that fails; asking
# too early costs a call that brings the same code again.
LATE: Final = timedelta(seconds=5)
# A picture is a few KB.
_SEEN_LIMIT: Final = 2000


class CachedQr(msgspec.Struct, frozen=True):
    """A QR as the container gave it.

    Attributes:
        png_base64: the picture, base 64, None when the session has none to show in this status.
        waha_status: the session's status in the same answer.
        expires_at: aware; when the code on the picture is no longer good.
        turn: the turn in which it was asked for, None when none was known.
    """

    png_base64: str | None
    waha_status: str
    expires_at: datetime
    turn: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """The container said that it shows a new code. Times are aware.

    Attributes:
        began_at: when it said so, by its own clock if that can be believed.
        ends_at: when the next code is due.
    """

    id: str
    began_at: datetime
    ends_at: datetime


_codes: Final = msgspec.json.Decoder(CachedQr)
_turns: Final = msgspec.json.Decoder(Turn)


class QrCache:
    """QR codes, each kept until its turn ends; without a turn until it expires but for `ttl_s` at most.

    While Redis is away a process believes for `ttl_s` what it saw last, or a moment without Redis would send every
    poll of every page to the containers.
    """

    def __init__(self, cache: Cache, ttl_s: float, *, clock: Clock | None = None) -> None:
        self._cache = cache
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[str, tuple[float, CachedQr, Turn | None]] = OrderedDict()

    async def look(self, user_id: str, chip_id: str) -> tuple[CachedQr | None, Turn | None]:
        """The code that may be shown, and the turn that a new one would be asked for in."""
        return await self.read(user_id, chip_id, await self._cache.get_many(*code_keys(user_id, chip_id)))

    async def read(
        self, user_id: str, chip_id: str, written: Sequence[bytes | None]
    ) -> tuple[CachedQr | None, Turn | None]:
        """As `look`, of what was just read under `code_keys`."""
        if not self._cache.healthy:
            return self._seen_last(chip_id)
        names = code_keys(user_id, chip_id)
        qr = await self._read(names[0], written[0], _codes)
        turn = await self._read(names[1], written[1], _turns)
        if qr is not None and (qr.turn != (turn.id if turn else None) or not self._good(qr, turn)):
            qr = None
        if qr is not None:
            self._remember(chip_id, qr, turn)
        return qr, turn

    async def turns(self, user_id: str, chip_ids: Sequence[str]) -> dict[str, tuple[Turn | None, bool]]:
        """Chip id -> the turn that stands, and whether somebody has the chip's QR open."""
        names = [name for id_ in chip_ids for name in (_turn_key(user_id, id_), viewer_key(id_))]
        written = await self._cache.get_many(*names)
        if not self._cache.healthy:
            return {id_: (self._seen_last(id_)[1], False) for id_ in chip_ids}
        found = {}
        for at, id_ in zip(range(0, len(names), 2), chip_ids, strict=True):
            turn = await self._read(names[at], written[at], _turns)
            found[id_] = (turn, written[at + 1] is not None)
        return found

    def entry(self, chip_id: str, qr: CachedQr, turn: Turn | None = None) -> Kept:
        """What is to be kept of a code. `turn`: as it was before the container was asked."""
        ends_at = qr.expires_at if turn is None else turn.ends_at + LATE
        left_s = (ends_at - self._clock.now()).total_seconds()
        kept = msgspec.structs.replace(qr, turn=None if turn is None else turn.id)
        ttl_s = left_s if turn is not None else min(self._ttl_s, left_s)
        self._remember(chip_id, kept, turn)
        return {_key(chip_id): (msgspec.json.encode(kept), ttl_s)}

    async def turned(self, user_id: str, told: Mapping[str, Turn | None]) -> bool:
        """The container of this user said that these chips show a new code, or, with None, none any more.

        What flights brought in the turns before is forgotten with them. False when Redis is away and does not know.
        """
        kept: dict[str, tuple[bytes, float]] = {}
        forgotten = []
        for chip_id, turn in told.items():
            self._seen.pop(chip_id, None)
            forgotten.append(flight_key(chip_id))
            if turn is None:
                forgotten += code_keys(user_id, chip_id)
            else:
                left_s = (turn.ends_at + LATE - self._clock.now()).total_seconds()
                kept[_turn_key(user_id, chip_id)] = (msgspec.json.encode(turn), left_s)
        return await self._cache.change(kept, forgotten)

    async def drop(self, *chip_ids: str) -> None:
        """Forget them: the chip's phase changed, or a new QR was asked for."""
        for chip_id in chip_ids:
            self._seen.pop(chip_id, None)
        await self._cache.delete(*(name for id_ in chip_ids for name in (_key(id_), flight_key(id_))))

    def _remember(self, chip_id: str, qr: CachedQr, turn: Turn | None) -> None:
        self._seen[chip_id] = (self._clock.monotonic() + self._ttl_s, qr, turn)
        self._seen.move_to_end(chip_id)
        if len(self._seen) > _SEEN_LIMIT:
            self._seen.popitem(last=False)

    def _seen_last(self, chip_id: str) -> tuple[CachedQr | None, Turn | None]:
        until, qr, turn = self._seen.get(chip_id, (0.0, None, None))
        if qr is None or self._clock.monotonic() >= until or qr.expires_at <= self._clock.now():
            return None, None
        return qr, turn

    def _good(self, qr: CachedQr, turn: Turn | None) -> bool:
        return turn is not None or qr.expires_at > self._clock.now()

    async def _read(self, key: str, written: bytes | None, decoder: msgspec.json.Decoder[T]) -> T | None:
        if written is None:
            return None
        try:
            return decoder.decode(written)
        except msgspec.MsgspecError:
            # Written by another release. It may not be read again before its time is over.
            await self._cache.delete(key)
            return None


def code_keys(user_id: str, chip_id: str) -> tuple[str, str]:
    """Where the code and its turn stand."""
    return _key(chip_id), _turn_key(user_id, chip_id)


def flight_key(chip_id: str) -> str:
    """What the last flight for the code brought, for those who waited for it elsewhere."""
    return f"qr-flight:{chip_id}"


def viewer_key(chip_id: str) -> str:
    """Stands while somebody has the chip's QR open."""
    return f"viewer:{chip_id}"


def _key(chip_id: str) -> str:
    return f"qr:{chip_id}"


def _turn_key(user_id: str, chip_id: str) -> str:
    # With the user: a container may name any session, and speaks for those of its own user alone.
    return f"qr-turn:{user_id}:{chip_id}"
