"""What must hold of rollouts: never more users on the move than allowed, and a bad image gets no further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.domain.rollout import Control, RolloutState
from core.domain.seat import SeatState
from tests.simulation.releases import BAD, image_of
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon

USERS = 3
# Whoever is admitted while the first ones have not failed yet, and some who wished for something else meanwhile.
_REACHED = 2 * USERS + 2


class Moves:
    def __init__(self, world: World) -> None:
        self.world = world
        self._reached: dict[Any, set[str]] = {}

    def admitted(self, before: Control, users: tuple[str, ...]) -> None:
        """A plan was written."""
        store = self.world.store
        moving = [user for user, seat in store.seats.items() if seat.state is SeatState.MOVING]
        if len(moving) > USERS:
            self.world.violate(f"rollout: {len(moving)} users move at a time, {USERS} may")
        for user in users:
            self.world.counts["rollout.admitted"] += 1
            chips = store.containers[user].chips
            connected = any(chip.phase == "connected" and chip.deleted_at is None for chip in chips)
            if before.state is RolloutState.PAUSED and connected:
                self.world.violate(f"rollout: user {short(user)} has a connected chip and moves while paused")

    def registered(self, daemon: Daemon, user: str, spec: Any, record: Any) -> None:
        """A job that exists was registered by a pass."""
        snapshot, store = record.snapshot, self.world.store
        before = snapshot.container.registered if snapshot is not None else None
        if before is None or before.release == daemon.loader.release:
            return
        self.world.counts["rollout.registered"] += 1
        seat = snapshot.seat
        if seat is None or seat.state is not SeatState.MOVING:
            state = "no seat" if seat is None else f"a seat that is {seat.state.value}"
            self.world.violate(f"rollout: {daemon.name} restarts user {short(user)} with {state}")
            return
        row = store.releases[-1]
        if image_of(spec) in BAD and seat.connected and row.release == daemon.loader.release:
            reached = self._reached.setdefault(row.counted_from, set())
            reached.add(user)
            self.world.counts["rollout.reached_by_bad"] += 1
            if len(reached) > _REACHED:
                self.world.violate(
                    f"rollout: a bad image has reached {len(reached)} users with a connected chip"
                )
