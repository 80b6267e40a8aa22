"""P2, P3, P4, P6 and the rules for ports: users, hosts and phones do what they like, passes run in any order."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.desired import SpecHashes, Wanted
from core.domain.egress_errors import EgressError
from core.domain.endpoints import is_possibly_alive
from core.domain.facts import ClientStatus
from core.domain.states import reason_text
from tests.passes import CHIPS, GUARDED, HOSTS, POLICY, USERS, hosts, one_pass
from tests.scale import examples
from tests.world import World
from tests.world_egress import TROUBLES
from tests.world_rows import DEAD


class Fleet(RuleBasedStateMachine):
    """Users, hosts and phones do what they like; passes run in any order; some are cut short or lost."""

    @initialize(
        ports=st.integers(2, 4),
        count=st.integers(1, 3),
        limits=st.tuples(st.integers(0, 2), st.integers(1, 2)),
        ticks=st.integers(0, 6),
        guarded=st.booleans(),
    )
    def start(self, ports: int, count: int, limits: tuple[int, int], ticks: int, guarded: bool) -> None:
        self.world = World(hosts(ports, count))
        self.world.policy = GUARDED if guarded else POLICY
        self.late: list[tuple[str, act.Action]] = []
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

    @rule(host=st.sampled_from(HOSTS))
    def drain_host(self, host: str) -> None:
        if host in self.world.hosts and host not in self.world.down:
            self.world.drain(host)

    @rule()
    def end_drains(self) -> None:
        self.world.draining.clear()

    @rule(host=st.sampled_from(HOSTS))
    def silence_host(self, host: str) -> None:
        if host in self.world.hosts and host not in self.world.down:
            self.world.silence(host)

    @rule(
        user=users, what=st.sampled_from(["edit", "stop", "purge", "kill", "key", "pause", "hung", "stuck"])
    )
    def meddle(self, user: str, what: str) -> None:
        """An operator, or an image, does something to one user's container."""
        world = self.world
        if user not in world.desired or any(a.user == user and a.dies_at for a in world.allocations):
            return  # an evaluation by hand during Nomad's wait is a second container by that hand, not ours
        match what:
            case "edit":
                world.edit_job(user)
            case "stop":
                world.stop_job(user)
            case "purge":
                self.by_hand(user)
            case "kill":
                world.kill_container(user)
            case "key":
                world.refuse_key(user)
            case "pause":
                world._container(user, paused=not world.desired[user].container.paused)
            case _:
                getattr(world, what).symmetric_difference_update({user})

    def by_hand(self, user: str) -> None:
        """A purge that the passes must find out about. What was placed and never seen cannot be missed."""
        known = self.world.desired[user].container.current_allocation
        alive = [a for a in self.world.allocations if a.user == user and a.listed and a.client not in DEAD]
        if all(a.id == known for a in alive):
            self.world.purge(user)

    @rule(user=users, pick=st.integers(0, 9))
    def decide_and_freeze(self, user: str, pick: int) -> None:
        """A daemon stops dead between its decision and an effect, which leaves later all the same."""
        if user not in self.world.desired:
            return
        world = self.world
        actions = decide(world.desired[user], world.observe(user), world.now, world.policy).actions
        if actions:
            self.late.append((user, actions[pick % len(actions)]))

    @precondition(lambda self: bool(getattr(self, "late", None)))
    @rule(pick=st.integers(0, 9))
    def late_effect(self, pick: int) -> None:
        """P4: whatever was decided from an older look, at most one container runs."""
        user, action = self.late.pop(pick % len(self.late))
        if isinstance(action, act.RegisterJob | act.ReplaceAllocation | act.EvaluateJob) and any(
            a.user == user and a.dies_at for a in self.world.allocations
        ):
            return  # a host lost between a look and its effect: what leases at the egress are for (section 6)
        self.world.apply_late(user, action)

    @rule(user=users, chip=st.sampled_from(CHIPS), what=st.sampled_from([*TROUBLES, "unread", "provider"]))
    def way_out(self, user: str, chip: str, what: str) -> None:
        world = self.world
        match what:
            case "unread":
                world.reading_fails = None if world.reading_fails else EgressError.PROXY_UNREACHABLE
            case "provider":
                world.provider_gone = not world.provider_gone
            case _:
                world.trouble(user, chip, what)

    @rule(what=st.sets(st.sampled_from(["nomad", "consul", "waha", "storage"])))
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
        # Judged by what the pass could see, not by what its own actions changed afterwards, nor by what a
        # purge took out of Nomad's lists: that one is waited for by the store's record, and for so long only.
        cut_off = [
            a
            for a in self.world.seen.values()
            if a.user == user
            and a.listed
            and a.client in (ClientStatus.LOST, ClientStatus.UNKNOWN)
            and is_possibly_alive(self.world._fact(a), self.world.now, self.world.policy)
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
        live = [(a.host, a.port) for a in self.world.allocations if a.listed and a.client not in DEAD]
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
        for faults in (world.blind, world.hung, world.stuck, world.draining):
            faults.clear()
        world.provider_gone, world.reading_fails = False, None
        for down in list(world.down):
            world.restore(down)
        for address, host in world.hosts.items():
            world.hosts[address] = msgspec.structs.replace(host, last=3199)
        for user in world.desired:
            world._container(user, paused=False)
        for _ in range(150):
            for user in USERS:
                for chip in world.desired[user].chips if user in world.desired else ():
                    world.trouble(user, chip.id, "well")
                self.check(user, one_pass(world, user))
            world.tick(4.0)
        for user in USERS:
            if user not in world.desired:
                assert user not in world.jobs
                assert user not in world.variables
                assert not world.storage.get(user)
                assert not [a for a in world.allocations if a.user == user and a.client not in DEAD]
                continue
            decision = decide(world.desired[user], world.observe(user), world.now, world.policy)
            assert decision.actions == (), (user, decision)
            assert decision.container.phase == "ready", (user, decision)
            for chip in world.desired[user].chips:
                assert chip.wanted is not Wanted.DELETED
                assert chip.phase in ("qr", "connected", "disconnected", "parked", "unlinked", "failed"), chip


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=examples(120), stateful_step_count=40)
