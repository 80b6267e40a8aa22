"""How soon what is on its way is looked at without news."""

from __future__ import annotations

import msgspec

from core.domain.decide import decide
from core.domain.states import ContainerPhase
from tests.passes import CHIPS, USERS, hosts, one_pass
from tests.world import World

USER = USERS[0]


def walked() -> dict[str, float | None]:
    """Of a new user whose container takes long to answer: the next look by phase, as first told in it."""
    world = World(hosts(4))
    world.policy = msgspec.structs.replace(world.policy, poll_moving_s=2, poll_waiting_s=11, poll_booting_s=7)
    world.add_chip(USER, CHIPS[0])
    found: dict[str, float | None] = {}
    for _ in range(40):
        decision = decide(world.desired[USER], world.observe(USER), world.now, world.policy)
        if decision.container.reason is None:
            found.setdefault(decision.container.phase, decision.requeue_after)
        one_pass(world, USER)
        world.tick(1.0)
    return found


def test_who_waits_for_the_watch_alone_waits_longer_than_who_waits_for_events() -> None:
    found = walked()
    assert found[ContainerPhase.REGISTERING] == 2
    assert found[ContainerPhase.BOOTING] == 7
