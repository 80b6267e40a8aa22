"""Properties of single decisions in generated situations (P1, P5, P10)."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import actions as act
from core.domain.breaker import is_quarantined
from core.domain.decide import decide
from core.domain.desired import Consent, Wanted
from core.domain.egress_errors import OF_UPSTREAM
from core.domain.facts import (
    NOT_ASKED,
    Fact,
    Group,
    Known,
    Missing,
    Observation,
    Peers,
    Unknown,
    WahaStatus,
)
from core.domain.names import session_name
from core.domain.routes import READ_EVERY, rotation
from core.domain.states import Reason
from core.domain.way_out import REASONS
from tests.passes import CHIPS, GUARDED, POLICY, USERS, hosts, one_pass
from tests.scale import examples
from tests.world import World
from tests.world_egress import TROUBLES
from tests.world_rows import START

PEERS: tuple[Fact[Peers], ...] = (
    Known(Peers(), START),
    Known(Peers(host=Group(1, 1, 9)), START),
    Unknown(NOT_ASKED),
)
POLICIES = st.sampled_from([POLICY, GUARDED])


@st.composite
def situations(draw: st.DrawFn) -> tuple[World, str]:
    """A world in the middle of something, and one of its users."""
    machine = World(hosts(draw(st.integers(2, 4)), draw(st.integers(1, 3))))
    machine.policy = draw(POLICIES)
    user = USERS[0]
    for name in CHIPS[: draw(st.integers(1, 4))]:
        machine.add_chip(user, name, max_chips=draw(st.integers(1, 4)))
    if draw(st.booleans()):
        for _ in range(6):
            one_pass(machine, user)
            machine.tick()
            machine.scan(user, CHIPS[0])
    for _ in range(draw(st.integers(0, 12))):
        if user not in machine.desired:
            break
        match draw(st.integers(0, 19)):
            case 0 | 1 | 2:
                one_pass(machine, user)
            case 3 | 4:
                machine.tick(draw(st.sampled_from([1.0, 30.0, 300.0])))
            case 5:
                machine.scan(user, draw(st.sampled_from(CHIPS[:4])))
            case 6 if machine.allocations:
                machine.fail(machine.allocations[-1])
            case 12:
                # Sessions fail, one time after the other, and passes see it.
                for _ in range(draw(st.integers(1, 6))):
                    for session in machine.sessions.get(user, {}).values():
                        if session.status is not WahaStatus.STOPPED:
                            session.status = WahaStatus.FAILED
                    one_pass(machine, user)
                    machine.tick(60.0)
            case 8:
                machine._container(user, paused=draw(st.booleans()))
            case 9:
                machine.refuse_key(user)
            case 17:
                machine.ask_for_restart(user)
            case 10:
                draw(st.sampled_from([machine.purge, machine.edit_job, machine.stop_job]))(user)
            case 11:
                host = draw(st.sampled_from(list(machine.hosts)))
                draw(st.sampled_from([machine.lose, machine.silence, machine.restore, machine.drain]))(host)
            case 7:
                chips = machine.desired[user].chips if user in machine.desired else ()
                if chips:
                    chip = draw(st.sampled_from(chips))
                    if chip.wanted is not Wanted.DELETED:
                        wish = draw(st.sampled_from(list(Wanted)))
                        machine.intend(user, chip.id, wish, fresh=draw(st.booleans()))
            case 13:
                # Credentials that are kept and worth nothing: no rung of the ladder brings them back.
                for session in machine.sessions.get(user, {}).values():
                    if session.status is not WahaStatus.STOPPED:
                        session.status, session.dead = WahaStatus.FAILED, True
                for _ in range(draw(st.integers(1, 30))):
                    one_pass(machine, user)
                    machine.tick(5.0)
            case 14:
                machine.peers = draw(st.sampled_from(PEERS))
            case 15:
                chips = machine.desired[user].chips
                if chips:
                    machine.ban(user, draw(st.sampled_from(chips)).id, banned=draw(st.booleans()))
            case 18:
                machine.reading_fails = draw(st.sampled_from([None, *sorted(OF_UPSTREAM)]))
                machine.provider_gone = draw(st.booleans())
            case 19:
                for chip in machine.desired[user].chips:
                    machine.trouble(user, chip.id, draw(st.sampled_from(TROUBLES)))
                if draw(st.booleans()):
                    machine.forget_proxies(user)
            case 16:
                for session in machine.sessions.get(user, {}).values():
                    session.deaf = True
    return machine, user


@st.composite
def removals(draw: st.DrawFn) -> tuple[World, str]:
    """A user who had chips and has deleted all of them, somewhere on the way to nothing left."""
    machine, user = World(hosts(4)), USERS[0]
    machine.policy = draw(POLICIES)
    for name in CHIPS[: draw(st.integers(1, 2))]:
        machine.add_chip(user, name)
    for _ in range(draw(st.integers(0, 8))):
        one_pass(machine, user)
        machine.tick()
    for chip in machine.desired[user].chips:
        machine.intend(user, chip.id, Wanted.DELETED)
    reachable = draw(st.booleans())
    for _ in range(draw(st.integers(0, 30))):
        if not reachable:
            machine.hung.add(user)
        machine.blind = draw(st.sampled_from([set(), set(), {"storage"}]))
        one_pass(machine, user)
        machine.tick(draw(st.sampled_from([2.0, 10.0])))
    return machine, user


FIELDS = ("job", "allocations", "evaluation", "instances", "sessions", "storage")
# What each destructive action depends on: planned only when all of these are known.
DEPENDS = {
    act.ReplaceAllocation: ("job", "allocations", "instances"),
    act.RestartAllocation: ("job", "allocations", "instances"),
    act.EvaluateJob: ("job", "allocations"),
    act.StopJob: ("job", "allocations"),
    act.PurgeJob: ("job", "allocations"),
    act.DeleteVariables: ("job", "allocations"),
    act.DeleteStorage: ("job", "allocations", "storage"),
    act.RemoveContainer: ("job", "allocations", "storage"),
    act.StopSession: ("job", "allocations", "instances", "sessions"),
    act.DeleteSession: ("job", "allocations", "instances", "sessions"),
    # What WAHA is told rests on what WAHA said, at an endpoint that counts.
    act.CreateSession: ("job", "allocations", "instances", "sessions"),
    act.StartSession: ("job", "allocations", "instances", "sessions"),
    act.RestartSession: ("job", "allocations", "instances", "sessions"),
    act.RewriteSession: ("job", "allocations", "instances", "sessions"),
    act.RouteSession: ("job", "allocations", "instances", "sessions"),
    act.LogoutSession: ("job", "allocations", "instances", "sessions"),
}


def test_every_destructive_action_has_its_facts_here() -> None:
    assert set(act.DESTRUCTIVE) - set(DEPENDS) == {act.RemoveChip}


@given(situations() | removals(), st.sets(st.sampled_from(FIELDS), max_size=3))
@settings(max_examples=examples(400))
def test_unknown_never_causes_a_destructive_act(case: tuple[World, str], hidden: set[str]) -> None:
    """P5, and registering too: it may replace what runs."""
    world, user = case
    if user not in world.desired:
        return
    seen = world.observe(user)
    blinded: Observation = msgspec.structs.replace(
        seen, **{name: Unknown(Reason.DEPENDENCY_NOMAD) for name in hidden}
    )
    decision = decide(world.desired[user], blinded, world.now, world.policy)
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
        first = decide(world.desired[user], world.observe(user), world.now, world.policy)
        assert decide(world.desired[user], world.observe(user), world.now, world.policy) == first
        assert first.requeue_after is None or first.requeue_after >= 0
        assert (first.requeue_after is None) == first.container.at_rest


@given(situations())
@settings(max_examples=examples(150))
def test_nothing_but_its_owner_deletes_a_chip(case: tuple[World, str]) -> None:
    """P10: deleting needs a tombstone, and a logout the consent of the wish that stands."""
    world, user = case
    for _ in range(10):
        if user not in world.desired:
            return
        before = {c.id: c for c in world.desired[user].chips}
        peers = world.peers
        decision = one_pass(world, user)
        assert decision is not None
        for action in decision.actions:
            if isinstance(action, act.DeleteSession | act.RemoveChip):
                assert before[action.chip_id].wanted is Wanted.DELETED
            if isinstance(action, act.LogoutSession):
                chip = before[action.chip_id]
                assert chip.wanted is Wanted.CONNECTED
                assert chip.consent is not Consent.NONE
                assert not chip.banned
                if not chip.needs_pairing:
                    assert chip.connected_at is not None
                    assert chip.intent_at > chip.connected_at
                    if chip.consent is Consent.PRESS:
                        assert isinstance(peers, Known)
                        assert peers.value.host.failing == 0
                        assert chip.tries.failures >= POLICY.max_failures
        world.tick(5.0)


@given(situations(), st.booleans())
@settings(max_examples=examples(400))
def test_no_session_starts_without_its_way_out(case: tuple[World, str], readings: bool) -> None:
    """Fail closed: a label, no trouble with it, a fresh good reading, and its credential in the config."""
    world, user = case
    if user not in world.desired:
        return
    chips = {chip.id: chip for chip in world.desired[user].chips}
    seen = world.observe(user)
    policy = msgspec.structs.replace(world.policy, exit_readings=readings)
    decision = decide(world.desired[user], seen, world.now, policy)
    guarded = [action for action in decision.actions if act.is_start(action)] if world.guarded else []
    for action in guarded:
        assert isinstance(action, act.STARTS)
        route = chips[action.chip_id].route
        assert route is not None
        assert not route.released
        assert route.unusable is None
        assert rotation(route, world.now) is None
        if readings:
            assert route.failure is None
            assert route.checked_at is not None
            assert world.now - route.checked_at < READ_EVERY
        if not isinstance(action, act.CreateSession):
            assert isinstance(seen.sessions, Known)
            session = seen.sessions.value[session_name(action.chip_id)]
            # A stopped one does not start by its logout.
            stays = isinstance(action, act.LogoutSession) and session.status is WahaStatus.STOPPED
            assert session.routed or stays
    closed = decide(world.desired[user], seen, world.now, msgspec.structs.replace(policy, egress=None))
    assert not [action for action in closed.actions if act.is_start(action)]
    if not world.guarded:
        assert not [a for a in decision.actions if isinstance(a, (*act.OF_LABELS, act.RouteSession))]


@given(situations())
@settings(max_examples=examples(150))
def test_a_config_is_written_with_a_way_out_and_to_what_is_stopped(case: tuple[World, str]) -> None:
    world, user = case
    if user not in world.desired or not world.guarded:
        return
    chips = {chip.id: chip for chip in world.desired[user].chips}
    seen = world.observe(user)
    for action in decide(world.desired[user], seen, world.now, world.policy).actions:
        if isinstance(action, act.CreateSession | act.RewriteSession | act.RouteSession):
            route = chips[action.chip_id].route
            assert route is not None
            assert not route.released
        if isinstance(action, act.RouteSession):
            assert isinstance(seen.sessions, Known)
            session = seen.sessions.value[session_name(action.chip_id)]
            assert (session.status, session.routed) == (WahaStatus.STOPPED, False)


@given(situations())
@settings(max_examples=examples(150))
def test_a_connected_chip_is_not_stopped_for_its_label(case: tuple[World, str]) -> None:
    world, user = case
    if user not in world.desired:
        return
    container = world.desired[user].container
    chips = {chip.id: chip for chip in world.desired[user].chips}
    for action in decide(world.desired[user], world.observe(user), world.now, world.policy).actions:
        if isinstance(action, act.StopSession):
            chip, session = chips[action.chip_id], world.sessions[user][session_name(action.chip_id)]
            held = chip.banned or is_quarantined(chip) or container.paused
            if session.status is WahaStatus.WORKING and not session.deaf:
                assert chip.wanted is not Wanted.CONNECTED or held


@given(situations())
@settings(max_examples=examples(100))
def test_a_way_out_that_is_well_again_brings_chips_back(case: tuple[World, str]) -> None:
    world, user = case
    if user not in world.desired or not world.guarded:
        return
    world.provider_gone, world.reading_fails, world.blind = False, None, set()
    for _ in range(40):
        for chip in world.desired[user].chips if user in world.desired else ():
            world.trouble(user, chip.id, "well")
        if one_pass(world, user) is None:
            return
        world.tick(60.0)
    assert not [chip.reason for chip in world.desired[user].chips if chip.reason in REASONS]
    assert not world.unrouted_starts


@given(situations())
@settings(max_examples=examples(150))
def test_who_is_banned_in_quarantine_or_wanted_disconnected_is_never_started(case: tuple[World, str]) -> None:
    world, user = case
    if user not in world.desired:
        return
    decision = decide(world.desired[user], world.observe(user), world.now, world.policy)
    held = {c.id for c in world.desired[user].chips if c.banned or is_quarantined(c)}
    held |= {c.id for c in world.desired[user].chips if c.wanted is not Wanted.CONNECTED}
    starts = (act.StartSession, act.RestartSession, act.RewriteSession, act.LogoutSession, act.CreateSession)
    assert not [
        action for action in decision.actions if isinstance(action, starts) and action.chip_id in held
    ]


@given(situations(), st.sets(st.sampled_from(FIELDS)))
@settings(max_examples=examples(150))
def test_nobody_rests_on_what_could_not_be_seen(case: tuple[World, str], hidden: set[str]) -> None:
    """At rest means: everything that matters was seen, and nothing runs out."""
    world, user = case
    if user not in world.desired:
        return
    seen = world.observe(user)
    blinded = msgspec.structs.replace(seen, **{name: Unknown(Reason.DEPENDENCY_NOMAD) for name in hidden})
    decision = decide(world.desired[user], blinded, world.now, world.policy)
    if decision.requeue_after is None:
        assert not hidden & {"job", "allocations", "instances", "sessions"}
        assert decision.actions == ()
        assert decision.container.phase == "ready"
        rests = {
            *("connected", "disconnected", "parked", "unlinked", "failed", "paused"),
            *("quarantined", "banned"),
        }
        assert {status.phase for status in decision.chips.values()} <= rests


@given(situations())
@settings(max_examples=examples(150))
def test_a_refused_key_is_never_a_missing_session(case: tuple[World, str]) -> None:
    """401 stops, deletes and creates no session, and stops no job; at most it replaces what refuses."""
    world, user = case
    if user not in world.desired or world.desired[user].container.deleted:
        return
    observation = msgspec.structs.replace(world.observe(user), sessions=Unknown(Reason.WAHA_KEY_REJECTED))
    decision = decide(world.desired[user], observation, world.now, world.policy)
    if decision.container.endpoint is None:
        return
    # A restart is somebody's wish.
    allowed = (
        act.WriteVariables,
        act.RegisterJob,
        act.ReplaceAllocation,
        act.RestartAllocation,
        *act.OF_LABELS,
    )
    if any(chip.wanted is not Wanted.DELETED for chip in world.desired[user].chips):
        assert all(isinstance(action, allowed) for action in decision.actions), decision.actions


@given(situations())
@settings(max_examples=examples(200))
def test_no_more_sessions_are_started_than_the_plan_allows(case: tuple[World, str]) -> None:
    """P4, in one decision: what runs, tombstones included, and what would be started beside it."""
    world, user = case
    if user not in world.desired:
        return
    entry = world.desired[user]
    decision = decide(entry, world.observe(user), world.now, world.policy)
    stopped = {name for name, s in world.sessions.get(user, {}).items() if s.status is WahaStatus.STOPPED}
    more = [
        action
        for action in decision.actions
        if (isinstance(action, act.CreateSession) and action.start)
        or (
            isinstance(action, act.StartSession | act.RestartSession | act.RewriteSession)
            and session_name(action.chip_id) in stopped
        )
    ]
    if more:
        assert world.running_sessions(user) + len(more) <= entry.max_chips


@given(removals())
@settings(max_examples=examples(100))
def test_a_tombstone_ends_with_nothing_owned(case: tuple[World, str]) -> None:
    """P6, from anywhere on the way."""
    world, user = case
    world.blind = set()
    for _ in range(120):
        if one_pass(world, user) is None or user not in world.desired:
            break
        world.tick(4.0)
    assert user not in world.desired
    assert user not in world.jobs
    assert user not in world.variables
    assert not world.storage.get(user)
    assert not [a for a in world.allocations if a.user == user and a.really_runs]


def test_a_disconnected_chip_beside_a_waha_that_does_not_answer_is_looked_at_again() -> None:
    world, user = World(hosts(4)), USERS[0]
    world.add_chip(user, CHIPS[0])
    for _ in range(10):
        one_pass(world, user)
        world.tick()
    world.intend(user, CHIPS[0], Wanted.DISCONNECTED)
    for _ in range(5):
        one_pass(world, user)
        world.tick()
    rests = decide(world.desired[user], world.observe(user), world.now, world.policy)
    assert (rests.requeue_after, rests.container.at_rest) == (None, True)
    world.hung.add(user)
    blind = decide(world.desired[user], world.observe(user), world.now, world.policy)
    assert blind.requeue_after is not None
    assert not blind.container.at_rest
