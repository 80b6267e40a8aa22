"""News from service discovery: the list of instances, compared with the one before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from core.clients.discovery import Discovery
from core.domain.facts import ServiceInstance
from daemon.workqueue import WorkQueue

ByUser = Mapping[str, frozenset[ServiceInstance]]


class DiscoveryWatch:
    """Source `discovery`. The first list after a start is compared with none: everybody in it is new."""

    name = "discovery"

    def __init__(self, discovery: Discovery, queue: WorkQueue) -> None:
        self._discovery = discovery
        self._queue = queue
        self._last: ByUser = {}

    async def listen(self, alive: Callable[[], None]) -> None:
        async for instances in self._discovery.watch():
            alive()
            seen = by_user(instances)
            for user in changed(self._last, seen):
                self._queue.put(user)
            self._last = seen


def by_user(instances: Iterable[ServiceInstance]) -> ByUser:
    found: dict[str, set[ServiceInstance]] = defaultdict(set)
    for instance in instances:
        found[instance.user_id].add(instance)
    return {user: frozenset(of_user) for user, of_user in found.items()}


def changed(before: ByUser, after: ByUser) -> frozenset[str]:
    """Users whose instances are not what they were, in number, place or health."""
    return frozenset(user for user in {*before, *after} if before.get(user) != after.get(user))
