"""The real daemon on fakes, in virtual time."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

from core import jobspecs
from core.domain.names import job_id
from core.domain.pacing import Pace
from core.domain.policy import GUARD, Policy
from core.domain.sweep import Rhythm
from core.settings import JobSettings, LoopSettings, Secret
from core.store.interface import ReconcileStore
from daemon.act import Actor
from daemon.announce import Silent, Steps
from daemon.controller import Controller
from daemon.fleet import Fleet, Lister
from daemon.load import Loader
from daemon.mail import Mailroom
from daemon.metrics import Metrics
from daemon.observe import Observer
from daemon.outages import Outages
from daemon.reconcile import PassEnd, Reconciler
from daemon.refusals import Refusals
from daemon.rollout import Rollout, limits_of
from daemon.sources.discovery_watch import DiscoveryWatch
from daemon.sources.inbox import Inbox
from daemon.sources.scheduler_events import SchedulerEvents
from daemon.sources.supervisor import Source, Supervisor
from daemon.sweep import Sweep
from daemon.ways_out import Exits, Guards, WaysOut
from daemon.workqueue import WorkQueue
from tests.memory_store import MemoryStore
from tests.unit.daemon.fakes import FakeConsul, FakeNomad, FakeWaha, Faults
from tests.unit.daemon.virtual import LoopClock, run_virtual


async def nothing_to_purge() -> int:
    return 0


LOOP = LoopSettings(
    egress="direct",
    workers=4,
    lease_ttl_s=60,
    lease_heartbeat_s=10,
    pass_deadline_s=50,
    resync_s=60,
    inbox_keep_s=86_400,
    stop_on_disconnect_s=60,
    empty_grace_s=0,
    qr_rounds=2,
)
JOBS = JobSettings(
    jobspec="waha-simulator",
    image="",
    engine="GOWS",
    datacenters=("*",),
    node_pool="default",
    storage_id="main",
    storage_dsn=Secret("/var/empty/waha"),
    hook_base_url="http://127.0.0.1:8000",
    console_url="http://127.0.0.1:8000",
    simulator_command="/usr/bin/python3",
    simulator_args=("-m", "sandbox.waha"),
)


def user_number(number: int) -> str:
    return str(uuid.UUID(int=number))


SECRET = b"what keys of nodes are made from in tests"
U1, U2 = user_number(1), user_number(2)
C1, C2 = user_number(101), user_number(102)


class Caches:
    """`daemon.observe.Caches` that remembers what was dropped."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []
        self.chips: list[str] = []

    async def endpoint_changed(self, user_id: str) -> None:
        self.endpoints.append(user_id)

    async def chips_changed(self, chip_ids: tuple[str, ...]) -> None:
        self.chips += chip_ids


