"""API replicas and what lies between them and the guards: requests and answers get lost, late, doubled, out of order.

A replica does to the store what the internal route does: it takes the confirmations, then renews. One that stands
still does the rest when it goes on, however late that is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from core.domain.guard_wire import Renew, Renewed, Route, Standing, Upstream
from core.errors import AppError, Unavailable
from tests.memory_store import MemoryGuardLeases
from tests.simulation.fence.clocks import ReplicaClock
from tests.simulation.storewire import run_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.fence.guards import Host
    from tests.simulation.fence.world import FenceWorld

UPSTREAM = Upstream("socks5", "127.0.0.1", 1080, "login", "secret", "generic")


class Replica:
    """`held`: what it has still to do while it stands still; None while it runs."""

    def __init__(self, world: FenceWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.up = True
        self.held: list[Callable[[], None]] | None = None
        self.begin()

    def begin(self) -> None:
        """A process that has seen nothing yet."""
        world = self.world
        clock = ReplicaClock(world.stores.clock, world.random.uniform(0.999, 1.001))
        self._leases = MemoryGuardLeases(world.stores.store, ttl_s=world.times.ttl_s, clock=clock)
        self._life = object()

    def take(self, host: Host, renew: Renew, answer: Callable[[Renewed | AppError], None]) -> None:
        life = self._life

        def confirm() -> None:
            if life is not self._life or not self.up:
                return
            try:
                freed = run_now(self._leases.confirm_closed(renew.node_id, renew.closed))
            except AppError as error:
                answer(error)
                return
            if freed:
                self.world.counts["confirmed closes"] += freed
                self.world.trace.note("confirmed", host.name, [ask.grant for ask in renew.closed])
            self.world.loop.surely(self.world.random.uniform(0, 0.02), self._do, give)

        def give() -> None:
            if life is not self._life or not self.up:
                return
            try:
                answers = run_now(self._leases.renew(renew.node_id, renew.asks))
            except AppError as error:
                answer(error)
                return
            routes = []
            for one in answers:
                self.world.counts[f"answers.{one.standing.value}"] += 1
                name = self.world.cluster.name(one.allocation_id)
                asked = next(ask.grant for ask in renew.asks if ask.allocation_id == one.allocation_id)
                if one.standing is not Standing.GRANTED or one.grant != asked:
                    self.world.trace.note(f"store: {one.standing.value}", name, f"{asked} -> {one.grant}")
                if one.standing is Standing.GRANTED:
                    if one.grant != asked:
                        self.world.counts["leases given"] += 1
                    chip = self.world.cluster.user_of(one.allocation_id)
                    routes.append(Route(one.allocation_id, chip.id, chip.chip_id, 1, "label", UPSTREAM))
            answer(Renewed(answers, tuple(routes)))

        self._do(confirm)

    def _do(self, step: Callable[[], None]) -> None:
        if self.held is not None:
            self.held.append(step)
        else:
            step()

    def freeze(self) -> None:
        if self.held is None:
            self.held = []

    def thaw(self) -> None:
        held, self.held = self.held or [], None
        for step in held:
            step()


class Link:
    """What happens between one host and the API: shares of requests (0..1), seconds."""

    def __init__(self) -> None:
        self.cut = False
        self.requests_lost = self.answers_lost = self.doubled = 0.0
        self.requests_late = self.answers_late = 0.0


class Network:
    """`down`: how a request fails while all replicas are down: at once, or by silence."""

    def __init__(self, world: FenceWorld) -> None:
        self.world = world
        self.links: dict[str, Link] = {}
        self.refuses = True

    def link(self, host: Host) -> Link:
        return self.links.setdefault(host.name, Link())

    def send(self, host: Host, renew: Renew, answer: asyncio.Future[Renewed]) -> None:
        world, link, random = self.world, self.link(host), self.world.random
        world.counts["requests"] += 1
        if link.cut or random.random() < link.requests_lost:
            return
        ttl_s = world.times.ttl_s
        late_s = random.uniform(0.5, 2.0 * ttl_s) if random.random() < link.requests_late else 0.0
        world.loop.surely(random.uniform(0.001, 0.03) + late_s, self._arrives, host, renew, answer)
        if random.random() < link.doubled:
            world.loop.surely(random.uniform(0.001, 1.5 * ttl_s), self._arrives, host, renew, answer)

    def _arrives(self, host: Host, renew: Renew, answer: asyncio.Future[Renewed]) -> None:
        world = self.world
        up = [one for one in world.replicas if one.up]
        if not up:
            if self.refuses:
                self._answer(host, answer, Unavailable("api", "refused"))
            return
        replica = world.random.choice(up)
        replica.take(host, renew, lambda said: self._answer(host, answer, said))

    def _answer(self, host: Host, answer: asyncio.Future[Renewed], said: Renewed | AppError) -> None:
        world, link, random = self.world, self.link(host), self.world.random
        if link.cut or random.random() < link.answers_lost:
            return
        late_s = 0.0
        if random.random() < link.answers_late:
            late_s = random.uniform(0.5, 6.0) if random.random() < 0.7 else 1.5 * world.times.ttl_s
        world.loop.surely(random.uniform(0.001, 0.03) + late_s, _deliver, answer, said)


def _deliver(answer: asyncio.Future[Renewed], said: Renewed | AppError) -> None:
    if answer.done():
        return
    if isinstance(said, Renewed):
        answer.set_result(said)
    else:
        answer.set_exception(said)
