"""One seed: a time of faults, a time to settle, an outage that must close nothing, and planned moves."""

from __future__ import annotations

import logging
import time
import traceback

import msgspec
import structlog

from egress import relay
from tests.simulation.fence.faults import Faults
from tests.simulation.fence.wires import acknowledged
from tests.simulation.fence.world import DRIFT, FenceWorld

_FAULTS_LIVES, _SETTLE_LIVES = 4.5, 2.5  # in lives of a lease
_MOVES_S = 35.0
# A container comes again after this at the latest; what else a moment takes: calls, a connection, a boot.
_COMES_AGAIN_S, _MOMENT_S = 3.0, 0.3


class Outcome(msgspec.Struct, frozen=True):
    """What one seed came to. `failure` is None when everything held; `lasted_s` in its own time."""

    seed: int
    failure: str | None
    digest: str
    cpu_s: float
    lasted_s: float
    hosts: int
    faults: dict[str, int]
    counts: dict[str, int]
    tail: list[str] = []


def prepare() -> None:
    """Played sockets say themselves what the kernel would; and the guards' log would cost more than what it tells."""
    relay.is_acknowledged = acknowledged
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=True
    )


def run_seed(seed: int, *, verbose: bool = False) -> Outcome:
    """Replays exactly: the same seed and code give the same digest."""
    prepare()
    began = time.process_time()
    world = FenceWorld(seed, verbose=verbose)
    failure = None
    try:
        failure = _lived(world)
    except Exception:
        failure = f"the simulation broke: {traceback.format_exc()}"
    broke = [str(one.get("exception") or one.get("message")) for one in world.loop.problems]
    if failure is None and broke:
        failure = f"a task broke: {broke[0]}"
    lasted_s = world.now
    world.loop.bury(world.processes)
    return Outcome(
        seed=seed,
        failure=failure,
        digest=world.trace.digest,
        cpu_s=time.process_time() - began,
        lasted_s=lasted_s,
        hosts=len(world.hosts),
        faults=dict(world.faults),
        counts=dict(world.counts),
        tail=world.trace.tail if failure or verbose else [],
    )


def _lived(world: FenceWorld) -> str | None:
    ttl_s = world.times.ttl_s
    faults = Faults(world, _FAULTS_LIVES * ttl_s)
    faults.plan(world.random.randint(20, 40), 15.0)
    _until(world, _FAULTS_LIVES * ttl_s)
    told = world.violation or _settled(world, faults) or world.violation
    for step in (_outage, _planned_moves):
        told = told or step(world) or world.violation
    return told


def _until(world: FenceWorld, when: float) -> None:
    world.loop.run(when)


def _settled(world: FenceWorld, faults: Faults) -> str | None:
    """Once things are well again everybody speaks, within the time that doubt and late requests may cost."""
    faults.calm()
    _until(world, world.now + _SETTLE_LIVES * world.times.ttl_s + world.stores.went_back_s)
    silent = _silent(world)
    return f"t={world.now:.3f} well again, and not forwarded for: {silent}" if silent else None


def _outage(world: FenceWorld) -> str | None:
    """The API is away for as long as a guard promises to bear, at once refused or without a word."""
    times, judge = world.times, world.judge
    fastest = max(host.clock.drifts.rate for host in world.hosts)
    length_s = (times.ttl_s - times.margin_s - times.renew_s) / fastest
    judge.quiet = True
    world.network.refuses = world.random.random() < 0.5
    world.trace.note("outage", "", f"{length_s:.3f} s, {'refused' if world.network.refuses else 'silent'}")
    _until(world, world.now + world.random.uniform(0, times.renew_s))
    for replica in world.replicas:
        replica.up = False
    _until(world, world.now + length_s)
    for replica in world.replicas:
        replica.up = True
        replica.begin()
    _until(world, world.now + times.renew_s)
    judge.quiet = False
    lost = judge.lost_in_quiet
    return f"t={world.now:.3f} an outage of {length_s:.1f} s closed tunnels of {lost}" if lost else None


def _planned_moves(world: FenceWorld) -> str | None:
    """A drain costs no wait for a lease: the new container's first wish is answered."""
    # The guard of the old one asks for its empty lease so often, and hears of the move by that.
    within_s = 2 * world.times.retry_s / (1 - DRIFT) + _COMES_AGAIN_S + _MOMENT_S
    before = [(user, user.wanted()) for user in world.cluster.users]
    moved = [(user, old) for user, old in before if world.cluster.drain(user)]
    _until(world, world.now + _MOVES_S)
    for user, old in moved:
        new = user.wanted()
        if new is None or new is old or not new.container.runs:
            return f"t={world.now:.3f} the simulation did not move user-{user.number}"
        container = new.container
        waited_s = (container.first_at or world.now) - max(container.first_wanted_at, container.current_at)
        if waited_s > within_s:
            return f"t={world.now:.3f} a planned move: {container.name} waited {waited_s:.1f} s for its lease"
    silent = _silent(world)
    return f"t={world.now:.3f} moved, and not forwarded for: {silent}" if silent else None


def _silent(world: FenceWorld) -> list[str]:
    found = []
    for user in world.cluster.users:
        one = user.wanted()
        if one is None or world.now - one.container.spoke_at > 10.0:
            found.append(f"user-{user.number} ({one.container.name if one else 'nowhere'})")
    return found
