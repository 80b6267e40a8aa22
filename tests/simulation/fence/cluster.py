"""Nomad as far as it moves allocations, and the daemons that follow it by the product's own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.domain.container_status import seen_status
from core.domain.facts import NOT_ASKED, AllocationFact, ClientStatus, JobFact, Known, Observation, Unknown
from core.errors import DependencyError, StaleWrite
from core.store.interface import Lease
from tests.simulation.fence.containers import Container
from tests.simulation.storewire import run_now
from tests.simulation.world import START

if TYPE_CHECKING:
    from tests.simulation.fence.guards import Host
    from tests.simulation.fence.world import FenceWorld

_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)
_GONE = (*_ENDED, ClientStatus.LOST, ClientStatus.UNKNOWN)
_JOB = Known(JobFact(1, stopped=False, status="running"), START)
_NOT_ASKED = Unknown(NOT_ASKED)
_STOP_ON_DISCONNECT_S = 60.0
_RESYNCED = 0.2  # share of looks that are written although nothing is new


class Allocation:
    """`client`: as the servers know it. `listed`: not purged by hand."""

    def __init__(self, container: Container, index: int, waits_for: Allocation | None) -> None:
        self.container = container
        self.host: Host = container.host
        self.index = index
        self.waits_for = waits_for
        self.client = ClientStatus.PENDING
        self.desired = "run"
        self.listed = True
        self.modified_at = START

    @property
    def live(self) -> bool:
        return self.listed and self.desired == "run" and self.client not in _GONE


class User:
    def __init__(self, number: int) -> None:
        self.id = f"00000000-0000-4000-8000-0000000000{number:02d}"
        self.chip_id = f"00000000-0000-4000-8000-0000000001{number:02d}"
        self.number = number
        self.allocations: list[Allocation] = []
        self.containers: list[Container] = []

    def wanted(self) -> Allocation | None:
        return next((one for one in reversed(self.allocations) if one.live), None)


class Cluster:
    def __init__(self, world: FenceWorld, users: int) -> None:
        self.world = world
        self.users = [User(number) for number in range(1, users + 1)]
        self._by_allocation: dict[str, Container] = {}
        for user in self.users:
            world.stores.store.add_user(user.id)
            world.stores.store.ensure_container(user.id)

    def name(self, allocation_id: str) -> str:
        return self._by_allocation[allocation_id].name

    def container(self, allocation_id: str) -> Container:
        return self._by_allocation[allocation_id]

    def user_of(self, allocation_id: str) -> User:
        return self._by_allocation[allocation_id].user

    # --- what Nomad does --------------------------------------------------------------------------------
    def place(self, user: User, host: Host, waits_for: Allocation | None = None) -> Allocation:
        index = len(self._by_allocation) + 1
        allocation_id = f"00000000-0000-4000-8000-00000000a{index:03d}"
        name = f"user-{user.number}/{chr(ord('a') + len(user.allocations))}@{host.name}"
        container = Container(self.world, user, host, allocation_id, name)
        self._by_allocation[allocation_id] = container
        allocation = Allocation(container, index, waits_for)
        user.allocations.append(allocation)
        self.world.counts["placed"] += 1
        self.world.trace.note("placed", name)
        self.world.loop.surely(0.2, self._try_start, allocation)
        return allocation

    def replace(
        self, user: User, old: Allocation | None, *, waits: bool = True, same_host: bool = False
    ) -> None:
        """Another allocation, where there is a host for it."""
        if user.wanted() is not None:
            return  # somebody did it already, or the old one is back
        hosts = [one for one in self.world.hosts if one.agent == "well"]
        if not same_host and old is not None:
            hosts = [one for one in hosts if one is not old.host] or hosts
        if not hosts:
            self.world.loop.surely(5.0, lambda: self.replace(user, old, waits=waits))
            return
        host = (
            old.host
            if same_host and old is not None and old.host in hosts
            else self.world.random.choice(hosts)
        )
        self.place(user, host, old if waits else None)

    def _try_start(self, one: Allocation) -> None:
        if not one.live or one.client is not ClientStatus.PENDING:
            return
        before = one.waits_for
        waits = before is not None and before.listed and before.client not in _GONE
        if one.host.agent != "well" or waits:
            self.world.loop.surely(1.0, self._try_start, one)
            return
        random = self.world.random
        one.container.user.containers.append(one.container)
        one.container.begin(random.uniform(1.0, 6.0))
        self._report(one, ClientStatus.RUNNING)

    def _report(self, one: Allocation, client: ClientStatus) -> None:
        """The client's own word, once its servers hear it."""
        if one.host.agent != "well":
            self.world.loop.surely(2.0, self._report, one, client)
            return
        if one.client not in _ENDED:
            one.client, one.modified_at = client, self.world.moment()
            self.world.trace.note(f"nomad: {client.value}", one.container.name)
            if client in _ENDED and one.desired == "run":
                same, random = self.world.random.random() < 0.3, self.world.random
                self.world.loop.surely(
                    random.uniform(0.5, 3.0), lambda: self.replace(one.container.user, one, same_host=same)
                )

    def stop(self, one: Allocation) -> None:
        """Desired stop; its client does it as soon as it hears of it."""
        one.desired = "stop"
        self._try_stop(one)

    def _try_stop(self, one: Allocation) -> None:
        if one.host.agent == "dead":
            one.container.die()
        if one.host.agent != "well":
            self.world.loop.surely(2.0, self._try_stop, one)
            return
        self.world.loop.surely(self.world.random.uniform(0.2, 6.0), self._ends, one, ClientStatus.COMPLETE)

    def _ends(self, one: Allocation, client: ClientStatus) -> None:
        one.container.die()
        self.world.loop.surely(self.world.random.uniform(0.05, 1.0), self._report, one, client)

    def drain(self, user: User) -> bool:
        """A planned move; whether there was anything to move."""
        old = user.wanted()
        if old is None or old.client is not ClientStatus.RUNNING:
            return False
        self.world.counts["drains"] += 1
        self.stop(old)
        self.replace(user, old)
        return True

    def crash(self, user: User) -> None:
        old = user.wanted()
        if old is not None and old.container.runs:
            self._ends(old, ClientStatus.FAILED)

    def believed_ended(self, user: User, lasts_s: float) -> None:
        """Its client lost hold of a container and reports its end; it goes on for a while."""
        old = user.wanted()
        if old is not None and old.container.runs:
            self._report(old, self.world.random.choice(_ENDED))
            self.world.loop.surely(lasts_s, old.container.die)

    def purge(self, user: User) -> None:
        """By hand: out of the lists at once, while it runs on."""
        old = user.wanted()
        if old is not None:
            old.listed = False
            self.world.loop.surely(self.world.random.uniform(0.0, 40.0), old.container.die)
            self.world.loop.surely(
                self.world.random.uniform(0.1, 5.0), lambda: self.replace(user, old, waits=False)
            )

    def heartbeat_missed(self, host: Host) -> None:
        """The servers believe the host lost, and place what ran there elsewhere."""
        if host.agent == "well":
            return
        random = self.world.random
        for user in self.users:
            for one in user.allocations:
                if one.host is host and one.live:
                    one.client, one.modified_at = (
                        random.choice((ClientStatus.LOST, ClientStatus.UNKNOWN)),
                        self.world.moment(),
                    )
                    self.world.trace.note(f"nomad: {one.client.value}", one.container.name)
                    # Sooner than its rules have it: somebody evaluated the job by hand.
                    wait_s = random.choice((0.0, 1.0, _STOP_ON_DISCONNECT_S))
                    self.world.loop.surely(wait_s, self.replace, user, one)

    def returned(self, host: Host) -> None:
        """Its agent speaks again: what was replaced is stopped, or goes on and its successor is."""
        for user in self.users:
            for one in user.allocations:
                if one.host is host and one.listed and one.desired == "run" and one.client not in _ENDED:
                    if not one.container.runs and one.client is not ClientStatus.PENDING:
                        self._report(one, ClientStatus.FAILED)
                        continue
                    other = user.wanted()
                    if other is None or other is one:
                        if one.container.runs:
                            self._report(one, ClientStatus.RUNNING)
                    elif one.container.runs and self.world.random.random() < 0.4:
                        self.stop(other)
                        self._report(one, ClientStatus.RUNNING)
                    else:
                        self.stop(one)

    def heal(self) -> None:
        """Nobody runs that is not wanted, and everybody who is runs somewhere."""
        for user in self.users:
            wanted = user.wanted()
            for one in user.allocations:
                if one is not wanted and one.container.runs:
                    self.stop(one)
            if wanted is None or (not wanted.container.runs and wanted.client is not ClientStatus.PENDING):
                if wanted is not None:
                    wanted.desired = "stop"
                    self._report(wanted, ClientStatus.FAILED)
                self.replace(user, None)

    # --- what daemons do --------------------------------------------------------------------------------
    def look(self, daemon: Daemon, user: User) -> None:
        daemon.look(user, tuple(_fact(one) for one in user.allocations if one.listed))


