"""An operator who pauses the whole fleet now and then, and lets it go on; nothing may leave meanwhile."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.daemons import TROUBLE_S
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon

_EVERY, _WHICH = 8, 5  # seeds without any pause show more of the rest
# What was asked before the pause may still be on its way to the store, once or twice, before it leaves.
_BOUND_S = 12.0


class FleetPauses:
    """Draws from random numbers of its own: what else happens in a seed does not hang on it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = Random(f"pauses of {world.seed}")
        self.since: float | None = None
        self._asked: list[bool] = []  # and not yet done, since the store is away

    def begin(self, busy_s: float) -> None:
        """A few pauses in some seeds, all over well before `busy_s`."""
        if self.world.seed % _EVERY != _WHICH:
            return
        at = self.random.uniform(0.1, 0.3) * busy_s
        while at < 0.75 * busy_s:
            lasts = self.random.choice((20.0, 120.0, 400.0)) * self.random.uniform(0.5, 1.5)
            self.world.loop.at(at, self._set, True)
            self.world.loop.at(at + lasts, self._set, False)
            at += lasts + self.random.uniform(100.0, 1500.0)

    def _set(self, paused: bool) -> None:
        """In the order in which it was asked: a short pause that overtook its own end would never end."""
        self._asked.append(paused)
        if len(self._asked) == 1:
            self._ask()

    def _ask(self) -> None:
        if "postgres" in self.world.network.down:
            self.world.loop.after(5.0, self._ask)
            return
        for paused in self._asked:
            self._done(paused)
        self._asked.clear()

    def _done(self, paused: bool) -> None:
        world = self.world
        if world.store.pause_fleet(paused=paused):
            self.since = world.now if paused else None
            world.counts["fleet.paused" if paused else "fleet.resumed"] += 1
            world.trace.note("fleet", "", "paused" if paused else "resumed")

    def sent(self, daemon: Daemon, user: str, effect: str) -> None:
        """An effect leaves: not after the pause, but for what a daemon that stood still had decided before."""
        if self.since is None or self.world.now - self.since <= _BOUND_S:
            return
        if daemon.troubled_at > self.since - TROUBLE_S:
            return
        self.world.violate(
            f"pause: {daemon.name} sends {effect} for user {short(user)} "
            f"{self.world.now - self.since:.0f} s after the fleet was paused"
        )
