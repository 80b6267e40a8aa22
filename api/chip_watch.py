"""One caller who watches one chip: what is told, and when it is asked for.

The store is asked after news of the user, and the container by way of the QR desk, which asks it once for everybody
who looks, in all processes. State is sent when it changed, and anew to whoever comes; events are sent once each.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import msgspec

from api.deadline import in_time
from api.observed import POLL_S
from api.schemas import QrCode
from api.schemas_live import PhaseMessage, QrMessage, StatusMessage
from api.services import Services
from api.streams import End, Message, Source
from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.history import event_id, event_view
from core.domain.states import Reason
from core.domain.views import StoredChip, shown, text_of
from core.errors import DependencyError
from core.store import history
from core.store.history import LOOK_LIMIT, HistoryLook
from core.store.intents import CHIP_NOT_FOUND

GONE: Final = End("chip_deleted", CHIP_NOT_FOUND)
# A page that polls does it so; nothing of it reaches the store.
_QR_LOOK_S: Final = 3.0


class ChipWatch:
    """One caller, one chip.

    `after`: number of the last event that the caller has; None for who begins with those that come from now on.
    """

    def __init__(
        self,
        services: Services,
        user_id: str,
        chip_id: str,
        *,
        lower_case: bool = False,
        after: int | None = None,
    ) -> None:
        self._services = services
        self._user_id = user_id
        self._chip_id = chip_id
        self._lower_case = lower_case
        self._after = after
        self._chip: StoredChip | None = None
        self._moved = asyncio.Event()

    async def messages(self) -> Source:
        """`status`, `phase` and `event`. The last one is `end` when the chip was deleted.

        The first message carries the id to go on from, so who loses the stream before any event misses none.
        """
        status: StatusMessage | None = None
        phase: PhaseMessage | None = None
        start_at = self._after
        async with aclosing(self.looks()) as looks:
            async for look in looks:
                first = status is None
                if look.chip is not None:
                    before, status = status, self._status(look.chip)
                    if status != before:
                        number = (look.last if start_at is None else start_at) if first else None
                        yield Message("status", status, None if number is None else event_id(number))
                    last_phase, phase = phase, _phase(look.chip)
                    if phase != last_phase:
                        yield Message("phase", phase)
                for event in look.events:
                    told = event_view(event, lower_case=self._lower_case)
                    yield Message("event", told, told.id)
                if look.chip is None:
                    yield Message("end", GONE)

    async def codes(self) -> Source:
        """`qr`, whenever it is another one."""
        async with aclosing(self.qr(None)) as codes:
            async for code in codes:
                yield Message("qr", self._counted(code))

    async def looks(self) -> AsyncGenerator[HistoryLook, None]:
        """The chip and what happened since, now and after each news; ends when the chip is gone."""
        with self._services.observed.subscribed(self._user_id) as news:
            while True:
                news.clear()
                try:
                    look = await in_time(
                        history.look(self._services.engine, self._user_id, self._chip_id, self._after)
                    )
                except DependencyError:
                    # The store is away for a moment: so is what it would tell.
                    await _for(news, POLL_S)
                    continue
                self._after = look.last
                self._chip = look.chip
                self._moved.set()
                yield look
                if len(look.events) == LOOK_LIMIT:
                    continue
                if look.chip is None:
                    return
                await news.wait()

    async def qr(self, at_least_every_s: float | None) -> AsyncGenerator[QrCode, None]:
        """What the QR route would say, on every change, and after that many seconds without one."""
        loop = asyncio.get_running_loop()
        last: QrCode | None = None
        told_at = 0.0
        while True:
            self._moved.clear()
            chip = self._chip
            if chip is not None:
                code = await self._services.qr.answer(chip)
                due = at_least_every_s is not None and loop.time() - told_at >= at_least_every_s
                if code != last or due:
                    last, told_at = code, loop.time()
                    yield code
            wait_s = _QR_LOOK_S if chip is not None and _is_on_its_way(chip) else None
            if at_least_every_s is not None:
                left_s = told_at + at_least_every_s - loop.time()
                wait_s = left_s if wait_s is None else min(wait_s, left_s)
            await _for(self._moved, wait_s)

    def _status(self, chip: StoredChip) -> StatusMessage:
        word = shown(chip).status
        return StatusMessage(
            status=word.lower() if self._lower_case else word,
            phone_number=chip.phone_number,
            connected_at=chip.connected_at,
        )

    def _counted(self, code: QrCode) -> QrMessage:
        left_s = None
        if code.expires_at is not None:
            left_s = max(0, math.ceil((code.expires_at - self._services.clock.now()).total_seconds()))
        return QrMessage(**msgspec.structs.asdict(code), seconds_left=left_s)


def _phase(chip: StoredChip) -> PhaseMessage:
    state = shown(chip)
    return PhaseMessage(
        phase=state.phase,
        reason=state.reason,
        reason_text=text_of(state.reason),
        waha_status=chip.waha_status,
        starts_at=chip.starts_at if state.reason == Reason.PACED else None,
    )


def _is_on_its_way(chip: StoredChip) -> bool:
    """Its QR may become another one without any news: codes rotate, and a wait counts down."""
    return chip.wanted == Wanted.CONNECTED and chip.waha_status != WahaStatus.WORKING


async def _for(event: asyncio.Event, wait_s: float | None) -> None:
    """Until the event, or for that long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if wait_s is None else max(0.0, wait_s)):
            await event.wait()