class World:
    """Everything outside the daemon. Make it inside a running virtual loop."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.faults = Faults(self.clock)
        self.nomad = FakeNomad(self.clock, self.faults)
        self.consul = FakeConsul(self.clock, self.faults, self.nomad)
        self.waha = FakeWaha(self.clock, self.faults, self.nomad)
        self.store = MemoryStore(self.clock)
        self.caches = Caches()

    def job(self, user_id: str = U1) -> str:
        return job_id(user_id)

    def phase(self, chip_id: str = C1) -> tuple[str, str | None] | None:
        chip = self.store.chip(chip_id)
        return (chip.phase, chip.reason) if chip else None

    def container(self, user_id: str = U1) -> tuple[str, str | None]:
        row = self.store.containers[user_id]
        return row.phase, row.reason

    def nothing_left(self, user_id: str = U1) -> bool:
        alive = [a for a in self.nomad.allocs[self.job(user_id)] if a.client.value in ("running", "pending")]
        return (
            user_id not in self.store.containers
            and self.job(user_id) not in self.nomad.held
            and not self.nomad.variables
            and not alive
            and not self.waha.sessions[user_id]
        )

    async def until(self, wanted: Callable[[], bool], timeout_s: float = 120.0) -> float:
        """Virtual seconds until `wanted` holds; fails when it does not within `timeout_s`."""
        started = self.clock.monotonic()
        while not wanted():
            left = [self.container(user) for user in self.store.containers]
            chips = [self.phase(chip) for chip in self.store.chips]
            assert self.clock.monotonic() - started < timeout_s, (left, chips, self.faults.calls[-20:])
            await asyncio.sleep(0.005)
        return self.clock.monotonic() - started


class Daemon:
    """One daemon over a world."""

    def __init__(
        self,
        world: World,
        *,
        owner: str = "d1",
        steps: Steps | None = None,
        settings: LoopSettings = LOOP,
        store: ReconcileStore | None = None,
        pace: Pace | None = None,
        jobs: JobSettings = JOBS,
        exits: Exits | None = None,
        **policy: Any,
    ) -> None:
        clock, self.world = world.clock, world
        held = store or world.store
        self.metrics = Metrics()
        self.queue = WorkQueue(clock, Random(7))
        self.refusals = Refusals(60)
        self.mailroom = Mailroom(world.store.waiting, world.store.mark_processed)
        self.outages = Outages(clock)
        chosen = {"egress": "direct", "empty_grace_s": 0.0, **policy}
        ways = None
        if chosen["egress"] == GUARD:
            ways = WaysOut(held, Guards("{host_ip}:3128", SECRET), exits, self.metrics)
        loader = Loader(jobspecs.template("waha-simulator"), jobs)
        self.release = loader.release
        self.reconciler = Reconciler(
            owner=owner,
            store=held,
            scheduler=world.nomad,
            loader=loader,
            observer=Observer(
                world.nomad,
                world.consul,
                world.waha,
                world.caches,
                clock,
                self.outages,
                peers=world.store,
                policy=Policy(**chosen),
                guards=ways.guards if ways is not None else None,
            ),
            actor=Actor(
                world.nomad,
                world.waha,
                held,
                loader,
                clock,
                steps or Silent(),
                self.refusals,
                pace=pace,
                ways=ways,
                metrics=self.metrics,
            ),
            caches=world.caches,
            mailroom=self.mailroom,
            refusals=self.refusals,
            clock=clock,
            steps=steps or Silent(),
            policy=Policy(**chosen),
            settings=settings,
            metrics=self.metrics,
        )
        self.controller = Controller(
            self.queue, self.reconciler, self.outages, workers=settings.workers, metrics=self.metrics
        )
        self.sweep = Sweep(
            self.queue,
            clock,
            held,
            every_s=settings.resync_s,
            rhythm=Rhythm(look_s=settings.waha_look_s),
            metrics=self.metrics,
            release=loader.release,
        )
        self.fleet = Fleet(
            owner=owner,
            store=held,
            lister=Lister(world.nomad, world.consul, held, clock, self.outages),
            sweep=self.sweep,
            release=loader.release,
            errands=(Rollout(world.store, limits_of(settings), metrics=self.metrics),),
            clock=clock,
            random=Random(5),
            metrics=self.metrics,
            ttl_s=settings.lease_ttl_s,
            heartbeat_s=settings.lease_heartbeat_s,
        )
        self.sources: list[Source] = [
            self.fleet,
            SchedulerEvents(world.nomad, self.queue, self.fleet),
            DiscoveryWatch(world.consul, self.queue, self.fleet),
            Inbox(self.mailroom, self.queue, clock, nothing_to_purge),
        ]

    async def one_pass(self, user_id: str = U1) -> PassEnd:
        return await self.reconciler.run(user_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        world = self.world
        world.waha.tell = functools.partial(self.queue.put)
        supervisors = [Supervisor(source, world.clock, Random(3)) for source in self.sources]
        tasks = [asyncio.create_task(one.run()) for one in supervisors]
        working = asyncio.create_task(self.controller.run())
        try:
            yield self
        finally:
            self.queue.close()
            for task in tasks:
                task.cancel()
            async with asyncio.timeout(120):
                await working
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


def scenario(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run a test in virtual time on a new world."""

    def run() -> None:
        async def main() -> None:
            world = World()
            await test(world)
            for task in list(world.nomad.tasks):
                task.cancel()
            await asyncio.gather(*world.nomad.tasks, return_exceptions=True)

        run_virtual(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
