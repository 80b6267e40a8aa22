"""`python -m tests.simulation.host_loss`: a host with 300 connected chips dies; who starts again, and when.

Nothing else goes wrong, so what is measured is the pace alone: starts a second as they reach WAHA, how long
until all are back, and how good the estimates were that people were told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import uuid
from collections import Counter
from typing import Any

from core.domain.facts import WahaStatus
from core.domain.pacing import Limit, Pace
from tests.simulation.fleet_of import Fleet
from tests.simulation.hosts import Host
from tests.simulation.run import listen_to_logs, put_together, take_down
from tests.simulation.world import World

# Users of each plan with as many chips as it allows: 300 chips.
_USERS = (("enterprise", 10, 20), ("business", 3, 25), ("free", 1, 25))
CHIPS = sum(chips * users for _, chips, users in _USERS)
# In between, a start may be on its way: a call to WAHA takes up to 25 ms, one of a busy session longer.
_ON_THE_WAY_S = 1.0
# As in production. With two of them the passes are what everybody waits for, and estimates are half too short.
_WORKERS = 16
_PACED_FROM_S, _LOSS_AT_S = 600.0, 900.0
_AGAIN_WITHIN_S = 900.0


def run(seed: int, hosts: int, daemons: int) -> dict[str, Any]:
    """The figures. `hosts`: those that are left after the loss."""
    began = time.process_time()
    world, pace = World(seed), Pace()
    put_together(world, sum(users for _, _, users in _USERS), pace)
    world.egress.guarded = False  # starts are measured, with nothing to be waited for before them
    world.owners.patient = True
    for number in range(1, hosts + 2):
        world.hosts.append(Host(world, number, range(3100, 3200), frozenset()))
    lost, others = world.hosts[0], world.hosts[1:]
    for host in others:
        host.full = True
    world.workers = _WORKERS
    fleet = Fleet(world, daemons)
    fleet.calm = True
    listen_to_logs(world, verbose=False)
    # Paired before anything is measured, faster than any fleet may start.
    world.pace = Pace(*[Limit(100.0, 100.0)] * 3)
    _arrive(world)
    fleet.begin()
    world.loop.at(_PACED_FROM_S, _slow_down, world, fleet, pace)
    world.loop.at(_LOSS_AT_S, _lose, lost, others)
    world.loop.run(_LOSS_AT_S - 1.0)
    connected_before = len(_working(world))
    back_at: dict[str, float] = {}
    end = _LOSS_AT_S
    while end < _LOSS_AT_S + _AGAIN_WITHIN_S and world.violation is None and len(back_at) < CHIPS:
        end += 1.0
        world.loop.run(end)
        for name in _working(world):
            back_at.setdefault(name, end)
    take_down(world, fleet)
    arrived = [(at, host) for at, host in world.checker.starts.arrived if at >= _LOSS_AT_S]
    waited = [told for told in world.checker.starts.told if told.at >= _LOSS_AT_S]
    errors = [told.error for told in waited if told.error is not None]
    first = min(at for at, _ in arrived)
    return {
        "seed": seed,
        "violation": world.violation,
        "chips": CHIPS,
        "hosts_left": hosts,
        "daemons": daemons,
        "connected_before": connected_before,
        "connected_after": len(back_at),
        "starts": len(arrived),
        "most_in_1_s": _most(arrived, 1.0),
        "most_in_10_s": _most(arrived, 10.0),
        "over_the_limits": _over(arrived, pace),
        "first_start_after_s": round(first - _LOSS_AT_S, 1),
        "all_back_after_s": round(max(back_at.values()) - _LOSS_AT_S, 1),
        "starts_took_s": round(max(at for at, _ in arrived) - first, 1),
        "waited": len(waited),
        "median_wait_s": round(statistics.median((told.granted_at or 0) - told.at for told in waited), 1),
        "median_error_of_first_estimate": round(statistics.median(errors), 3),
        "passes": sum(daemon.passes for daemon in fleet.ever),
        "cpu_s": round(time.process_time() - began, 1),
    }


def _arrive(world: World) -> None:
    users, number = iter(world.owners.users), 0
    for plan, chips, count in _USERS:
        for _ in range(count):
            user_id = next(users)
            world.store.add_user(user_id, plan)
            for _ in range(chips):
                number += 1
                chip_id = str(uuid.UUID(int=(0xC << 96) | number))
                at = world.random.uniform(1.0, 120.0)
                world.loop.at(at, world.owners.press, "create_chip", user_id, chip_id, f"chip {number}")


def _slow_down(world: World, fleet: Fleet, pace: Pace) -> None:
    """The daemons are started again with the pace of production, and every bucket is full."""
    world.pace = pace
    world.store.buckets.clear()
    world.checker.starts.forget()
    for daemon in fleet.ever:
        daemon.kill("to be started again")


def _lose(lost: Host, others: list[Host]) -> None:
    for host in others:
        host.full = False
    lost.die()


def _working(world: World) -> list[str]:
    return [
        name
        for host in world.hosts
        for container in host.containers.values()
        for name, live in container.sessions.items()
        if live.status is WahaStatus.WORKING
    ]


def _most(arrived: list[tuple[float, str]], window_s: float) -> int:
    """Starts in the fullest window of that length."""
    times = [at for at, _ in arrived]
    return max(sum(at <= one < at + window_s for one in times) for at in times)


def _over(arrived: list[tuple[float, str]], pace: Pace) -> int:
    """Windows, from any start to any later one, with more starts than their limit."""
    found = _windows_over([at for at, _ in arrived], pace.fleet)
    for host in Counter(host for _, host in arrived):
        found += _windows_over([at for at, where in arrived if where == host], pace.host)
    return found


def _windows_over(times: list[float], limit: Limit) -> int:
    found = 0
    for first, begins in enumerate(times):
        for last in range(first, len(times)):
            window_s = times[last] - begins + _ON_THE_WAY_S
            found += last - first + 1 > limit.burst + limit.per_s * window_s + 1e-6
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.host_loss", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=8, help="those that are left")
    parser.add_argument("--daemons", type=int, default=2)
    chosen = parser.parse_args()
    told = run(chosen.seed, chosen.hosts, chosen.daemons)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
