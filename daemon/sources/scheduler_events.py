"""News from the scheduler's event stream."""

from __future__ import annotations

from collections.abc import Callable

from core.clients.scheduler import RELIST, Scheduler
from daemon.sources.everyone import Everyone
from daemon.workqueue import WorkQueue


class SchedulerEvents:
    """Source `scheduler`. After every connect everybody is looked at: the stream may have a gap."""

    name = "scheduler"

    def __init__(self, scheduler: Scheduler, queue: WorkQueue, everyone: Everyone) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._everyone = everyone

    async def listen(self, alive: Callable[[], None]) -> None:
        async for news in self._scheduler.watch():
            alive()
            if news is RELIST:
                self._everyone.relist()
            else:
                for user in news:
                    self._queue.put(user)
