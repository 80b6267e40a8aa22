"""The store's server: outages, restarts, failovers that lost what was written last, clocks that step."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.memory_store import MemoryStore
from tests.simulation.fence.clocks import StoreClock

if TYPE_CHECKING:
    from tests.simulation.fence.world import FenceWorld


class Stores:
    """One store, whose server may become another."""

    def __init__(self, world: FenceWorld, rate: float) -> None:
        self.world = world
        self.clock = StoreClock(world, rate)
        self.store = MemoryStore(self.clock)
        self.went_back_s = 0.0  # in all: so much longer than it should be a lease or a hold may last
        self._replica: dict[str, Any] | None = None

    def down(self, down: bool) -> None:
        self.store.down = down

    def restart(self) -> None:
        """Another start time is all that shows."""
        self.store.server_started_at += timedelta(seconds=1 + self.world.now)

    def step(self, seconds: float) -> None:
        self.clock.stepped_s += seconds
        self.went_back_s += max(0.0, -seconds)

    def stall_replication(self) -> None:
        """What is written from now on reaches no other server."""
        if self._replica is None:
            self._replica = self._rows()

    def fail_over(self, off_s: float) -> None:
        """The other server takes over, with what it heard and with a clock of its own."""
        rows, self._replica = self._replica or self._rows(), None
        store = self.store
        for user_id, placements in rows["placements"].items():
            store.users[user_id].placements = placements
            container = store.containers[user_id]
            container.current = next((one for one in placements if one.is_current), None)
            container.snapshot = None
        store.placement_of = {one.allocation_id: one for rows in rows["placements"].values() for one in rows}
        store.granted_after, store.guards_saw = rows["granted_after"], rows["guards_saw"]
        self.step(off_s)
        self.restart()

    def _rows(self) -> dict[str, Any]:
        store = self.store
        return {
            "placements": {
                user.id: [copy.copy(row) for row in user.placements] for user in store.users.values()
            },
            "granted_after": store.granted_after,
            "guards_saw": store.guards_saw,
        }
