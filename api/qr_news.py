"""What containers tell of their QR codes: which turn stands, and the next code at hand before it is polled for.

At each turn every poll of that chip would wait for a flight, and ten chips of a user turn at once. So whoever hears
of a turn fetches the code at once, one chip after another, if somebody has it open: from the container, which shows it
anyway. It starts nothing and changes nothing, and the flight is one for all processes like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from api.chip_cache import UserChips
from api.deadline import in_time
from api.errands import Errands
from api.qr import QrDesk
from core.clients.cache import Cache
from core.clients.qr_cache import QrCache, Turn
from core.clock import Clock
from core.domain.facts import WahaStatus
from core.domain.names import chip_of_session
from core.domain.qr_view import qr_lasts, qr_state, status_told
from core.errors import DependencyError
from core.store.webhooks import SESSION_STATUS, InboxEvent

AT_ONCE: Final = 1  # whoever polls takes turns with these fetches, and has not asked for them
_TELL_AGAIN_S: Final = 1.0
_RETRIED_S: Final = 60.0  # a webhook that is older than that, or from tomorrow, has a wrong clock

_log = structlog.get_logger("api.qr")


class QrNews:
    """Hears webhooks. `chips`: the chips of a user, as the store holds them now."""

    def __init__(
        self,
        *,
        cache: Cache,
        codes: QrCache,
        desk: QrDesk,
        chips: Callable[[str], Awaitable[UserChips]],
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._codes = codes
        self._desk = desk
        self._chips = chips
        self._clock = clock
        self._free = asyncio.Semaphore(AT_ONCE)
        self._errands = Errands()

    async def heard(self, user_id: str, told: Iterable[tuple[InboxEvent, bool]]) -> None:
        """Webhooks of the user's container, in the order in which they came: sessions may show other codes now.

        With each stands whether it is new: False for one that was stored before, by a request that may have ended
        before it came here.
        """
        events = [
            (chip_id, event, new)
            for event, new in told
            if event.event == SESSION_STATUS and (chip_id := chip_of_session(event.session)) is not None
        ]
        if not events:
            return
        known = await self._codes.turns(user_id, tuple({chip_id: None for chip_id, _, _ in events}))
        stands = {chip_id: turn for chip_id, (turn, _) in known.items()}
        turned: dict[str, Turn | None] = {}
        for chip_id, event, new in events:
            statuses, began_at, last = (
                status_told(event.body.get("payload")),
                self._sent_at(event),
                stands[chip_id],
            )
            turn = None
            if statuses and statuses[-1] == WahaStatus.SCAN_QR_CODE:
                turn = Turn(event.id, began_at, began_at + qr_lasts(statuses))
                if last is not None and (last.id == turn.id or last.began_at > began_at):
                    continue  # the same again, or an older one
            elif not new or last is None or last.began_at >= began_at:
                continue  # STARTING and the first code are sent together, and may come in either order
            stands[chip_id] = turned[chip_id] = turn
        if not turned:
            return
        begun = {chip_id: turn for chip_id, turn in turned.items() if turn is not None}
        if not await self._codes.turned(user_id, turned):
            for chip_id, turn in begun.items():
                self._errands.run(self._tell_again(user_id, chip_id, turn))
        elif viewed := {chip_id: turn for chip_id, turn in begun.items() if known[chip_id][1]}:
            self._errands.run(self._fetch(user_id, viewed))

    async def close(self) -> None:
        await self._errands.close()

    def _sent_at(self, event: InboxEvent) -> datetime:
        """When the container sent it, as far as its clock can be believed; now otherwise."""
        now, stamp = self._clock.now(), event.body.get("timestamp")
        age_s = now.timestamp() - stamp / 1000 if isinstance(stamp, int) else 0.0
        return now - timedelta(seconds=age_s) if 0 <= age_s <= _RETRIED_S else now

    async def _tell_again(self, user_id: str, chip_id: str, turn: Turn) -> None:
        """Until Redis knows of the turn: without it the code would be asked for every few seconds."""
        while self._clock.now() < turn.ends_at and self._cache.configured:
            await self._clock.sleep(_TELL_AGAIN_S)
            _, known = await self._codes.look(user_id, chip_id)
            newer = known is not None and known.began_at >= turn.began_at
            if newer or await self._codes.turned(user_id, {chip_id: turn}):
                return

    async def _fetch(self, user_id: str, turns: Mapping[str, Turn]) -> None:
        """The new codes that would be shown to who asked: of the user's own chips, those that wait for a scan."""
        try:
            chips = (await in_time(self._chips(user_id))).by_id
        except DependencyError as error:
            _log.warning("qr_not_fetched", user_id=user_id, code=error.code, error=error.message)
            return
        for chip_id, turn in turns.items():
            async with self._free:
                now, chip = self._clock.now(), chips.get(chip_id)
                if chip is not None and now < turn.ends_at and qr_state(chip, now).ask:
                    await self._desk.fetch(chip)
