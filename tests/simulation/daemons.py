"""Daemons: the product's own parts, wired to a simulated world, each a process with a clock of its own."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from random import Random
from typing import Any

from core import jobspecs
from core.domain.facts import AllocationFact, JobFact, Peers
from core.errors import DependencyError, Missing
from core.store.interface import Lease, UserSnapshot
from daemon.announce import Step
from daemon.load import Loader
from tests.simulation import releases, wiring
from tests.simulation.loop import Process
from tests.simulation.network import Wire
from tests.simulation.storewire import StoreWire
from tests.simulation.world import START, World, short

# Clocks of daemons differ by this much at most; the design's margins are made for it.
SKEW_S = 5.0
DRIFT = 0.0005
PAUSE_S, CUT_OFF_S = 150.0, 200.0  # the longest that a daemon stands still, or misses a system
TROUBLE_S = CUT_OFF_S + 60.0  # with the pauses that it makes by then

KNOWN, MISSING, UNKNOWN = "known", "missing", "unknown"
_LOADERS: dict[str, Loader] = {}


def shared_loader(image: str) -> Loader:
    """It only remembers what it made of the same rows before, so all seeds of a process share one an image."""
    if image not in _LOADERS:
        _LOADERS[image] = Loader(jobspecs.template("waha-simulator"), releases.jobs(image))
    return _LOADERS[image]


class Clock:
    """`core.clock.Clock` with an offset, a skew and a drift."""

    def __init__(self, world: World, *, skew_s: float, drift: float) -> None:
        self._loop = world.loop
        self._rate = 1.0 + drift
        self._start = START + timedelta(seconds=skew_s)
        self._read_at = -1.0
        self._read = self._start

    def now(self) -> datetime:
        at = self._loop._now
        if at != self._read_at:  # several facts are often read in one instant
            self._read_at, self._read = at, self._start + timedelta(seconds=at * self._rate)
        return self._read

    def monotonic(self) -> float:
        return 1000.0 + self._loop._now * self._rate

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        """The timer is the world's; who sleeps wakes up as a step of its own process."""
        loop = self._loop
        future: asyncio.Future[None] = asyncio.Future(loop=loop)
        loop.surely(max(0.0, seconds / self._rate), _over, future)
        return future


def _over(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class PassRecord:
    """What one daemon's pass over one user has seen so far, by the world's own time."""

    __slots__ = (
        "allocations",
        "allocations_at",
        "began_at",
        "job",
        "job_at",
        "known",
        "lease",
        "peers",
        "sessions",
        "sessions_at",
        "snapshot",
        "world",
    )

    def __init__(self, world: World) -> None:
        self.world = world
        self.began_at = world.now
        self.job = self.allocations = self.sessions = UNKNOWN
        self.job_at = self.allocations_at = self.sessions_at = -1.0
        self.known: tuple[AllocationFact, ...] = ()
        self.lease: Lease | None = None
        self.peers: Peers | None = None
        self.snapshot: UserSnapshot | None = None

    def job_seen(self, result: JobFact | None, error: DependencyError | None) -> None:
        self.job_at = self.world.now
        self.job = KNOWN if error is None else MISSING if isinstance(error, Missing) else UNKNOWN

    def allocations_seen(self, result: Any, error: DependencyError | None) -> None:
        self.allocations = KNOWN if error is None else UNKNOWN
        if error is None:
            self.allocations_at = self.world.now
            self.known = result

    def sessions_seen(self, result: Any) -> None:
        self.sessions = KNOWN
        self.sessions_at = self.world.now


class Daemon:
    """One daemon process, from start to its end."""

    is_janitor = False

    def __init__(self, world: World, name: str) -> None:
        random = world.random
        self.world = world
        self.name = name
        self.process = Process(name)
        self.closing = False
        self.cut_from: set[str] = set()
        self.records: dict[str, PassRecord] = {}
        self.passes = 0
        self.troubled_at = -TROUBLE_S
        self.kill_in: int | None = None  # steps until it is killed
        self.clock = Clock(world, skew_s=random.uniform(-SKEW_S, SKEW_S), drift=random.uniform(-DRIFT, DRIFT))
        self.random = Random(random.getrandbits(32))
        self.loader = shared_loader(world.image)
        self.wire = Wire(self)
        self.store = StoreWire(self.wire)
        self.stop: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None

    def record(self, user_id: str) -> PassRecord | None:
        return self.records.get(user_id)

    def start(self) -> None:
        self.world.trace.note("daemon", self.name, "starts")
        self.task = self.world.loop.start(self.process, self._run())

    async def _run(self) -> None:
        self.stop = asyncio.Event()
        await wiring.run(self, self.loader, self.stop)
        self.world.trace.note("daemon", self.name, "ended")

    # --- Steps ------------------------------------------------------------------------------------------
    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        if self.process.dead or self.closing:
            return
        world = self.world
        world.trace.note(f"{step}", short(key), f"{self.name} {detail}" if detail else self.name)
        if step is Step.CLAIMED:
            self.passes += 1
            self.records[key] = PassRecord(world)
        elif step is Step.RELEASED:
            self.records.pop(key, None)
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.kill_in = None
                self.kill(f"at {step} {detail}")

    # --- what happens to it -----------------------------------------------------------------------------
    def kill(self, where: str = "") -> None:
        """SIGKILL. What it sent is on its way; nothing of it runs again."""
        if not self.process.dead:
            self.world.trace.note("killed", self.name, where)
            self.process.die()
            self.wire.stream = None
            self.wire.hear = None
            self.wire.catalog_waiter = None

    def pause(self) -> None:
        if self.process.held is None and not self.process.dead:
            self.process.held = []
            self.troubled_at = self.world.now

    def terminate(self) -> None:
        """SIGTERM."""
        if self.stop is not None and not self.process.dead:
            context = self.world.loop.world.copy()
            self.world.loop.call_soon(self.stop.set, context=context)
