"""Webhooks that no pass has answered yet.

The notification of a webhook only makes it quick; that none is lost rests on reading the inbox itself every
few seconds. What came before this daemon started, or while nothing was heard, is found that way.
"""

from __future__ import annotations

from collections.abc import Callable

from core.clock import Clock
from daemon.mail import Mailroom
from daemon.workqueue import WorkQueue


class Inbox:
    """Source `inbox`."""

    name = "inbox"

    def __init__(self, mailroom: Mailroom, queue: WorkQueue, clock: Clock, *, every_s: float = 5.0) -> None:
        self._mailroom = mailroom
        self._queue = queue
        self._clock = clock
        self._every_s = every_s

    async def listen(self, alive: Callable[[], None]) -> None:
        while True:
            waiting = await self._mailroom.waiting()
            alive()
            for mail in waiting:
                if mail.user_id not in self._mailroom:
                    self._mailroom.expect(mail.user_id)
                    self._queue.put(mail.user_id)
            await self._clock.sleep(self._every_s)
