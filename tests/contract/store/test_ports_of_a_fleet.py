"""The port ledger over several hosts: jobs start, stop, fail, move, hosts go and come back, news get lost.

Nomad draws ports here as it does: any free one of the host's range, a freed one again at once. Users look at
different times, some looks are lost, and a port that meets an old entry is settled as a pass settles it.
"""

from __future__ import annotations

import asyncio
import uuid
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.domain.actions import ContainerStatus, Placed
from core.domain.facts import Endpoint
from core.domain.ports import HostPorts, room_left, why_no_room
from core.domain.states import Reason
from core.store.interface import Lease, PortTaken, Written
from tests.contract.store.memory_harness import MovableClock
from tests.memory_store import MemoryStore
from tests.scale import examples

HOSTS = tuple(f"10.0.0.{n}" for n in range(1, 4))
USERS = tuple(str(uuid.UUID(int=n)) for n in range(1, 9))
FIRST, LAST, RESERVED = 3100, 3102, frozenset({3101})
_ENDED = ("complete", "failed")


class Allocation:
    """`client`: running, complete, failed or lost; a lost one's task may go on and keeps its port."""

    def __init__(self, user: str, host: str, port: int, number: int) -> None:
        self.user, self.host, self.port = user, host, port
        self.id = str(uuid.UUID(int=0xA000 + number))
        self.client = "running"
        self.occupies = True
        self.collected = False


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = MovableClock()
        self.store = MemoryStore(self.clock)
        self.allocations: list[Allocation] = []
        self.cut_off: set[str] = set()
        self.runner = asyncio.Runner()
        self.leases: dict[str, Lease] = {}
        for user in USERS:
            self.store.add_user(user)
            self.store.ensure_container(user)
            self.leases[user] = self._claimed(user)
        self.fleet = self._claimed("fleet")

    def teardown(self) -> None:
        self.runner.close()

    def _claimed(self, key: str) -> Lease:
        lease = self.runner.run(self.store.claim(key, "one", 1e9))
        assert isinstance(lease, Lease)
        return lease

    # --- the cluster -----------------------------------------------------------------------------------
    def _host(self, address: str) -> HostPorts:
        taken = frozenset(a.port for a in self.allocations if a.host == address and a.occupies)
        return HostPorts(address, FIRST, LAST, RESERVED, taken)

    def _hosts(self) -> list[HostPorts]:
        return [self._host(address) for address in HOSTS if address not in self.cut_off]

    def _running(self, user: str) -> Allocation | None:
        mine = [a for a in self.allocations if a.user == user and a.client == "running"]
        return mine[-1] if mine else None

    @rule(user=st.sampled_from(USERS), seed=st.integers(0, 999))
    def start(self, user: str, seed: int) -> None:
        """Nomad places the job: with no free port anywhere it does not, and the rule says why."""
        if self._running(user):
            return
        hosts = self._hosts()
        free = [
            (h.address, p) for h in hosts for p in range(FIRST, LAST + 1) if h.allows(p) and p not in h.taken
        ]
        assert room_left(hosts) == len(free)
        expected = None if free else (Reason.NO_PORT if hosts else Reason.NO_HOST)
        assert why_no_room(hosts) is expected
        if free:
            host, port = Random(seed).choice(free)
            self.allocations.append(Allocation(user, host, port, len(self.allocations)))

    @rule(user=st.sampled_from(USERS), how=st.sampled_from(_ENDED))
    def end(self, user: str, how: str) -> None:
        """A stop, a drain or a failure: the client itself reports it, and the port is free at once."""
        running = self._running(user)
        if running and running.host not in self.cut_off:
            running.client, running.occupies = how, False

    @rule(host=st.sampled_from(HOSTS))
    def cut_off_host(self, host: str) -> None:
        self.cut_off.add(host)
        for one in self.allocations:
            if one.host == host and one.client == "running":
                one.client = "lost"

    @rule(host=st.sampled_from(HOSTS))
    def host_is_back(self, host: str) -> None:
        """Its allocations that were replaced end; one that was not runs on."""
        self.cut_off.discard(host)
        for one in self.allocations:
            if one.host == host and one.client == "lost":
                replaced = self._running(one.user) is not None
                one.client = "complete" if replaced else "running"
                one.occupies = not replaced

    @rule()
    def collect(self) -> None:
        """Nomad forgets what ended, whether anybody looked or not."""
        for one in self.allocations:
            one.collected |= one.client in _ENDED

    # --- what is seen of it ----------------------------------------------------------------------------
    @rule(user=st.sampled_from(USERS))
    def look(self, user: str) -> None:
        """One pass; users who are not drawn for a while are those whose news were lost."""
        outcome = self._write(user, self._seen(user))
        tried: set[str] = set()
        while isinstance(outcome, PortTaken) and outcome.holder_allocation_id not in tried:
            tried.add(outcome.holder_allocation_id)
            if not self._is_dead(outcome.holder_allocation_id):
                outcome = self._write(user, ContainerStatus(phase="booting", reason="port_conflict"))
                assert isinstance(outcome, Written)
                return
            outcome = self._write(user, self._seen(user), tuple(tried))
        assert isinstance(outcome, Written)

    def _seen(self, user: str) -> ContainerStatus:
        listed = [a for a in self.allocations if a.user == user and not a.collected]
        ended = tuple(a.id for a in listed if a.client in _ENDED)
        running = self._running(user)
        if running is None:
            return ContainerStatus(phase="placing", closed_allocations=ended)
        return ContainerStatus(
            phase="ready",
            placed=Placed(running.id, running.host, running.host, running.host, running.port),
            allocation_id=running.id,
            node_name=running.host,
            address=running.host,
            port=running.port,
            endpoint=Endpoint(running.host, running.port, running.id),
            closed_allocations=ended,
        )

    def _write(self, user: str, status: ContainerStatus, freed: tuple[str, ...] = ()) -> Written | PortTaken:
        write = self.store.write_status(self.leases[user], status, {}, {}, 1, release_ports_of=freed)
        return self.runner.run(write)

    def _is_dead(self, allocation_id: str) -> bool:
        one = next(a for a in self.allocations if a.id == allocation_id)
        return one.collected or one.client in _ENDED

    @rule(late_s=st.sampled_from([0.0, 400.0]), stale=st.booleans())
    def sweep(self, late_s: float, stale: bool) -> None:
        """A listing, perhaps old by the time it is used: it may not close what was opened after it."""
        alive = {a.id for a in self.allocations if a.client not in _ENDED}
        if stale:
            alive = set()  # as a server that has not heard of anything yet
            late_s = 0.0
        self.clock.ahead_s += late_s
        open_before = {row.entry.allocation_id: row.opened_at for row in self.store.open_ports.values()}
        now = self.clock.now()
        closed = self.runner.run(self.store.close_forgotten(self.fleet, alive, listing_age_s=0))
        for entry in closed:
            assert entry.allocation_id not in alive
            assert (now - open_before[entry.allocation_id]).total_seconds() > 299

    # --- what holds ------------------------------------------------------------------------------------
    @invariant()
    def no_two_live_users_share_a_port(self) -> None:
        """Nor two entries: one open entry a place, and every ready endpoint's place is its owner's own."""
        endpoints: dict[tuple[str, int], str] = {}
        for user, container in self.store.containers.items():
            endpoint = container.observed.endpoint
            if endpoint is None:
                continue
            place = (endpoint.address, endpoint.port)
            assert place not in endpoints, (place, user, endpoints[place])
            endpoints[place] = user
            assert container.current is not None
            assert container.current.allocation_id == endpoint.allocation_id
            held = self.store.holder(*place)
            if held is not None:
                assert held.user_id == user

    @invariant()
    def ports_are_in_their_hosts_range(self) -> None:
        for address, port in self.store.open_ports:
            assert self._host(address).allows(port)

    @invariant()
    def a_port_is_reused_only_after_release(self) -> None:
        for row in self.store.entries.values():
            entry = row.entry
            assert entry.is_open == (self.store.open_ports.get((entry.address, entry.port)) is row)
            assert entry.is_open == (row.closed_at is None)

    @rule()
    def everything_settles(self) -> None:
        """All hosts back, everybody looks, the sweep runs: the ledger says exactly what runs."""
        for host in HOSTS:
            self.host_is_back(host)
        self.sweep(400.0, stale=False)
        for _ in range(2):  # the second time whoever waited for a place gets it
            for user in USERS:
                self.start(user, 1)
            for user in USERS:
                self.look(user)
        running = {(a.host, a.port): a.user for a in self.allocations if a.client == "running"}
        assert {place: user for place, (user, _) in self.store.ledger.items()} == running
        ready = {user for user in USERS if self.store.containers[user].observed.endpoint is not None}
        assert ready == set(running.values())
        assert len(ready) == min(len(USERS), len(HOSTS) * 2)


def test_whoever_takes_a_dead_allocations_port_takes_its_endpoint_from_it() -> None:
    fleet = Fleet()
    for number, user in enumerate(USERS[:2]):
        fleet.allocations.append(Allocation(user, HOSTS[0], FIRST, number))
        fleet.look(user)
        fleet.no_two_live_users_share_a_port()
        fleet.end(user, "complete")
    first = fleet.store.containers[USERS[0]].observed
    assert (first.endpoint, first.at_rest, first.phase) == (None, False, "ready")
    fleet.teardown()


def test_the_port_ledger_of_a_fleet() -> None:
    run_state_machine_as_test(
        Fleet, settings=settings(max_examples=examples(120), stateful_step_count=50, deadline=None)
    )
