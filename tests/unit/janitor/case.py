"""A janitor over a world of fakes, and what a test does to that world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from core.clients.storage import Storages
from core.domain.actor import COMMAND_LINE
from core.domain.belongings import Kind
from core.domain.names import (
    database_name,
    job_id,
    main_database,
    namespace_of_database,
    session_name,
    variable_path,
)
from core.domain.orphans import State
from core.domain.policy import Policy
from core.settings import LoopSettings
from core.store.interface import Lease
from daemon.announce import Silent, Steps
from daemon.fleet import Lister
from daemon.janitor.wiring import janitor
from daemon.lease import HeldLease, kept
from daemon.metrics import Metrics
from daemon.observe import Observer
from daemon.outages import Outages
from tests.memory_orphans import MemoryOrphans
from tests.unit.daemon.fakes import FakeConsul
from tests.unit.daemon.system import LOOP, World, user_number
from tests.unit.daemon.virtual import run_virtual

GHOST = user_number(66)
CHIP = user_number(166)
SPACE = "u" + "9" * 15
SETTINGS = msgspec.structs.replace(LOOP, orphan_grace_s=3600, janitor_s=60)


class Killed(BaseException):
    """The daemon's end, at a step."""


class FakeStorage:
    """`Storage` in memory."""

    timeout_s = 5.0

    def __init__(self, world: World) -> None:
        self.names: set[str] = set()
        self._faults = world.faults

    async def listing(self) -> tuple[str, ...]:
        await self._faults.enter("storage.listing")
        return tuple(sorted(self.names))

    async def databases(self, namespace: str) -> tuple[str, ...]:
        await self._faults.enter("storage.databases", namespace)
        return tuple(sorted(name for name in self.names if namespace_of_database(name) == namespace))

    async def namespaces(self) -> tuple[str, ...]:
        return tuple(sorted({namespace_of_database(name) or "" for name in self.names}))

    async def size(self, namespace: str) -> int | None:
        return 7_000_000 * len(await self.databases(namespace))

    async def drop(self, namespace: str, database: str | None = None) -> None:
        await self._faults.enter("storage.drop", namespace, database)
        self.names -= {database} if database else set(await self.databases(namespace))
        self._faults.leave("storage.drop")

    async def aclose(self) -> None:
        return


class Consul(FakeConsul):
    """Keeps instances of dead allocations that are in `left`, until somebody takes them out."""

    left: Any = None

    def _now(self) -> Any:
        return (*super()._now(), *(self.left or ()))

    async def deregister(self, service_id: str) -> None:
        await self.faults.enter("consul.deregister", service_id)
        self.left = [one for one in self.left or () if one.service_id != service_id]


class House:
    """`Housekeeping` that counts, and remembers what it was told of allocations."""

    def __init__(self) -> None:
        self.rounds = 0
        self.prunings = 0
        self.alive: set[str] = set()

    async def close_forgotten(self, lease: Lease, alive: Any, *, listing_age_s: float, **_: Any) -> Any:
        assert listing_age_s > 0
        self.rounds += 1
        self.alive = set(alive)
        return ()

    async def prune_ledger(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_placements(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_events(
        self, lease: Lease, *, older_than_s: float, keep_per_chip: int, limit: int = 0
    ) -> int:
        self.prunings += 1
        return 0

    async def prune_keys(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_audit(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_exits(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_batches(self, lease: Lease, *, older_than_s: float, limit: int = 0) -> int:
        return 0

    async def prune_usage(self, lease: Lease, *, months: int, limit: int = 0) -> int:
        return 0


@dataclass
class Case:
    world: World
    settings: LoopSettings = SETTINGS
    steps: Steps = field(default_factory=Silent)

    def __post_init__(self) -> None:
        world = self.world
        self.orphans = MemoryOrphans(world.store)
        self.storage = FakeStorage(world)
        self.outages = Outages(world.clock)
        self.consul = Consul(world.clock, world.faults, world.nomad)
        self.lister = Lister(world.nomad, self.consul, world.store, world.clock, self.outages)
        self.house = House()
        self.metrics = Metrics()
        self.boot()

    def boot(self) -> None:
        """A new janitor that knows nothing but what is stored."""
        world = self.world

        self.janitor, self.sessions = janitor(
            owner="d1",
            store=world.store,
            orphans=self.orphans,
            scheduler=world.nomad,
            discovery=self.consul,
            storages=Storages({"main": self.storage}),
            waha=world.waha,
            observer=Observer(world.nomad, self.consul, world.waha, world.caches, world.clock, self.outages),
            clock=world.clock,
            steps=self.steps,
            policy=Policy(),
            settings=self.settings,
            housekeeping=self.house,
            metrics=self.metrics,
        )

    async def round(self) -> None:
        world = self.world
        lease = await world.store.claim("fleet", "d1", 60)
        assert isinstance(lease, Lease)
        held = HeldLease(lease, world.clock, deadline_at=world.clock.monotonic() + 300)
        async with kept(held, world.store, 10):
            await self.janitor.run(held, await self.lister.read())

    async def rounds(self, hours: float) -> None:
        for _ in range(round(hours * 60)):
            await self.round()
            await self.world.clock.sleep(60)

    async def ghost_job(self, user: str = GHOST) -> str:
        """A job with its variables that no row explains, put there by hand."""
        nomad, job = self.world.nomad, job_id(user)
        await nomad.write_variables(variable_path(user), {"hook_key": "x"})
        await nomad.register({"ID": job}, 0)
        await self.world.clock.sleep(2)
        return job

    def leave_namespace(self, namespace: str = SPACE) -> None:
        self.storage.names |= {main_database(namespace), database_name(namespace, session_name(CHIP))}

    def state(self, kind: Kind, name: str) -> State | None:
        row = self.orphans.row(kind, name)
        return row.state if row else None

    async def approve(self, *kinds: Kind) -> None:
        rows = [row.id for row in (await self.orphans.book()).rows if row.found.kind in kinds]
        assert await self.orphans.decide(rows, approve=True, by="ana", actor=COMMAND_LINE) == tuple(
            sorted(rows)
        )

    @property
    def destructive(self) -> list[str]:
        words = ("stop", "purge", "delete", "drop", "deregister", "delete_variables")
        return [call for call in self.world.faults.calls if call.split(".")[1] in words]


def scenario(test: Callable[[Case], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test(Case(World()))

        run_virtual(main())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
