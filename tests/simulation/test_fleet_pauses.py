"""The operator of the simulation, who pauses the whole fleet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.simulation.fleet_pauses import FleetPauses
from tests.simulation.world import World


@pytest.mark.parametrize("back_at", [1.0, 13.0, 17.0, 40.0])
def test_a_pause_ends_whenever_the_store_comes_back(back_at: float) -> None:
    world, told = World(5), list[bool]()

    def pause_fleet(*, paused: bool) -> bool:
        told.append(paused)
        return True

    world.network = cast("Any", SimpleNamespace(down={"postgres"}))
    world.store = SimpleNamespace(pause_fleet=pause_fleet)
    pauses = FleetPauses(world)
    world.loop.at(2.0, pauses._set, True)
    world.loop.at(13.5, pauses._set, False)
    world.loop.at(back_at, world.network.down.clear)
    world.loop.at(100.0, lambda: None)  # a loop with nothing ahead refuses to run
    world.loop.run(60.0)
    assert told == [True, False]
    assert pauses.since is None
