"""Properties of the decision over generated worlds (P1, P2, P3, P4, P5, P6, P10)."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.desired import SpecHashes, Wanted
from core.domain.endpoints import is_possibly_alive
from core.domain.facts import ClientStatus, Missing, Observation, Unknown, WahaStatus
from core.domain.policy import Policy
from core.domain.ports import HostPorts
from core.domain.states import Reason, reason_text
from tests.scale import examples
from tests.world import DEAD, World

POLICY = Policy(egress="direct", empty_grace_s=20, teardown_deadline_s=20)
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
USERS = tuple(f"00000000-0000-4000-8000-00000000000{n}" for n in range(2))
CHIPS = tuple(f"00000000-0000-4000-9000-00000000000{n}" for n in range(4))


def hosts(ports: int, count: int = 3) -> dict[str, HostPorts]:
    return {
        address: HostPorts(address, 3100, 3100 + ports - 1, reserved=frozenset({3101}))
        for address in HOSTS[:count]
    }


CHIP_ACTIONS = (
    act.CreateSession,
    act.StartSession,
    act.RestartSession,
    act.StopSession,
    act.DeleteSession,
    act.RemoveChip,
)


def one_pass(
    world: World, user: str, *, only: int | None = None, last_chip_first: bool = False
) -> act.Decision | None:
    """Observe, decide, act (all actions or just the first `only`), write.

    Chip actions run side by side in a real pass, so no order of theirs may matter.
    """
    if user not in world.desired:
        return None
    decision = decide(world.desired[user], world.observe(user), world.now, POLICY)
    world.seen = {a.id: replace(a) for a in world.allocations}
    actions = list(decision.actions)
    if last_chip_first:
        actions = [a for a in actions if not isinstance(a, CHIP_ACTIONS)] + [
            a for a in reversed(actions) if isinstance(a, CHIP_ACTIONS)
        ]
    for action in actions[:only]:
        world.apply(user, action)
        world.most_running[user] = max(world.most_running.get(user, 0), world.running_sessions(user))
    if only is None:
        world.write(user, decision)
    return decision


def settle(world: World, user: str, passes: int = 60) -> act.Decision | None:
    decision = None
    for _ in range(passes):
        decision = one_pass(world, user)
        if decision is None:
            return None
        world.tick(2.0)
    return decision


class Fleet(RuleBasedStateMachine):
    """Users, hosts and phones do what they like; passes run in any order; some are cut short or lost."""

    @initialize(
        ports=st.integers(2, 4),
        count=st.integers(1, 3),
        limits=st.tuples(st.integers(0, 2), st.integers(1, 2)),
        ticks=st.integers(0, 6),
    )
    def start(self, ports: int, count: int, limits: tuple[int, int], ticks: int) -> None:
        self.world = World(hosts(ports, count))
        for user, chip, limit in zip(USERS, CHIPS, limits, strict=False):
            if limit:
                self.world.add_chip(user, chip, max_chips=limit)
        for _ in range(ticks):
            for user in USERS:
                one_pass(self.world, user)
            self.world.tick()

    users = st.sampled_from(USERS)

    @rule(user=users, chip=st.sampled_from(CHIPS), limit=st.integers(1, 3))
    def create(self, user: str, chip: str, limit: int) -> None:
        entry = self.world.desired.get(user)
        wanted = [c for c in entry.chips if c.wanted is not Wanted.DELETED] if entry else []
        known = {c.id for e in self.world.desired.values() for c in e.chips}
        if chip not in known and len(wanted) < (entry.max_chips if entry else limit):
            self.world.add_chip(user, chip, max_chips=limit)

    @rule(user=users, wanted=st.sampled_from([*Wanted, *Wanted, Wanted.CONNECTED]), pick=st.integers(0, 9))
    def intend(self, user: str, wanted: Wanted, pick: int) -> None:
        chips = [
            c
            for c in (self.world.desired[user].chips if user in self.world.desired else ())
            if c.wanted is not Wanted.DELETED
        ]
        if chips:
            self.world.intend(user, chips[pick % len(chips)].id, wanted)

    @rule(
        user=users,
        passes=st.integers(1, 4),
        seconds=st.sampled_from([0.0, 1.0, 3.0]),
        backwards=st.booleans(),
    )
    def look(self, user: str, passes: int, seconds: float, backwards: bool) -> None:
        for _ in range(passes):
            self.check(user, one_pass(self.world, user, last_chip_first=backwards))
            if seconds:
                self.world.tick(seconds)

    @rule(user=users, only=st.integers(0, 3))
    def look_and_die(self, user: str, only: int) -> None:
        """P3: a pass that ends after any prefix of its actions, with nothing written."""
        self.check(user, one_pass(self.world, user, only=only))

    @rule(seconds=st.sampled_from([0.5, 25.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(pick=st.integers(0, 99))
    def crash_a_task(self, pick: int) -> None:
        if self.world.allocations:
            self.world.fail(self.world.allocations[pick % len(self.world.allocations)])

    @rule(host=st.sampled_from(HOSTS))
    def lose_host(self, host: str) -> None:
        if host in self.world.hosts and host not in self.world.down:
            self.world.lose(host)

    @rule(host=st.sampled_from(HOSTS))
    def restore_host(self, host: str) -> None:
        self.world.restore(host)

    @rule(what=st.sets(st.sampled_from(["nomad", "consul", "waha"])))
    def go_blind(self, what: set[str]) -> None:
        self.world.blind = what

    @rule(user=users, chip=st.sampled_from(CHIPS))
    def scan(self, user: str, chip: str) -> None:
        self.world.scan(user, chip)

    @rule(user=users, chip=st.sampled_from(CHIPS))
    def qr_runs_out(self, user: str, chip: str) -> None:
        self.world.expire_qr(user, chip)

    @precondition(lambda self: hasattr(self, "world"))
    @rule(user=users)
    def change_spec(self, user: str) -> None:
        if user in self.world.desired:
            hashes = SpecHashes(spec=f"s{self.world.index}", restart=f"r{self.world.index}")
            self.world._container(user, wanted_hashes=hashes)

    def check(self, user: str, decision: act.Decision | None) -> None:
        if decision is None or user not in self.world.desired:
            return
        self.no_second_container(user, decision)
        endpoint = decision.container.endpoint
        if endpoint is not None:
            behind = self.world.seen[endpoint.allocation_id]
            assert behind.user == user
            assert (behind.desired, behind.client) == ("run", ClientStatus.RUNNING)
            assert (behind.host, behind.port) == (endpoint.address, endpoint.port)
            assert behind.passing
        for chip in self.world.desired[user].chips:
            status = decision.chips.get(chip.id)
            if status is not None:
                assert reason_text(status.reason) is not None or status.reason is None
        for action in decision.actions:
            if isinstance(action, act.DeleteSession | act.RemoveChip):
                wanted = {c.id: c.wanted for c in self.world.desired[user].chips}
                assert wanted.get(action.chip_id, Wanted.DELETED) is Wanted.DELETED

    def no_second_container(self, user: str, decision: act.Decision) -> None:
        """P4: a register after a stop waits until nothing older may be alive."""
        if not any(isinstance(a, act.RegisterJob) for a in decision.actions):
            return
        # Judged by what the pass could see, not by what its own actions changed afterwards.
        cut_off = [
            a
            for a in self.world.seen.values()
            if a.user == user
            and a.client in (ClientStatus.LOST, ClientStatus.UNKNOWN)
            and is_possibly_alive(self.world._fact(a), self.world.now, POLICY)
        ]
        assert not cut_off

    @invariant()
    def at_most_one_runs(self) -> None:
        if not hasattr(self, "world"):
            return
        for user in USERS:
            running = [a.id for a in self.world.allocations if a.user == user and a.really_runs]
            assert len(running) <= 1, running

    @invariant()
    def never_more_sessions_than_the_plan(self) -> None:
        if not hasattr(self, "world"):
            return
        for user, entry in self.world.desired.items():
            assert self.world.most_running.get(user, 0) <= entry.max_chips

    @invariant()
    def ports_are_never_shared(self) -> None:
        if not hasattr(self, "world"):
            return
        live = [(a.host, a.port) for a in self.world.allocations if a.client not in DEAD]
        assert len(live) == len(set(live))
        for address, port in self.world.ledger:
            assert self.world.hosts[address].allows(port)

    @invariant()
    def endpoints_belong_to_their_owner(self) -> None:
        if not hasattr(self, "world"):
            return
        owners = {a.id: a for a in self.world.allocations}
        seen: dict[tuple[str, int], str] = {}
        for user, status in self.world.statuses.items():
            if status.endpoint is None:
                continue
            allocation = owners[status.endpoint.allocation_id]
            assert allocation.user == user
            assert self.world.current[user] == allocation.id
            place = (status.endpoint.address, status.endpoint.port)
            held = self.world.ledger.get(place)
            if held is not None and held.user_id == user:
                assert seen.setdefault(place, user) == user

    def teardown(self) -> None:
        """P2 and P6: once the faults end, every user settles and deleted ones own nothing."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.blind = set()
        for host in list(world.down):
            world.restore(host)
        for address, host in world.hosts.items():
            world.hosts[address] = msgspec.structs.replace(host, last=3199)
        for _ in range(120):
            for user in USERS:
                self.check(user, one_pass(world, user))
            world.tick(4.0)
        for user in USERS:
            if user not in world.desired:
                assert user not in world.jobs
                assert user not in world.variables
                assert not [a for a in world.allocations if a.user == user and a.client not in DEAD]
                continue
            decision = decide(world.desired[user], world.observe(user), world.now, POLICY)
            assert decision.actions == (), (user, decision)
            for chip in world.desired[user].chips:
                assert chip.wanted is not Wanted.DELETED
                assert chip.phase in ("qr", "connected", "disconnected", "parked", "unlinked", "failed"), chip


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=examples(120), stateful_step_count=40)


