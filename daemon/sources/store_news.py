"""News from the store: somebody wants something else (`intents`), a container reported (`inbox`), or somebody
looks into one (`look_ins`).

On `intents` daemons also speak to each other: one that ends names the users that it had in mind, and one that
has just started names the fleet, for a daemon that starts may stand in for one that died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from core.clock import Clock
from core.store.notify import INBOX, LOOK_INS, Item, Listener, Reconnected
from daemon.ended import ended
from daemon.fleet import KEY
from daemon.mail import Mailroom
from daemon.sources.supervisor import Relists
from daemon.workqueue import WorkQueue

BEAT_S: Final = 5.0


class Looks(Protocol):
    """Who samples what somebody looks into; see `daemon.look_ins.LookIns`."""

    def wanted(self, user_id: str) -> None: ...

    def relist(self) -> None: ...


class StoreNews:
    """Source `store`: one LISTEN connection that comes back by itself."""

    name = "store"

    def __init__(
        self,
        listener: Listener,
        queue: WorkQueue,
        fleet: Relists,
        mailroom: Mailroom,
        clock: Clock,
        *,
        look_ins: Looks | None = None,
        beat_s: float = BEAT_S,
    ) -> None:
        self._look_ins = look_ins
        self.quiet_s = 4 * beat_s
        self._beat_s = beat_s
        self._listener = listener
        self._queue = queue
        self._fleet = fleet
        self._mailroom = mailroom
        self._clock = clock

    async def listen(self, alive: Callable[[], None]) -> None:
        def hear(item: Item) -> None:
            alive()
            if isinstance(item, Reconnected):
                self._fleet.relist()
                if self._look_ins is not None:
                    self._look_ins.relist()
            elif item.channel == LOOK_INS:
                if self._look_ins is not None:
                    self._look_ins.wanted(item.payload)
            elif item.payload == KEY:
                self._fleet.relist(takeover=True)
            else:
                if item.channel == INBOX:
                    self._mailroom.expect(item.payload)
                self._queue.put(item.payload)

        beating = asyncio.create_task(self._beat(alive))
        try:
            await self._listener.run(hear)
        finally:
            await ended(beating)

    async def _beat(self, alive: Callable[[], None]) -> None:
        """The listener tries its connection every few seconds, and knows when it is gone."""
        while True:
            await self._clock.sleep(self._beat_s)
            if self._listener.is_listening:
                alive()
