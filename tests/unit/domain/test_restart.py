"""Restart of a container by request, on the pure world."""

from __future__ import annotations

import msgspec
import pytest

from core.domain import actions as act
from core.domain.decide import decide
from core.domain.facts import ClientStatus, Observation, TaskEvent, Unknown, WahaStatus
from core.domain.names import session_name
from core.domain.placement import task_failure_reason
from core.domain.states import Reason
from tests.passes import CHIPS, POLICY, USERS, hosts, one_pass, settle
from tests.world import World

USER, CHIP = USERS[0], CHIPS[0]


@pytest.fixture
def world() -> World:
    """A user with one connected chip."""
    made = World(hosts(4))
    made.add_chip(USER, CHIP)
    settle(made, USER, 6)
    made.scan(USER, CHIP)
    settle(made, USER, 4)
    assert made.desired[USER].chips[0].phase == "connected"
    return made


def decided(world: World, **hidden: object) -> act.Decision:
    seen: Observation = msgspec.structs.replace(world.observe(USER), **hidden)
    return decide(world.desired[USER], seen, world.now, POLICY)


def restarts(decision: act.Decision | None) -> list[act.Action]:
    assert decision is not None
    return [action for action in decision.actions if isinstance(action, act.RestartAllocation)]


def test_a_wish_restarts_what_runs_once_and_the_chip_comes_back_without_a_qr(world: World) -> None:
    (allocation,) = world.allocations
    session = world.sessions[USER][session_name(CHIP)]
    started = session.starts
    assert restarts(decided(world)) == []
    world.ask_for_restart(USER)
    first = one_pass(world, USER)
    assert restarts(first) == [act.RestartAllocation(allocation.id, generation=2, restarts=0)]
    assert world.statuses[USER].reason == Reason.RESTARTING
    seen = set()
    for _ in range(20):
        world.tick(2.0)
        decision = one_pass(world, USER)
        assert restarts(decision) == []
        seen.add(world.desired[USER].chips[0].phase)
    assert allocation.restarts == 1
    assert session.starts == started + 1
    assert session.status is WahaStatus.WORKING
    assert "qr" not in seen
    status = world.statuses[USER]
    assert (status.phase, status.reason, status.at_rest) == ("ready", None, True)
    assert world.desired[USER].chips[0].phase == "connected"


def test_its_owner_reads_that_it_restarts_until_the_session_is_back(world: World) -> None:
    world.ask_for_restart(USER)
    one_pass(world, USER)
    reasons: list[str | None] = []
    while not reasons or reasons[-1] is not None:
        world.tick(2.0)
        one_pass(world, USER)
        reasons.append(world.statuses[USER].reason)
        assert len(reasons) < 20
    assert set(reasons[:-1]) == {Reason.RESTARTING}
    assert len(reasons) > 1
    assert world.sessions[USER][session_name(CHIP)].status is WahaStatus.WORKING


@pytest.mark.parametrize("fact", ["job", "allocations", "instances"])
def test_nothing_is_restarted_while_nomad_or_consul_cannot_be_seen(world: World, fact: str) -> None:
    world.ask_for_restart(USER)
    assert restarts(decided(world, **{fact: Unknown(Reason.DEPENDENCY_NOMAD)})) == []
    assert len(restarts(decided(world))) == 1


def test_a_container_that_answers_nothing_may_be_restarted(world: World) -> None:
    world.hung.add(USER)
    world.ask_for_restart(USER)
    assert len(restarts(one_pass(world, USER))) == 1


def test_nothing_is_restarted_while_it_may_be_alive_elsewhere(world: World) -> None:
    world.ask_for_restart(USER)
    (old,) = world.allocations
    world.lose(old.host)
    for _ in range(200):
        world.tick(2.0)
        decision = one_pass(world, USER)
        assert restarts(decision) == []
    # What runs now began after the wish.
    assert world.allocations[-1].id != old.id
    assert world.allocations[-1].restarts == 0
    assert world.desired[USER].container.restarted_generation == 2


def test_a_call_whose_answer_was_lost_is_told_by_the_task_itself(world: World) -> None:
    """Killed between the effect and its record: the next pass sees that the task was restarted since."""
    world.ask_for_restart(USER)
    (allocation,) = world.allocations
    world._container(USER, restart_mark=0)
    world.restart(allocation.id)
    for _ in range(10):
        assert restarts(one_pass(world, USER)) == []
        world.tick(2.0)
    assert allocation.restarts == 1
    container = world.desired[USER].container
    assert (container.restarted_generation, container.restart_mark) == (2, None)


def test_a_call_that_never_arrived_is_sent_again(world: World) -> None:
    world.ask_for_restart(USER)
    (allocation,) = world.allocations
    world._container(USER, restart_mark=0)
    assert restarts(one_pass(world, USER)) == [act.RestartAllocation(allocation.id, 2, 0)]


def test_what_does_not_come_back_is_told_as_any_slow_start(world: World) -> None:
    world.ask_for_restart(USER)
    one_pass(world, USER)
    world.unready.add(USER)
    told = []
    for _ in range(120):
        world.tick(2.0)
        one_pass(world, USER)
        told.append(world.statuses[USER].reason)
    assert Reason.RESTARTING in told
    assert told[-1] == Reason.WAHA_NOT_READY


def test_a_task_that_was_told_to_begin_again_did_not_fail(world: World) -> None:
    (fact,) = world.observe(USER).allocations.value  # type: ignore[union-attr]
    names = ("Started", "Restart Signaled", "Terminated", "Restarting")  # as on Nomad 1.10.5
    events = tuple(TaskEvent(name, "Exit Code: 0", world.now) for name in names)
    signalled = msgspec.structs.replace(fact, events=events, client=ClientStatus.PENDING)
    assert task_failure_reason(signalled) is None
    by_itself = msgspec.structs.replace(signalled, events=(events[0], *events[2:]))
    assert task_failure_reason(by_itself) == Reason.TASK_FAILED
    again = msgspec.structs.replace(signalled, events=(*events[:3], events[0], events[2]))
    assert task_failure_reason(again) == Reason.TASK_FAILED


def test_a_second_wish_restarts_again(world: World) -> None:
    for count in (1, 2):
        world.ask_for_restart(USER)
        settle(world, USER, 20)
        (allocation,) = world.allocations
        assert (allocation.restarts, allocation.client) == (count, ClientStatus.RUNNING)
