"""The janitor's parts, put together."""

from __future__ import annotations

from core.clients.scheduler import Scheduler
from core.clients.storage import Storages
from core.clock import Clock
from core.domain.orphans import Rules
from core.domain.policy import Policy
from core.settings import LoopSettings
from core.store.housekeeping import Housekeeping
from core.store.interface import ReconcileStore
from core.store.orphans import OrphanStore
from daemon.announce import Steps
from daemon.janitor.duty import Janitor
from daemon.janitor.housekeeping import Housekeeper
from daemon.janitor.looks import Looks, Observing
from daemon.janitor.removal import Remover
from daemon.janitor.sessions import Sessions
from daemon.janitor.systems import Catalog, Systems
from daemon.metrics import Metrics
from daemon.waha import WahaContainers


def rules_of(settings: LoopSettings) -> Rules:
    """How careful the settings want the janitor to be."""
    return Rules(
        grace_s=settings.orphan_grace_s,
        remove=settings.janitor == "remove",
        # A few rounds: see Rules.
        forget_s=max(5 * settings.janitor_s, 5 * settings.resync_s),
    )


def janitor(
    *,
    owner: str,
    store: ReconcileStore,
    orphans: OrphanStore,
    scheduler: Scheduler,
    discovery: Catalog,
    storages: Storages,
    waha: WahaContainers,
    observer: Observing,
    clock: Clock,
    steps: Steps,
    policy: Policy,
    settings: LoopSettings,
    housekeeping: Housekeeping | None = None,
    metrics: Metrics | None = None,
) -> tuple[Janitor, Sessions]:
    """The duty, and what passes tell of sessions that no chip explains."""
    systems = Systems(scheduler, discovery, storages, store, orphans)
    sessions = Sessions(systems, waha)
    looks = Looks(systems, observer, clock, policy)
    remover = Remover(
        systems,
        owner=owner,
        looks=looks,
        sessions=sessions,
        clock=clock,
        steps=steps,
        policy=policy,
        settings=settings,
    )
    duty = Janitor(
        looks=looks,
        remover=remover,
        orphans=orphans,
        rules=rules_of(settings),
        clock=clock,
        every_s=settings.janitor_s,
        housekeeper=None if housekeeping is None else Housekeeper(housekeeping, clock, settings),
        metrics=metrics,
    )
    return duty, sessions
