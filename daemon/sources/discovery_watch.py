"""News from service discovery: the list of instances, compared with the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from core.clients.discovery import Discovery
from core.domain.facts import ServiceInstance
from daemon.sources.supervisor import Relists
from daemon.workqueue import WorkQueue


class DiscoveryWatch:
    """Source `discovery`. There is nothing to compare the first list with, so everything is listed once."""

    name = "discovery"

    def __init__(
        self, discovery: Discovery, queue: WorkQueue, fleet: Relists, *, wait_s: float = 30.0
    ) -> None:
        """`wait_s`: how long a quiet query is held."""
        # An answer comes after the wait, a sixteenth of it and a slow round trip; twice that misses one.
        self.quiet_s = 2 * (wait_s * 17 / 16 + 5.0)
        self._discovery = discovery
        self._queue = queue
        self._fleet = fleet
        self._last: tuple[ServiceInstance, ...] | None = None

    async def listen(self, alive: Callable[[], None]) -> None:
        async for instances in self._discovery.watch():
            alive()
            last, self._last = self._last, instances
            if last is None:
                self._fleet.relist()
            elif instances != last:
                for user in changed(last, instances):
                    self._queue.put(user)


def changed(before: Iterable[ServiceInstance], after: Iterable[ServiceInstance]) -> tuple[str, ...]:
    """Users whose passing instances are not what they were, in number or place; each once, in the lists' order.

    Whoever does not pass is nobody's endpoint, so its coming and going changes nothing that a pass would do.
    """
    was, is_now = _passing(before), _passing(after)
    moved = [one.user_id for one in was if one not in is_now] + [
        one.user_id for one in is_now if one not in was
    ]
    return tuple(dict.fromkeys(moved))


def _passing(instances: Iterable[ServiceInstance]) -> dict[ServiceInstance, None]:
    # No set: its order would be another one in each run.
    return dict.fromkeys(instance for instance in instances if instance.passing)