@st.composite
def situations(draw: st.DrawFn) -> tuple[World, str]:
    """A world in the middle of something, and one of its users."""
    machine = World(hosts(draw(st.integers(2, 4)), draw(st.integers(1, 3))))
    user = USERS[0]
    for chip in CHIPS[: draw(st.integers(1, 4))]:
        machine.add_chip(user, chip, max_chips=draw(st.integers(1, 4)))
    for _ in range(draw(st.integers(0, 12))):
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2:
                one_pass(machine, user)
            case 3 | 4:
                machine.tick(draw(st.sampled_from([1.0, 30.0, 300.0])))
            case 5:
                machine.scan(user, draw(st.sampled_from(CHIPS[:4])))
            case 6 if machine.allocations:
                machine.fail(machine.allocations[-1])
            case 7:
                chips = machine.desired[user].chips if user in machine.desired else ()
                if chips:
                    chip = draw(st.sampled_from(chips))
                    if chip.wanted is not Wanted.DELETED:
                        machine.intend(user, chip.id, draw(st.sampled_from(list(Wanted))))
    return machine, user


FIELDS = ("job", "allocations", "evaluation", "instances", "sessions")
# What each destructive action depends on: planned only when all of these are known.
DEPENDS = {
    act.StopJob: ("job", "allocations"),
    act.PurgeJob: ("job", "allocations"),
    act.DeleteVariables: ("job", "allocations"),
    act.RemoveContainer: ("job", "allocations"),
    act.StopSession: ("job", "allocations", "instances", "sessions"),
    act.DeleteSession: ("job", "allocations", "instances", "sessions"),
}


