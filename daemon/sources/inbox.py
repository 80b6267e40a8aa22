"""Webhooks that no pass has answered yet.

The notification of a webhook only makes it quick; that none is lost rests on reading the inbox itself every
few seconds. What came before this daemon started, or while nothing was heard, is found that way. What was
answered long ago is removed on the way, some at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from core.clock import Clock
from daemon.mail import Mailroom
from daemon.workqueue import WorkQueue


class Inbox:
    """Source `inbox`."""

    name = "inbox"
    quiet_s = 30.0

    def __init__(
        self,
        mailroom: Mailroom,
        queue: WorkQueue,
        clock: Clock,
        purge: Callable[[], Awaitable[int]],
        *,
        every_s: float = 5.0,
        purge_every_s: float = 600.0,
    ) -> None:
        """`purge` removes a bounded number of old webhooks and tells how many; see `core.store.inbox`."""
        self._purge = purge
        self._purge_every_s = purge_every_s
        self._mailroom = mailroom
        self._queue = queue
        self._clock = clock
        self._every_s = every_s

    async def listen(self, alive: Callable[[], None]) -> None:
        purge_at = self._clock.monotonic()
        while True:
            if self._clock.monotonic() >= purge_at:
                # Some were found: there may be more, so the next turn goes on.
                removed = await self._purge()
                purge_at = self._clock.monotonic() + (0.0 if removed else self._purge_every_s)
            waiting = await self._mailroom.waiting()
            alive()
            for mail in waiting:
                if mail.user_id not in self._mailroom:
                    self._mailroom.expect(mail.user_id)
                    self._queue.put(mail.user_id)
            await self._clock.sleep(self._every_s)
