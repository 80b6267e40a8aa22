"""News from the scheduler's event stream."""

from __future__ import annotations

from collections.abc import Callable

from core.clients.scheduler import RELIST, Scheduler
from core.clients.scheduler_watch import HEARTBEAT_S
from daemon.sources.supervisor import Relists
from daemon.workqueue import WorkQueue


class SchedulerEvents:
    """Source `scheduler`. After every connect everything is listed: the stream may have a gap."""

    name = "scheduler"
    quiet_s = 2 * HEARTBEAT_S

    def __init__(self, scheduler: Scheduler, queue: WorkQueue, fleet: Relists) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._fleet = fleet

    async def listen(self, alive: Callable[[], None]) -> None:
        async for news in self._scheduler.watch():
            alive()
            if news is RELIST:
                self._fleet.relist()
            else:
                for user in news:
                    self._queue.put(user)