@given(situations(), st.sets(st.sampled_from(FIELDS)))
@settings(max_examples=examples(300))
def test_unknown_never_causes_a_destructive_act(case: tuple[World, str], hidden: set[str]) -> None:
    """P5, and registering too: it may replace what runs."""
    world, user = case
    if user not in world.desired:
        return
    seen = world.observe(user)
    blinded: Observation = msgspec.structs.replace(
        seen, **{name: Unknown(Reason.DEPENDENCY_NOMAD) for name in hidden}
    )
    decision = decide(world.desired[user], blinded, world.now, POLICY)
    for action in decision.actions:
        for fact in DEPENDS.get(type(action), ()):
            assert not isinstance(getattr(blinded, fact), Unknown), (action, fact)
        if isinstance(action, act.RegisterJob | act.WriteVariables):
            assert not hidden & {"job", "allocations"}
        if isinstance(action, act.RemoveChip):
            by_session = not hidden & {"job", "allocations", "instances", "sessions"}
            gone = not hidden & {"job", "allocations"} and isinstance(seen.job, Missing)
            stopped = not hidden & {"job", "allocations"} and not isinstance(seen.job, Missing)
            assert by_session or gone or stopped


@given(situations())
@settings(max_examples=examples(150))
def test_same_input_same_answer(case: tuple[World, str]) -> None:
    """P1."""
    world, user = case
    if user in world.desired:
        first = decide(world.desired[user], world.observe(user), world.now, POLICY)
        assert decide(world.desired[user], world.observe(user), world.now, POLICY) == first
        assert first.requeue_after >= 0


@given(situations())
@settings(max_examples=examples(150))
def test_nothing_but_its_owner_deletes_a_chip(case: tuple[World, str]) -> None:
    """P10: reconnecting never deletes or logs out; no action but DeleteSession can, and it needs a tombstone."""
    world, user = case
    for _ in range(10):
        if user not in world.desired:
            return
        wanted = {c.id: c.wanted for c in world.desired[user].chips}
        decision = one_pass(world, user)
        assert decision is not None
        for action in decision.actions:
            if isinstance(action, act.DeleteSession | act.RemoveChip):
                assert wanted[action.chip_id] is Wanted.DELETED
        world.tick(5.0)


