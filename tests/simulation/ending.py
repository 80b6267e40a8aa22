"""What must be true once the faults are over and everything has had its time."""

from __future__ import annotations

from typing import Any

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.names import SESSION_PREFIX, VARIABLE_PREFIX, job_id
from tests.simulation.releases import image_of
from tests.simulation.world import World, short

# What the wiring sets, and how long a look at a user at rest is away at most, with the slack of a sweep.
_DEAF_AFTER_S, _DEAF_FACTOR, _DEAF_RESTARTS = 600.0, 1.5, 3
_LOOK_S, _SLACK_S = 1200.0, 300.0
_RESTARTED_S = 60.0


def differences(world: World) -> list[str]:
    """Every sentence is one difference between what users want and what there is."""
    found: list[str] = []
    for user_id in world.owners.users:
        found += _user(world, user_id)
    rows = world.store.containers
    known = {job_id(user_id) for user_id in rows}
    for job in world.servers.jobs:
        if job not in known:
            found.append(f"job {short(job)} is nobody's")
    for path in world.servers.variables:
        if path.removeprefix(VARIABLE_PREFIX) not in known:
            found.append(f"variables {short(path)} are nobody's")
    namespaces = {row.namespace for row in rows.values()}
    for namespace in world.waha.databases:
        if namespace not in namespaces:
            found.append(f"storage {namespace} is nobody's")
    for user_id in world.store.mail:
        if user_id not in rows:
            found.append(f"mail of user {short(user_id)} is read by nobody")
    for chip_id in world.store.labels:
        if chip_id not in world.store.chips:
            found.append(f"label of chip {short(chip_id)} is nobody's")
    return found


def _user(world: World, user_id: str) -> list[str]:
    row = world.store.containers.get(user_id)
    name = f"user {short(user_id)}"
    running = world.waha.containers_of(user_id)
    entries = [e for e in world.store.ledger.values() if e[0] == user_id]
    if row is None:
        left = []
        if running:
            left.append(f"{name} was removed and a container runs")
        if entries:
            left.append(f"{name} was removed and holds a port")
        return left
    if row.deleted_at is not None or (not row.chips and not row.pinned):
        return [
            f"{name} should be gone: {row.phase} {row.reason}, job {job_id(user_id) in world.servers.jobs}"
        ]
    found = []
    if len(running) != 1:
        found.append(f"{name} has {len(running)} containers: {row.phase} {row.reason}")
    if row.phase != "ready":
        found.append(f"{name} is {row.phase} {row.reason}")
    elif running and (row.observed.endpoint is None or row.observed.port != running[0].alloc.port):
        found.append(f"{name} has endpoint {row.observed.endpoint}, its container another")
    if running and image_of(running[0].alloc.spec) != world.image:
        found.append(f"{name} runs {image_of(running[0].alloc.spec)}, wanted {world.image}")
    seat = world.store.seats.get(user_id)
    if seat is not None and seat.seat.is_open:
        found.append(f"{name} is still {seat.state.value} for {seat.release[:4]}")
    if len(entries) != 1:
        found.append(f"{name} holds {len(entries)} ports")
    for chip in row.chips:
        found += _chip(world, name, chip, running[0] if running else None)
        found += world.checker.labels.left(chip)
    stored = world.waha.storage.get(row.namespace, {})
    strangers = set(stored) - {SESSION_PREFIX + chip.id for chip in row.chips}
    found += [f"{name} has session {short(one)} of no chip" for one in sorted(strangers)]
    return found


def _chip(world: World, owner: str, chip: Any, container: Any) -> list[str]:
    name = f"chip {short(chip.id)} of {owner}"
    live = container.sessions.get(SESSION_PREFIX + chip.id) if container is not None else None
    status = live.status if live is not None else WahaStatus.STOPPED
    if chip.wanted is Wanted.DELETED:
        return [f"{name} should be gone: {chip.phase} {chip.reason}"]
    wanted = ("connected", WahaStatus.WORKING)
    if chip.banned_at is not None:
        wanted = ("banned", WahaStatus.STOPPED)
    if chip.wanted is Wanted.DISCONNECTED:
        wanted = ("disconnected", WahaStatus.STOPPED)
    if chip.phase == "reconnecting" and _found_deaf_just_now(world, chip):
        return []
    if (chip.phase, status) != wanted:
        return [f"{name} is {chip.phase} {chip.reason} with {status.value}, wanted {wanted[0]}"]
    deaf_s = 0.0 if live is None or live.deaf_at is None else world.now - live.deaf_at
    # Its last signs of life may have been told after a look's time.
    gap_s = max(live.deaf_gap_s, _LOOK_S) if live is not None else 0.0
    # A look just before it was suspicious puts off the finding by a whole period, and silences before may have
    # made its rhythm longer than the last one was.
    longest_s = max(_DEAF_AFTER_S, _DEAF_FACTOR * gap_s) + 2 * _LOOK_S + _SLACK_S
    if deaf_s > longest_s and len(chip.observed.memory.rhythm.restarts) < _DEAF_RESTARTS:
        return [f"{name} has been deaf for {deaf_s:.0f} s, {longest_s:.0f} s are enough to find it"]
    return []


def _found_deaf_just_now(world: World, chip: Any) -> bool:
    """A look of the last minute had it started again."""
    restarts = chip.observed.memory.rhythm.restarts
    return bool(restarts) and (world.moment() - restarts[-1]).total_seconds() < _RESTARTED_S
