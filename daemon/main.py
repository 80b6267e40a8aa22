"""The daemon: everything wired together, and its orderly end."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Final

import structlog

from core import heap, jobspecs, policies
from core.clients.cache import Cache
from core.clients.discovery import ConsulDiscovery
from core.clients.endpoint_cache import EndpointCache
from core.clients.exit_reading import ExitReader
from core.clients.qr_cache import QrCache
from core.clients.scheduler import NomadScheduler
from core.clients.scheduler_look_ins import NomadLookIns
from core.clients.storage import storages
from core.clients.waha import WRITE_TIMEOUT_S, WahaClients
from core.clock import SystemClock
from core.crypto import Sealer
from core.domain.pacing import Limit, Pace
from core.domain.policy import GUARD
from core.domain.sweep import Rhythm
from core.errors import DependencyError
from core.logging import configure
from core.settings import LoopSettings, Settings, SettingsError
from core.status_server import listening
from core.store import inbox
from core.store.engine import create_engine
from core.store.housekeeping import PostgresHousekeeping
from core.store.interface import ReconcileStore
from core.store.look_ins import PostgresLookIns
from core.store.notify import INBOX, INTENTS, LOOK_INS, Listener, notify_each
from core.store.orphans import PostgresOrphans
from core.store.reconcile import PostgresReconcileStore
from daemon import announce
from daemon.act import STORE_TIMEOUT_S, Actor
from daemon.controller import Controller
from daemon.fleet import KEY, Fleet, Lister
from daemon.health import Health
from daemon.janitor.wiring import janitor
from daemon.load import Loader
from daemon.look_ins import LookIns
from daemon.mail import Mailroom
from daemon.metrics import Metrics
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

try:
    import uvloop
except ImportError:  # there is none outside Linux and macOS; asyncio's own loop is slower, never wrong
    uvloop = None  # type: ignore[assignment,unused-ignore]

# How long passes under way may take to end after SIGTERM; what is left then is cut off and its lease runs out.
GRACE_S: Final = 20.0

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises SettingsError or JobspecError when it could not do its work with these settings.
    """
    configure("daemon")

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        await serve(settings, stop)

    heap.settle()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        runner.run(until_told())


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run the daemon until `stop` is set; then end passes under way, give leases back, close everything."""
    if problems := contradictions(settings):
        raise SettingsError(problems)
    clock, random, steps = SystemClock(), Random(), announce.from_environment(os.environ)  # noqa: S311
    template = jobspecs.template(settings.job.jobspec)
    loader = Loader(
        template,
        settings.job,
        nomad_namespace=settings.nomad.namespace,
        stop_on_disconnect_s=settings.loop.stop_on_disconnect_s,
    )
    loader.check()
    async with AsyncExitStack() as stack:
        engine = create_engine(settings.store, application_name="wahafleet daemon")
        stack.push_async_callback(engine.dispose)
        scheduler = NomadScheduler(settings.nomad)
        stack.push_async_callback(scheduler.aclose)
        discovery = ConsulDiscovery(settings.consul)
        stack.push_async_callback(discovery.close)
        waha = await stack.enter_async_context(WahaClients())
        cache = Cache(
            settings.cache.redis_url.reveal() if settings.cache.redis_url else None,
            timeout_s=settings.cache.timeout_s,
        )
        stack.push_async_callback(cache.close)

        sealer = Sealer(tuple(key.reveal() for key in settings.store.secret_keys))
        secret = settings.guard.secret.reveal().encode()
        store = PostgresReconcileStore(engine, sealer, clock, label_secret=secret)
        caches, outages = DroppedCaches(cache, settings), Outages(clock)
        refusals = Refusals(settings.loop.resync_s)
        mailroom = Mailroom(
            functools.partial(inbox.waiting, engine), functools.partial(inbox.mark_processed, engine)
        )
        queue, metrics, owner = WorkQueue(clock, random), Metrics(), owner_name()
        servers = storages(settings.job)
        stack.push_async_callback(servers.aclose)
        policy = policies.policy_of(settings.loop)
        ways = ways_out(settings, store, metrics)
        observer = Observer(
            scheduler,
            discovery,
            waha,
            caches,
            clock,
            outages,
            servers,
            peers=store,
            policy=policy,
            guards=ways.guards if ways is not None else None,
        )
        keeper, sessions = janitor(
            owner=owner,
            store=store,
            orphans=PostgresOrphans(engine),
            scheduler=scheduler,
            discovery=discovery,
            storages=servers,
            waha=waha,
            observer=observer,
            clock=clock,
            steps=steps,
            policy=policy,
            settings=settings.loop,
            housekeeping=PostgresHousekeeping(engine),
            metrics=metrics,
        )
        reconciler = Reconciler(
            owner=owner,
            store=store,
            scheduler=scheduler,
            loader=loader,
            observer=observer,
            actor=Actor(
                scheduler,
                waha,
                store,
                loader,
                clock,
                steps,
                refusals,
                storages=servers,
                pace=pace_of(settings.loop),
                ways=ways,
                metrics=metrics,
            ),
            caches=caches,
            mailroom=mailroom,
            refusals=refusals,
            clock=clock,
            steps=steps,
            policy=policy,
            settings=settings.loop,
            metrics=metrics,
            strangers=sessions,
        )
        controller = Controller(queue, reconciler, outages, workers=settings.loop.workers, metrics=metrics)
        sweep = Sweep(
            queue,
            clock,
            store,
            every_s=settings.loop.resync_s,
            rhythm=Rhythm(look_s=settings.loop.waha_look_s),
            metrics=metrics,
            release=loader.release,
        )
        fleet = Fleet(
            owner=owner,
            store=store,
            lister=Lister(scheduler, discovery, store, clock, outages),
            sweep=sweep,
            duties=(keeper,),
            errands=(Rollout(store, limits_of(settings.loop), metrics=metrics),),
            clock=clock,
            random=random,
            metrics=metrics,
            hail=functools.partial(notify_each, engine, INTENTS, (KEY,)),
            release=loader.release,
            ttl_s=settings.loop.lease_ttl_s,
            heartbeat_s=settings.loop.lease_heartbeat_s,
        )
        look_ins = LookIns(
            owner=owner,
            store=store,
            look_ins=PostgresLookIns(engine),
            scheduler=NomadLookIns(scheduler),
            settings=settings.job,
            clock=clock,
        )
        listener = Listener(settings.store.database_url.reveal(), (INTENTS, INBOX, LOOK_INS))
        sources: list[Source] = [
            fleet,
            StoreNews(listener, queue, fleet, mailroom, clock, look_ins=look_ins),
            look_ins,
            SchedulerEvents(scheduler, queue, fleet),
            DiscoveryWatch(discovery, queue, fleet, wait_s=settings.consul.watch_wait_s),
            Inbox(mailroom, queue, clock, functools.partial(inbox.purge, engine, settings.loop.inbox_keep_s)),
        ]
        supervised = [Supervisor(one, clock, random) for one in sources]
        health = Health(
            sources=supervised, outages=outages, queue=queue, fleet=fleet, sweep=sweep, metrics=metrics
        )
        async with listening(health, settings.loop.listen, setting="WAHAFLEET_DAEMON_LISTEN"):
            await _work(controller, queue, supervised, stop, health)
            await hand_over(queue, functools.partial(notify_each, engine, INTENTS))


async def _work(
    controller: Controller,
    queue: WorkQueue,
    sources: list[Supervisor],
    stop: asyncio.Event,
    health: Health,
) -> None:
    listening = [asyncio.create_task(source.run(), name=f"source-{source.name}") for source in sources]
    working = asyncio.create_task(controller.run(), name="controller")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    _log.info("daemon_started", sources=[source.name for source in sources])
    try:
        # A source or the controller can only end by a bug; then the process ends too, and is started again.
        done, _ = await asyncio.wait({stopping, working, *listening}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
    finally:
        _log.info("daemon_stopping", passes_under_way=len(queue.running))
        health.stopping = True
        queue.close()
        for task in (*listening, stopping):
            task.cancel()
        _, unfinished = await asyncio.wait({working}, timeout=GRACE_S)
        if unfinished:
            _log.warning("passes_cut_off", user_ids=sorted(queue.running))
            working.cancel()
        for task in (working, *listening, stopping):
            with suppress(asyncio.CancelledError):
                await task
        _log.info("daemon_stopped")


async def hand_over(queue: WorkQueue, tell: Callable[[Iterable[str]], Awaitable[None]]) -> None:
    """Name the users that this daemon still had in mind, so that another one looks at them now.

    Without it they would wait for the next sweep. Nobody may be there to hear it: then the first sweep of
    whoever starts next finds them.
    """
    keys = sorted(queue.waiting | queue.running)
    if not keys:
        return
    try:
        await tell(keys)
    except DependencyError as error:
        _log.warning("not_handed_over", users=len(keys), code=error.code, error=error.message)
        return
    _log.info("handed_over", users=len(keys))


class DroppedCaches:
    """`daemon.observe.Caches` on the shared cache; without Redis there is nothing to drop."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self._endpoints = EndpointCache(cache, settings.cache.endpoint_ttl_s)
        self._qr = QrCache(cache, settings.cache.qr_ttl_s)

    async def endpoint_changed(self, user_id: str) -> None:
        await self._endpoints.drop(user_id)

    async def chips_changed(self, chip_ids: tuple[str, ...]) -> None:
        await self._qr.drop(*chip_ids)


