"""The daemons of a seed: started again by whoever runs them, as a process manager would."""

from __future__ import annotations

from tests.simulation.daemons import Daemon
from tests.simulation.world import World

_LOOK_S = 4.0  # how soon a process manager sees that one ended


class Fleet:
    """Keeps `count` daemons alive; one that died comes back after a while."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.count = count
        self.ever: list[Daemon] = []
        self.calm = False
        self._started = 0

    def begin(self) -> None:
        for _ in range(self.count):
            self.world.loop.after(self.world.random.uniform(0.0, 3.0), self._start)
        self.world.loop.after(_LOOK_S, self._look)

    def _start(self) -> None:
        self._started += 1
        daemon = Daemon(self.world, f"d{self._started}")
        self.world.daemons.append(daemon)
        self.ever.append(daemon)
        daemon.start()

    def _look(self) -> None:
        world = self.world
        for daemon in list(world.daemons):
            ended = daemon.process.dead or (daemon.task is not None and daemon.task.done())
            if ended:
                if not daemon.process.dead and daemon.task is not None and daemon.task.exception():
                    world.violate(f"the daemon {daemon.name} ended by itself: {daemon.task.exception()!r}")
                daemon.kill("it is over")
                world.daemons.remove(daemon)
                longest = 5.0 if self.calm else world.random.choice((1.0, 30.0, 240.0))
                world.loop.after(world.random.uniform(0.1, longest), self._start)
        world.loop.after(_LOOK_S, self._look)
