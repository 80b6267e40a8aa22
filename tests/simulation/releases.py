"""An operator who changes the image in mid-run, to a bad one as well, and changes it again.

Settings are read at a daemon's start: after a change the daemons are replaced one after the other, and those
that still run go on with what they were started with.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from core.domain.rollout import RolloutState
from core.settings import JobSettings
from tests.simulation.world import World
from tests.unit.daemon.system import JOBS

if TYPE_CHECKING:
    from tests.simulation.fleet_of import Fleet

FIRST, SECOND = "image-1", "image-2"
# One never answers its check; the other finds no credentials and asks for a QR code.
SILENT, FORGETS = "image-silent", "image-forgets"
BAD = frozenset({SILENT, FORGETS})
_EVERY = 3  # seeds without any change show more of the rest
_LOOK_S = 120.0


def jobs(image: str) -> JobSettings:
    """The settings that name this image."""
    return msgspec.structs.replace(JOBS, simulator_args=(*JOBS.simulator_args, image))


def image_of(spec: Any) -> str:
    """What a registered job runs."""
    return str(spec["TaskGroups"][0]["Tasks"][0]["Config"]["args"][-1])


class Releases:
    """Draws from random numbers of its own: what else happens in a seed does not hang on it."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        self.world = world
        self.fleet = fleet
        self.random = Random(f"releases of {world.seed}")

    def begin(self, busy_s: float) -> None:
        """Changes in some seeds, the last one to an image that works, well before `busy_s`."""
        if self.world.seed % _EVERY:
            return
        random, loop = self.random, self.world.loop
        first = random.choice((SECOND, SILENT, FORGETS))
        loop.at(random.uniform(0.1, 0.35) * busy_s, self._change, first)
        last = random.choice((FIRST, FIRST, "image-3"))
        loop.at(random.uniform(0.55, 0.8) * busy_s, self._change, last)
        loop.after(_LOOK_S, self._look)

    def _change(self, image: str) -> None:
        world = self.world
        world.image = image
        world.counts[f"image.{image}"] += 1
        world.trace.note("image", "", image)
        at = 0.0
        for daemon in list(world.daemons):
            at += self.random.uniform(2.0, 40.0)
            world.loop.after(at, daemon.terminate)

    def _look(self) -> None:
        """Whoever paused, the image works: go on. What is bad stays paused until it is changed."""
        world = self.world
        row = world.store.releases[-1] if world.store.releases else None
        if row is not None and row.state is RolloutState.PAUSED:
            world.counts["rollout.paused_seen"] += 1
            if world.image not in BAD and world.store.set_paused(paused=False, by="operator"):
                world.counts["rollout.resumed"] += 1
                world.trace.note("resumed", "", row.release)
        world.loop.after(_LOOK_S, self._look)