def contradictions(settings: Settings) -> list[str]:
    """Settings with which some effect could never start: its timeout must fit into a pass."""
    longest_s = max(WRITE_TIMEOUT_S, 2 * settings.nomad.timeout_s + STORE_TIMEOUT_S)
    if settings.loop.pass_deadline_s > longest_s:
        return []
    return [
        f"WAHAFLEET_PASS_DEADLINE_S is too short: a call to WAHA or Nomad may take {longest_s:g} s, "
        "use at least 5 s more than that, and a longer WAHAFLEET_LEASE_TTL_S if need be."
    ]


def ways_out(settings: Settings, store: ReconcileStore, metrics: Metrics) -> WaysOut | None:
    """What chips go out through, with `WAHAFLEET_EGRESS=guard`."""
    if settings.loop.egress != GUARD:
        return None
    echo_url = settings.loop.exit_echo_url
    if echo_url is None:
        _log.info("exit_readings_off")
    guards = Guards(settings.loop.guard_address, settings.guard.secret.reveal().encode())
    return WaysOut(store, guards, None if echo_url is None else ExitReader(echo_url), metrics)


def pace_of(settings: LoopSettings) -> Pace:
    """How many sessions may start; every daemon of a fleet needs the same."""
    return Pace(
        fleet=Limit(settings.starts_per_s, settings.start_burst),
        host=Limit(settings.starts_per_s_host, settings.start_burst_host),
        provider=Limit(settings.starts_per_s_provider, settings.start_burst_provider),
    )


def owner_name() -> str:
    """Who holds a lease: this process and no later one with the same number."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(6)}"
