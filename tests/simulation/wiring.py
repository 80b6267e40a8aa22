"""How a daemon's parts are put together, as `daemon.main.serve` does it, on the simulated world's wires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from core import policies
from core.clients.storage import Storages
from core.domain.policy import GUARD
from core.domain.sweep import Rhythm
from core.settings import LoopSettings
from core.store.notify import INTENTS
from daemon import main
from daemon.act import Actor
from daemon.controller import Controller
from daemon.fleet import KEY, Fleet, Lister
from daemon.health import Health
from daemon.load import Loader
from daemon.mail import Mailroom
from daemon.observe import Observer
from daemon.outages import Outages
from daemon.reconcile import Reconciler
from daemon.refusals import Refusals
from daemon.rollout import Rollout, limits_of
from daemon.sources.discovery_watch import DiscoveryWatch
from daemon.sources.inbox import Inbox
from daemon.sources.scheduler_events import SchedulerEvents
from daemon.sources.store_news import StoreNews
from daemon.sources.supervisor import Source, Supervisor
from daemon.sweep import Sweep
from daemon.ways_out import Guards, WaysOut
from daemon.workqueue import WorkQueue
from tests.simulation.caretaker import caretaker
from tests.simulation.egress import ADDRESS, ExitsWire
from tests.simulation.storewire import ListenerWire
from tests.simulation.systems import DiscoveryWire, SchedulerWire, StorageWire, WahaWire
from tests.simulation.uncounted import Uncounted
from tests.unit.daemon.system import JOBS, LOOP, SECRET, nothing_to_purge

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon

__all__ = ["JOBS", "SETTINGS", "run"]

SETTINGS: LoopSettings = msgspec.structs.replace(
    LOOP,
    empty_grace_s=120,
    waha_look_s=1200,  # a third of the quiet time is left for what only such a look finds
    workers=2,
    janitor="remove",
    janitor_s=120,
    orphan_grace_s=300,
    rollout_users=3,
    rollout_deadline_s=150,
)
# A seed lasts two hours, so what takes hours or days in production takes minutes here.
LADDER: dict[str, Any] = {"deaf_after_s": 600.0, "deaf_factor": 1.5, "breaker_open_s": 300.0}
# What stands unchanged is looked at more rarely than in production. There polls find what lost news would have told;
# here they were half of all passes, and each one hid for how long nobody would have noticed a loss.
# A container that comes up is looked at more often: two hours see few of them, and accidents are to meet those passes.
PATIENCE: dict[str, Any] = {"poll_patience": 1.0, "poll_slowest_s": 60.0, "poll_booting_s": 2.0}
# How often a daemon stirs that has nothing to do; as often as in production it would be half of what it does.
_IDLE_S = 12.0
_ROLLOUT_IDLE_S = 60.0


class NoCaches:
    """`daemon.observe.Caches` of nobody."""

    async def endpoint_changed(self, user_id: str) -> None:
        return

    async def chips_changed(self, chip_ids: tuple[str, ...]) -> None:
        return


async def run(daemon: Daemon, loader: Loader, stop: Any) -> None:
    """The daemon from its start to its orderly end."""
    clock, random, wire = daemon.clock, daemon.random, daemon.wire
    store: Any = daemon.store
    # Calls give futures where the protocols have coroutines: all that anybody does with either is await it.
    scheduler: Any = SchedulerWire(wire)
    discovery: Any = DiscoveryWire(wire)
    waha: Any = WahaWire(wire)
    storages = Storages({"main": StorageWire(wire)})
    caches, outages, metrics = NoCaches(), Outages(clock), Uncounted()
    refusals = Refusals(SETTINGS.resync_s)
    mailroom = Mailroom(store.waiting, store.mark_processed)
    queue = WorkQueue(clock, random)
    policy = msgspec.structs.replace(policies.policy_of(SETTINGS), **LADDER, **PATIENCE)
    ways = None
    if daemon.world.egress.guarded:
        exits: Any = ExitsWire(wire)
        policy = msgspec.structs.replace(policy, egress=GUARD, exit_readings=True)
        ways = WaysOut(store, Guards(ADDRESS, SECRET), exits, metrics)
    keeper, strangers = caretaker(daemon, policy, SETTINGS, outages, metrics)
    reconciler = Reconciler(
        owner=daemon.name,
        store=store,
        scheduler=scheduler,
        loader=loader,
        observer=Observer(
            scheduler,
            discovery,
            waha,
            caches,
            clock,
            outages,
            storages,
            peers=store,
            policy=policy,
            guards=ways.guards if ways is not None else None,
        ),
        actor=Actor(
            scheduler,
            waha,
            store,
            loader,
            clock,
            daemon,
            refusals,
            storages=storages,
            pace=daemon.world.pace,
            ways=ways,
            metrics=metrics,
        ),
        caches=caches,
        mailroom=mailroom,
        refusals=refusals,
        clock=clock,
        steps=daemon,
        policy=policy,
        settings=SETTINGS,
        metrics=metrics,
        strangers=strangers,
    )
    workers = daemon.world.workers or SETTINGS.workers
    controller = Controller(queue, reconciler, outages, workers=workers, metrics=metrics)
    sweep = Sweep(
        queue,
        clock,
        store,
        every_s=SETTINGS.resync_s,
        rhythm=Rhythm(look_s=SETTINGS.waha_look_s),
        metrics=metrics,
        release=loader.release,
    )

    async def tell(keys: Any = (KEY,)) -> None:
        await wire.tell(INTENTS, keys)

    fleet = Fleet(
        owner=daemon.name,
        store=store,
        lister=Lister(scheduler, discovery, store, clock, outages),
        sweep=sweep,
        duties=(keeper,),
        errands=(Rollout(store, limits_of(SETTINGS), metrics=metrics, idle_s=_ROLLOUT_IDLE_S),),
        clock=clock,
        random=random,
        metrics=metrics,
        hail=tell,
        release=loader.release,
        ttl_s=SETTINGS.lease_ttl_s,
        heartbeat_s=SETTINGS.lease_heartbeat_s,
        try_every_s=_IDLE_S,
    )
    listener: Any = ListenerWire(wire)
    sources: list[Source] = [
        fleet,
        StoreNews(listener, queue, fleet, mailroom, clock, beat_s=_IDLE_S),
        SchedulerEvents(scheduler, queue, fleet),
        DiscoveryWatch(discovery, queue, fleet),
        Inbox(mailroom, queue, clock, nothing_to_purge, every_s=30.0),
    ]
    supervised = [Supervisor(one, clock, random) for one in sources]
    health = Health(
        sources=supervised, outages=outages, queue=queue, fleet=fleet, sweep=sweep, metrics=metrics
    )
    await main._work(controller, queue, supervised, stop, health)
    await main.hand_over(queue, tell)
