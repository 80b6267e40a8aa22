"""Passes over the pure world, as the daemon makes them."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.ports import HostPorts
from tests.world import World
from tests.world_rows import POLICY

GUARDED = msgspec.structs.replace(POLICY, egress="guard")
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
USERS = tuple(f"00000000-0000-4000-8000-00000000000{n}" for n in range(2))
CHIPS = tuple(f"00000000-0000-4000-9000-00000000000{n}" for n in range(4))

__all__ = ["CHIPS", "CHIP_ACTIONS", "GUARDED", "HOSTS", "POLICY", "USERS", "hosts", "one_pass", "settle"]


def hosts(ports: int, count: int = 3) -> dict[str, HostPorts]:
    return {
        address: HostPorts(address, 3100, 3100 + ports - 1, reserved=frozenset({3101}))
        for address in HOSTS[:count]
    }


CHIP_ACTIONS = (
    act.CreateSession,
    act.StartSession,
    act.RestartSession,
    act.RewriteSession,
    act.RouteSession,
    act.LogoutSession,
    act.StopSession,
    act.DeleteSession,
    act.RemoveChip,
    *act.OF_LABELS,
)


def one_pass(
    world: World, user: str, *, only: int | None = None, last_chip_first: bool = False
) -> act.Decision | None:
    """Observe, decide, act (all actions or just the first `only`), write.

    Chip actions run side by side in a real pass, so no order of theirs may matter.
    """
    if user not in world.desired:
        return None
    decision = decide(world.desired[user], world.observe(user), world.now, world.policy)
    world.seen = {a.id: replace(a) for a in world.allocations}
    actions = list(decision.actions)
    if last_chip_first:
        actions = [a for a in actions if not isinstance(a, CHIP_ACTIONS)] + [
            a for a in reversed(actions) if isinstance(a, CHIP_ACTIONS)
        ]
    for action in actions[:only]:
        world.apply(user, action)
        world.most_running[user] = max(world.most_running.get(user, 0), world.running_sessions(user))
    if only is None:
        world.write(user, decision)
    return decision


def settle(world: World, user: str, passes: int = 60) -> act.Decision | None:
    decision = None
    for _ in range(passes):
        decision = one_pass(world, user)
        if decision is None:
            return None
        world.tick(2.0)
    return decision
