"""The janitor in a simulated daemon: wires of its own, the orphans' table, and what it may never touch.

It claims users under a name of its own and looks outside of any pass, so nothing that it sees may count as
seen by a pass of the same daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.clients.storage import Storages
from core.domain.actor import COMMAND_LINE
from core.domain.names import JOB_PREFIX, SESSION_PREFIX, VARIABLE_PREFIX
from core.domain.orphans import State
from core.settings import LoopSettings
from daemon.janitor.duty import Janitor
from daemon.janitor.sessions import Sessions
from daemon.janitor.wiring import janitor
from daemon.metrics import Metrics
from daemon.observe import Observer
from daemon.outages import Outages
from tests.simulation.network import STORE_TIMEOUT_S, Wire
from tests.simulation.storewire import StoreWire, run_now
from tests.simulation.systems import DiscoveryWire, SchedulerWire, StorageWire, WahaWire
from tests.simulation.world import World

if TYPE_CHECKING:
    from core.domain.policy import Policy
    from tests.simulation.daemons import Daemon

_LOOK_S = 60.0
_DECIDES_S = 120.0
# After the grace: a round that finds it, one that removes it, and what stands in another's way first.
SLACK_S = 480.0


class Caretaker:
    """A daemon as its janitor: the same process and clock, another owner of leases, no passes."""

    is_janitor = True

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.name = f"{daemon.name}:janitor"
        self.world = daemon.world
        self.process = daemon.process
        self.clock = daemon.clock
        self.cut_from = daemon.cut_from
        self.stop = None

    @property
    def closing(self) -> bool:
        return self.daemon.closing

    @property
    def troubled_at(self) -> float:
        return self.daemon.troubled_at

    def record(self, user_id: str) -> None:
        return None


class OrphansWire:
    """`core.store.orphans.OrphanStore` over the wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        wire = self._wire
        method = getattr(wire.world.orphans, name)

        async def call(*args: Any, **options: Any) -> Any:
            return await wire.request(
                "postgres", f"orphans.{name}", lambda: run_now(method(*args, **options)), STORE_TIMEOUT_S
            )

        return call


def caretaker(
    daemon: Daemon, policy: Policy, settings: LoopSettings, outages: Outages, metrics: Metrics
) -> tuple[Janitor, Sessions]:
    """The duty and the listener of a daemon, as `daemon.main.serve` makes them."""
    wire = Wire(Caretaker(daemon))  # type: ignore[arg-type]  # what a wire asks of a daemon
    store: Any = StoreWire(wire)
    scheduler: Any = SchedulerWire(wire)
    discovery: Any = DiscoveryWire(wire)
    waha: Any = WahaWire(wire)
    storages = Storages({"main": StorageWire(wire)})
    return janitor(
        owner=daemon.name,
        store=store,
        orphans=OrphansWire(wire),
        scheduler=scheduler,
        discovery=discovery,
        storages=storages,
        waha=waha,
        observer=Observer(scheduler, discovery, waha, _NoCaches(), daemon.clock, outages, storages),
        clock=daemon.clock,
        steps=daemon,
        policy=policy,
        settings=settings,
        housekeeping=store,
        metrics=metrics,
    )


class _NoCaches:
    async def endpoint_changed(self, user_id: str) -> None:
        return

    async def chips_changed(self, chip_ids: tuple[str, ...]) -> None:
        return


def unowned(world: World) -> set[str]:
    """One sentence for each thing of ours that no row explains."""
    rows, servers, waha = world.store.containers, world.servers, world.waha
    found = {
        f"job of user {job[len(JOB_PREFIX) :]}" for job in servers.jobs if job[len(JOB_PREFIX) :] not in rows
    }
    start = len(VARIABLE_PREFIX) + len(JOB_PREFIX)
    found |= {f"variables of user {path[start:]}" for path in servers.variables if path[start:] not in rows}
    owners = {row.namespace: row for row in rows.values()}
    for namespace, names in waha.databases.items():
        if namespace not in owners:
            found.add(f"storage {namespace}")
            continue
        left = names.difference([SESSION_PREFIX + chip.id for chip in owners[namespace].chips])
        found |= {f"session {name} in storage {namespace}" for name in left}
    for open_port in world.store.open_ports.values():
        held = open_port.entry
        if held.allocation_id not in servers.by_id:
            found.add(f"port of user {held.user_id} for allocation {held.allocation_id}, which Nomad forgot")
    return found


class Watch:
    """Nothing is owned by nobody for longer than the grace, counted while nothing hinders the janitor."""

    def __init__(self, world: World, grace_s: float) -> None:
        self.world = world
        self.most_s = grace_s + SLACK_S
        self._since: dict[str, float] = {}
        self._calm = False

    def begin(self) -> None:
        self.world.loop.after(_LOOK_S, self._look)

    def calm(self) -> None:
        """Faults are over: whatever stands by now has its whole time, and an operator says yes to what asks."""
        self._calm = True
        self._since.clear()
        self.world.loop.after(_DECIDES_S, self._decide)

    def _look(self) -> None:
        now, there = self.world.now, unowned(self.world)
        self._since = {what: self._since.get(what, now) for what in there}
        for what, since in sorted(self._since.items()):
            if self._calm and now - since > self.most_s:
                self.world.violate(f"orphan: {what} is owned by nobody for {now - since:.0f} s")
        self.world.counts["unowned_seen"] += len(there)
        self.world.loop.after(_LOOK_S, self._look)

    def _decide(self) -> None:
        orphans = self.world.orphans
        waiting = [row.id for row in run_now(orphans.book()).rows if row.state is State.WAITING]
        if waiting:
            self.world.counts["orphans_approved"] += len(waiting)
            run_now(orphans.decide(waiting, approve=True, by="operator", actor=COMMAND_LINE))
        self.world.loop.after(_DECIDES_S, self._decide)