def test_one_chip_ends_with_a_qr_and_a_scan_connects_it() -> None:
    world = World(hosts(4))
    world.add_chip(USERS[0], CHIPS[0])
    decision = settle(world, USERS[0], passes=10)
    assert decision is not None
    assert decision.actions == ()
    assert decision.chips[CHIPS[0]].status == "WAITING_QR"
    assert decision.chips[CHIPS[0]].waha_status == "SCAN_QR_CODE"
    world.scan(USERS[0], CHIPS[0])
    decision = one_pass(world, USERS[0])
    assert decision is not None
    assert decision.chips[CHIPS[0]].status == "CONNECTED"
    assert decision.chips[CHIPS[0]].phone_number == "+5511999999999"


def test_without_egress_no_session_is_started() -> None:
    world = World(hosts(4))
    world.add_chip(USERS[0], CHIPS[0])
    for _ in range(20):
        decision = decide(world.desired[USERS[0]], world.observe(USERS[0]), world.now, Policy())
        for action in decision.actions:
            world.apply(USERS[0], action)
        world.write(USERS[0], decision)
        world.tick()
    assert decision.chips[CHIPS[0]].reason == Reason.NO_EGRESS
    assert decision.chips[CHIPS[0]].status == "WAITING_QR"
    assert all(s.starts == 0 for s in world.sessions[USERS[0]].values())


def test_exhaustion_is_said_and_heals_by_itself() -> None:
    world = World({HOSTS[0]: HostPorts(HOSTS[0], 3100, 3100)})
    for n in (0, 1):
        world.add_chip(USERS[n], CHIPS[n])
        settle(world, USERS[n], passes=8)
    assert world.statuses[USERS[1]].reason == Reason.NO_PORT
    assert world.desired[USERS[1]].chips[0].reason == Reason.NO_PORT
    world.intend(USERS[0], CHIPS[0], Wanted.DELETED)
    settle(world, USERS[0], passes=40)
    assert USERS[0] not in world.desired
    settle(world, USERS[1], passes=10)
    assert world.statuses[USERS[1]].endpoint is not None


def test_qr_budget_is_spent_and_bought_again_by_a_press() -> None:
    world = World(hosts(4))
    user, chip = USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    settle(world, user, passes=10)
    for _ in range(40):
        world.expire_qr(user, chip)
        one_pass(world, user)
        world.tick(60.0)
    session = next(iter(world.sessions[user].values()))
    assert session.starts == POLICY.qr_rounds
    assert session.status is WahaStatus.STOPPED
    assert world.desired[user].chips[0].reason == Reason.QR_SPENT
    world.intend(user, chip, Wanted.CONNECTED)
    settle(world, user, passes=10)
    assert session.status is WahaStatus.SCAN_QR_CODE


def test_a_lost_host_freezes_the_user_and_heals_without_a_qr() -> None:
    world = World(hosts(4))
    user, chip = USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    settle(world, user, passes=10)
    world.scan(user, chip)
    one_pass(world, user)
    world.lose(world.allocations[-1].host)
    decision = one_pass(world, user)
    assert decision is not None
    assert (decision.container.phase, decision.container.reason) == ("moving", Reason.POSSIBLY_ALIVE)
    assert decision.container.endpoint is None
    assert decision.chips[chip].status == "CONNECTING"
    settle(world, user, passes=90)
    assert world.desired[user].chips[0].status == "CONNECTED"
    assert world.allocations[-1].host != world.allocations[0].host


def test_a_chip_unlinked_on_the_phone_waits_for_its_owner() -> None:
    world = World(hosts(4))
    user, chip = USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    settle(world, user, passes=10)
    world.scan(user, chip)
    settle(world, user, passes=3)
    session = next(iter(world.sessions[user].values()))
    session.status, session.me = WahaStatus.FAILED, None
    settle(world, user, passes=20)
    row = world.desired[user].chips[0]
    assert (row.status, row.reason, session.status) == ("DISCONNECTED", "unlinked", WahaStatus.STOPPED)
    world.intend(user, chip, Wanted.CONNECTED)
    settle(world, user, passes=10)
    assert (world.desired[user].chips[0].status, session.status) == ("WAITING_QR", WahaStatus.SCAN_QR_CODE)