class Daemon:
    """Looks at a user's allocations and writes what they amount to, maybe much later. `late_s`: how much at most."""

    def __init__(self, world: FenceWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.late_s = 1.0
        self._wrote: dict[str, tuple[AllocationFact, ...]] = {}
        for user in world.cluster.users:
            self._next(user)

    def _next(self, user: User) -> None:
        self.world.loop.surely(self.world.random.uniform(1.0, 5.0), self._pass, user)

    def _pass(self, user: User) -> None:
        self._next(user)
        self.world.cluster.look(self, user)

    def look(self, user: User, facts: tuple[AllocationFact, ...]) -> None:
        if self._wrote.get(user.id) == facts and self.world.random.random() > _RESYNCED:
            return
        store: Any = self.world.stores.store
        try:
            lease = run_now(store.claim(user.id, self.name, 20.0))
        except DependencyError:
            return
        if isinstance(lease, Lease):
            wait_s = self.world.random.uniform(0.0, self.late_s)
            self.world.loop.surely(wait_s, self._write, user, lease, facts)

    def _write(self, user: User, lease: Lease, facts: tuple[AllocationFact, ...]) -> None:
        seen = Observation(_JOB, Known(facts, START), _NOT_ASKED, _NOT_ASKED, _NOT_ASKED)
        status = seen_status(_JOB, facts, cut_off=False, observation=seen, empty_since=None)
        store: Any = self.world.stores.store
        before = self._epoch(user)
        try:
            run_now(store.write_status(lease, status, {}, {}, 1))
            run_now(store.release(lease))
        except (DependencyError, StaleWrite):
            return
        self._wrote[user.id] = facts
        if self._epoch(user) != before:
            self.world.counts["moves"] += 1
            assert status.placed is not None
            container = self.world.cluster.container(status.placed.allocation_id)
            container.current_at = self.world.now
            self.world.trace.note("current", container.name)

    def _epoch(self, user: User) -> int | None:
        current = self.world.stores.store.containers[user.id].current
        return None if current is None else current.epoch


def _fact(one: Allocation) -> AllocationFact:
    host = one.host
    return AllocationFact(
        one.container.allocation_id,
        host.node_id,
        host.name,
        one.desired,
        one.client,
        one.index,
        START,
        one.modified_at,
    )
