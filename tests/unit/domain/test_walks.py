"""Walks through the decision that people know by name."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from core.domain.decide import decide
from core.domain.desired import Wanted
from core.domain.facts import ClientStatus, Known, WahaStatus
from core.domain.policy import Policy
from core.domain.ports import HostPorts
from core.domain.states import Reason
from tests.passes import CHIPS, HOSTS, POLICY, USERS, hosts, one_pass, settle
from tests.world import World


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
    assert str(session.status) == WahaStatus.SCAN_QR_CODE


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


def test_a_qr_that_nobody_scans_and_waha_never_ends_is_stopped() -> None:
    """Some engines show one code after the other for ever (WAHA docs, WEBJS)."""
    world, user, chip = World(hosts(4)), USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    settle(world, user, passes=10)
    for _ in range(40):
        one_pass(world, user)
        world.tick(10.0)
    session = next(iter(world.sessions[user].values()))
    assert session.status is WahaStatus.STOPPED
    assert (world.desired[user].chips[0].phase, world.desired[user].chips[0].reason) == ("parked", "qr_spent")
    world.intend(user, chip, Wanted.CONNECTED)
    settle(world, user, passes=10)
    assert world.desired[user].chips[0].phase == "qr"
    assert world.desired[user].chips[0].reason is None


def test_storage_that_is_nobody_s_own_stops_every_further_start() -> None:
    world, user = World(hosts(4)), USERS[0]
    world.shared.add(user)
    for chip in CHIPS[:3]:
        world.add_chip(user, chip)
    settle(world, user, passes=30)
    assert world.statuses[user].reason == Reason.STORAGE_NOT_ISOLATED
    assert sum(session.starts for session in world.sessions[user].values()) == 1
    assert {c.reason for c in world.desired[user].chips[1:]} == {Reason.STORAGE_NOT_ISOLATED}
    world.shared.clear()  # another image
    settle(world, user, passes=10)
    assert world.running_sessions(user) == 3


def test_a_job_that_cannot_be_rendered_is_said_and_leaves_what_runs_alone() -> None:
    world, user, chip = World(hosts(4)), USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    world._container(user, renderable=False)
    decision = settle(world, user, passes=10)
    assert decision is not None
    assert user not in world.jobs
    assert decision.container.reason == Reason.JOB_NOT_RENDERABLE
    assert world.desired[user].chips[0].reason == Reason.JOB_NOT_RENDERABLE
    world._container(user, renderable=True)
    settle(world, user, passes=10)
    assert world.desired[user].chips[0].phase == "qr"
    world._container(user, renderable=False)
    decision = one_pass(world, user)
    assert decision is not None
    assert decision.actions == ()
    assert decision.container.endpoint is not None
    world.intend(user, chip, Wanted.DELETED)
    settle(world, user, passes=40)
    assert user not in world.desired


def test_secrets_that_were_written_and_never_recorded_are_removed_too() -> None:
    """A daemon that died between the write and its record, before a job was registered."""
    world, user, chip = World(hosts(4)), USERS[0], CHIPS[0]
    world.add_chip(user, chip)
    world.variables[user] = "v1"
    world.intend(user, chip, Wanted.DELETED)
    settle(world, user, passes=40)
    assert user not in world.desired
    assert user not in world.variables


def test_a_container_that_its_client_ended_unnoticed_is_placed_again() -> None:
    world = World(hosts(4))
    user = USERS[0]
    world.add_chip(user, CHIPS[0])
    settle(world, user, passes=8)
    world.end_unnoticed(user)
    decision = one_pass(world, user)
    assert decision is not None
    assert decision.actions == ()  # Nomad may be about to do it by itself
    settle(world, user, passes=12)
    assert world.statuses[user].endpoint is not None
    assert len(world.allocations) == 2


def test_nothing_is_evaluated_while_a_cut_off_container_may_still_run() -> None:
    world = World(hosts(4))
    user = USERS[0]
    world.add_chip(user, CHIPS[0])
    settle(world, user, passes=8)
    observation = world.observe(user)
    assert isinstance(observation.allocations, Known)
    (alone,) = observation.allocations.value
    ended = msgspec.structs.replace(alone, id="newer", client=ClientStatus.COMPLETE, create_index=10**6)
    for client in (ClientStatus.LOST, ClientStatus.UNKNOWN, ClientStatus.PENDING, ClientStatus.RUNNING):
        older = msgspec.structs.replace(alone, client=client, modified_at=world.now, desired="stop")
        seen = msgspec.structs.replace(observation, allocations=Known((older, ended), world.now))
        later = world.now + timedelta(seconds=60)
        assert decide(world.desired[user], seen, later, POLICY).actions == (), client
