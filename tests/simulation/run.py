"""One seed from its first second to its last, and what came of it."""

from __future__ import annotations

import time
import traceback
from random import Random
from typing import Any

import msgspec
import structlog

from core.domain.pacing import Limit, Pace
from tests.memory_orphans import MemoryOrphans
from tests.memory_store import MemoryStore
from tests.simulation import ending
from tests.simulation.caretaker import Watch
from tests.simulation.chips import ChipTroubles
from tests.simulation.discovery import Catalog
from tests.simulation.egress import Egress
from tests.simulation.faults import Faults
from tests.simulation.fleet_of import Fleet
from tests.simulation.hosts import Host
from tests.simulation.invariants import Checker
from tests.simulation.network import Network
from tests.simulation.owners import Owners
from tests.simulation.releases import Releases
from tests.simulation.servers import Servers
from tests.simulation.storewire import give_methods
from tests.simulation.waha import Sessions
from tests.simulation.wiring import SETTINGS
from tests.simulation.world import START, World

LENGTH_S = 7200.0
BUSY_S = 5400.0  # faults and whims end here; the rest is the quiet time
_FAULTS_FROM_S = 60.0
_TROUBLES, _TROUBLES_FROM_S = 8, 600.0  # those of single chips, once some are connected
# Every other seed's fleet is so slow that its chips stand in line; the others', as it is in production, hardly.
_PACES = (Pace(), Pace(fleet=Limit(0.5, 4), host=Limit(0.2, 3)))
# Log lines of the product that mean a bug, whoever caused it.
_BUGS = frozenset({"pass_broke", "source_broke", "duty_broke", "pass_impossible", "job_not_renderable"})


class Outcome(msgspec.Struct, frozen=True):
    """What one seed came to. `failure` is None when everything held."""

    seed: int
    failure: str | None
    digest: str
    cpu_s: float
    hosts: int
    users: int
    daemons: int
    passes: int
    faults: dict[str, int]
    states: dict[str, int]
    counts: dict[str, int]
    tail: list[str] = []


class _StoreClock:
    """The store's own clock is the world's."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> Any:
        return self._world.moment()

    def monotonic(self) -> float:
        return self._world.now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a store does not sleep")


def run_seed(seed: int, *, verbose: bool = False) -> Outcome:
    """Replays exactly: the same seed and code give the same digest."""
    began = time.process_time()
    world = World(seed, verbose=verbose)
    random = world.random
    users, hosts, daemons = _few(random, 20, 60), random.randint(3, 8), random.choice((1, 2, 2, 3))
    put_together(world, users, _PACES[seed % len(_PACES)])
    # Just enough ports for everybody on all hosts; less as soon as one is away.
    ports = -(-users * random.choice((11, 14, 20)) // (10 * hosts)) + 2
    for number in range(1, hosts + 1):
        reserved = frozenset({3100 + random.randrange(ports)})
        world.hosts.append(Host(world, number, range(3100, 3101 + ports), reserved))
    fleet = Fleet(world, daemons)
    fleet.begin()
    world.owners.begin(BUSY_S)
    world.egress.begin(BUSY_S)
    faults = Faults(world, fleet, BUSY_S)
    faults.plan(_few(random, 30, 60), _FAULTS_FROM_S)
    troubles = ChipTroubles(world, BUSY_S)
    troubles.plan(_TROUBLES, _TROUBLES_FROM_S)
    Releases(world, fleet).begin(BUSY_S)
    world.checker.pauses.begin(BUSY_S)
    watch = Watch(world, SETTINGS.orphan_grace_s)
    watch.begin()
    world.loop.at(BUSY_S, _calm, world, fleet, watch, troubles)
    listen_to_logs(world, verbose=verbose)
    failure = None
    try:
        world.loop.run(LENGTH_S)
        failure = world.violation
        if failure is None:
            left = ending.differences(world)
            failure = f"not converged: {'; '.join(left[:6])}" if left else None
    except Exception:
        failure = f"the simulation broke: {traceback.format_exc()}"
    take_down(world, fleet)
    tail = world.trace.tail if failure or verbose else []
    return Outcome(
        seed=seed,
        failure=failure,
        digest=world.trace.digest,
        cpu_s=time.process_time() - began,
        hosts=hosts,
        users=users,
        daemons=daemons,
        passes=sum(daemon.passes for daemon in fleet.ever),
        faults=dict(world.faults),
        states={f"{kind}.{which}": n for (kind, which), n in world.checker.states.items()},
        counts=dict(world.counts),
        tail=tail,
    )


def put_together(world: World, users: int, pace: Pace) -> None:
    """Everything but hosts and daemons."""
    world.pace = pace
    world.store = MemoryStore(_StoreClock(world))
    give_methods(MemoryStore)
    world.network, world.egress = Network(world), Egress(world)
    world.orphans = MemoryOrphans(world.store)
    world.store.on_news = world.network.store_news
    world.servers, world.catalog, world.waha = Servers(world), Catalog(world), Sessions(world)
    world.checker = Checker(world)
    world.owners = Owners(world, users)


def _few(random: Random, least: int, most: int) -> int:
    """Rather few than many: two small worlds show more than a large one for the same time."""
    return int(random.triangular(least, most + 1, least))


def _calm(world: World, fleet: Fleet, watch: Watch, troubles: ChipTroubles) -> None:
    """All faults are over; what they left behind is the daemons' business."""
    world.trace.note("calm")
    fleet.calm = True
    world.network.fates.clear()
    for daemon in world.daemons:
        daemon.kill_in = None
    troubles.calm()
    world.egress.calm()
    world.owners.come_to_rest()
    watch.calm()


def take_down(world: World, fleet: Fleet) -> None:
    for daemon in fleet.ever:
        daemon.closing = True
    world.over = True
    world.loop.bury([daemon.process for daemon in fleet.ever])


_HEARD: dict[str, World] = {}  # whose world speaks


def listen_to_logs(world: World, *, verbose: bool) -> None:
    """The product's own log: a bug that it caught and told is a failure here all the same.

    Loggers are set up at a process's first seed and kept, since making one for each line costs more than most
    of what is logged: later seeds of a process are as verbose as its first one.
    """
    first = not _HEARD
    _HEARD["world"] = world
    if not first:
        return
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _hear_all] if verbose else [_hear],
        wrapper_class=structlog.make_filtering_bound_logger(20 if verbose else 40),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _hear(_logger: object, _method: str, event: Any) -> Any:
    world = _HEARD["world"]
    name = event.get("event")
    if name in _BUGS and not world.over:
        error = event.get("exc_info")
        what = traceback.format_exc() if error else str({k: v for k, v in event.items() if k != "event"})
        world.violate(f"{name}: {what}")
    raise structlog.DropEvent


def _hear_all(logger: object, method: str, event: Any) -> Any:
    world = _HEARD["world"]
    if not world.over:
        rest = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
        world.trace.lines.append(f"{world.now:10.3f}     log {event.get('event')} {rest}")
    return _hear(logger, method, event)


assert START
