"""The janitor on fakes, in virtual time: what it finds, what it never does, and how a removal ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from core.domain.actor import COMMAND_LINE
from core.domain.belongings import Kind
from core.domain.facts import ClientStatus, JobFact
from core.domain.names import (
    database_name,
    main_database,
    session_name,
    variable_path,
)
from core.domain.orphans import State
from core.errors import Rejected, StaleWrite, Unavailable
from core.store.interface import Lease
from daemon.lease import HeldLease
from tests.unit.daemon.system import C1, U1, U2, Daemon, user_number
from tests.unit.janitor.case import CHIP, GHOST, SETTINGS, SPACE, Case, scenario


@scenario
async def test_what_nobody_explains_is_found_and_nothing_of_it_removed_without_a_yes(case: Case) -> None:
    job = await case.ghost_job()
    case.leave_namespace()
    await case.rounds(0.9)
    assert case.state(Kind.JOB, job) is State.SEEN
    await case.rounds(3)
    assert case.state(Kind.JOB, job) is State.WAITING
    assert case.state(Kind.VARIABLES, variable_path(GHOST)) is State.WAITING
    assert case.state(Kind.NAMESPACE, SPACE) is State.WAITING
    namespace, found = case.orphans.row(Kind.NAMESPACE, SPACE), case.orphans.row(Kind.JOB, job)
    assert namespace is not None
    assert found is not None
    assert namespace.found.costs == {"databases": 2, "bytes": 14_000_000}
    assert found.found.costs["port"] == 3100
    assert found.found.costs["node"] == "host-1"
    assert case.destructive == []
    shown = case.metrics.registry.get_sample_value
    assert shown("wahafleet_orphans", {"kind": "job", "state": "waiting"}) == 1
    assert shown("wahafleet_orphans", {"kind": "job", "state": "seen"}) is None
    assert case.house.rounds > 100
    assert case.house.prunings == 4


@scenario
async def test_after_the_yes_it_goes_in_order_and_is_seen_gone(case: Case) -> None:
    job = await case.ghost_job()
    case.leave_namespace()
    await case.rounds(1.1)
    await case.approve(Kind.JOB, Kind.VARIABLES, Kind.NAMESPACE)
    await case.rounds(0.1)
    assert case.world.nomad.held == {}
    assert case.world.nomad.variables == {}
    assert case.storage.names == set()
    calls = case.destructive
    assert calls == ["nomad.stop", "nomad.purge", "nomad.delete_variables", "storage.drop"]
    for kind, name in (
        (Kind.JOB, job),
        (Kind.VARIABLES, variable_path(GHOST)),
        (Kind.NAMESPACE, SPACE),
    ):
        row = case.orphans.row(kind, name)
        assert row is not None
        assert (row.state, row.decided_by) == (State.REMOVED, "ana")


@scenario
async def test_with_the_setting_it_goes_after_the_grace(case: Case) -> None:
    case.settings = msgspec.structs.replace(SETTINGS, janitor="remove")
    case.boot()
    await case.ghost_job()
    case.leave_namespace()
    await case.rounds(0.9)
    assert case.destructive == []
    await case.rounds(0.5)
    assert (case.world.nomad.held, case.world.nomad.variables, case.storage.names) == ({}, {}, set())


@scenario
async def test_what_a_running_fleet_owns_is_never_an_orphan(case: Case) -> None:
    world = case.world
    world.store.add_chip(U1, C1)
    async with Daemon(world).running():
        await world.until(lambda: bool(world.nomad.held))
        space = world.store.containers[U1].namespace
        case.storage.names |= {main_database(space), database_name(space, session_name(C1))}
        await case.rounds(2)
        assert (await case.orphans.book()).rows == ()
        world.store.delete_chip(U1, C1)
        for _ in range(60):
            await case.round()
            await world.clock.sleep(1)
    assert all(row.state is State.SEEN for row in (await case.orphans.book()).rows)


@scenario
async def test_a_listing_that_fails_neither_finds_nor_forgets(case: Case) -> None:
    await case.ghost_job()
    case.leave_namespace()
    case.world.faults.down("nomad")
    case.world.faults.down("storage")
    with capture_logs() as logs:
        await case.rounds(2)
    (told,) = [line for line in logs if line["event"] == "janitor_saw_in_part"]
    assert told["log_level"] == "warning"
    assert "storage main (storage: unavailable)" in told["unread"]
    assert (await case.orphans.book()).rows == ()
    case.world.faults.up("nomad")
    case.world.faults.up("storage")
    await case.rounds(1.1)
    before = [(row.found.key, row.state) for row in (await case.orphans.book()).rows]
    case.world.faults.down("nomad")
    case.world.faults.down("storage")
    await case.rounds(3)
    assert [(row.found.key, row.state) for row in (await case.orphans.book()).rows] == before
    assert case.destructive == []


@scenario
async def test_an_orphan_that_gets_an_owner_is_forgotten_even_after_the_yes(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB, Kind.VARIABLES)
    case.world.store.add_chip(GHOST, CHIP)
    await case.rounds(0.1)
    assert case.destructive == []
    assert case.state(Kind.JOB, job) is None
    assert case.state(Kind.VARIABLES, variable_path(GHOST)) is None


@scenario
async def test_an_owner_that_comes_between_the_rounds_look_and_the_removal_is_respected(case: Case) -> None:
    await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB)
    read = case.world.nomad.allocations

    async def and_then_a_user_comes(job: str) -> Any:
        case.world.store.add_chip(GHOST, CHIP)
        return await read(job)

    case.world.nomad.allocations = and_then_a_user_comes  # type: ignore[assignment, method-assign]
    await case.round()
    assert case.destructive == []


@scenario
async def test_a_job_that_was_registered_again_since_the_yes_waits_for_another(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB)
    case.world.nomad.held[job] = JobFact(999, stopped=False, status="running")
    await case.round()
    row = case.orphans.row(Kind.JOB, job)
    assert row is not None
    assert (row.state, row.decided_by) == (State.WAITING, None)
    assert row.note == "somebody registered the job again since the yes"
    assert case.destructive == []
    await case.round()
    await case.approve(Kind.JOB)
    await case.rounds(0.1)
    assert case.state(Kind.JOB, job) is State.REMOVED


@scenario
async def test_nothing_is_purged_or_dropped_while_an_allocation_may_still_run(case: Case) -> None:
    job = await case.ghost_job()
    case.leave_namespace()
    await case.rounds(1.1)
    (allocation,) = case.world.nomad.allocs[job]
    case.world.nomad.edit(allocation.id, client=ClientStatus.UNKNOWN)
    await case.approve(Kind.JOB, Kind.VARIABLES, Kind.NAMESPACE)
    await case.rounds(1)
    assert case.destructive == ["nomad.stop"]
    for kind, name in ((Kind.JOB, job), (Kind.VARIABLES, variable_path(GHOST)), (Kind.NAMESPACE, SPACE)):
        row = case.orphans.row(kind, name)
        assert row is not None
        assert (row.state, row.attempts) == (State.REMOVING, 0)
        assert row.note
    case.world.nomad.edit(allocation.id, client=ClientStatus.COMPLETE)
    await case.rounds(0.2)
    assert case.destructive == ["nomad.stop", "nomad.purge", "nomad.delete_variables", "storage.drop"]


@scenario
async def test_a_namespace_waits_for_every_job_that_has_no_owner_either(case: Case) -> None:
    await case.ghost_job()
    case.leave_namespace()
    await case.rounds(1.1)
    await case.approve(Kind.NAMESPACE)
    await case.rounds(1)
    row = case.orphans.row(Kind.NAMESPACE, SPACE)
    assert row is not None
    assert row.note is not None
    assert "may use it" in row.note
    assert case.destructive == []


@scenario
async def test_a_namespace_that_grew_since_the_yes_waits_for_another(case: Case) -> None:
    case.leave_namespace()
    await case.rounds(1.1)
    await case.approve(Kind.NAMESPACE)
    case.storage.names.add(database_name(SPACE, session_name(user_number(167))))
    await case.round()
    assert case.state(Kind.NAMESPACE, SPACE) is State.WAITING
    assert case.destructive == []


@scenario
async def test_a_failing_removal_is_tried_for_ever_ever_less_often_and_shown(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    case.world.faults.before["nomad.stop"] = Rejected("nomad", "403 Permission denied", code="forbidden")
    await case.approve(Kind.JOB)
    await case.rounds(3)
    row = case.orphans.row(Kind.JOB, job)
    assert row is not None
    assert row.state is State.FAILED
    assert row.note == "stop_job: nomad: 403 Permission denied"
    assert 10 < row.attempts < 30
    case.world.faults.up("nomad")
    await case.rounds(0.4)
    assert case.state(Kind.JOB, job) is State.REMOVED


@scenario
async def test_a_kept_one_stays_and_a_no_stops_a_removal(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    case.world.faults.before["nomad.stop"] = Unavailable("nomad", "away")
    await case.approve(Kind.JOB)
    await case.round()
    row = case.orphans.row(Kind.JOB, job)
    assert row is not None
    await case.orphans.decide([row.id], approve=False, by="bia", actor=COMMAND_LINE)
    case.world.faults.up("nomad")
    tried = case.world.faults.count("nomad.stop")
    await case.rounds(3)
    assert case.state(Kind.JOB, job) is State.KEPT
    assert case.world.faults.count("nomad.stop") == tried


@scenario
async def test_a_reply_that_was_lost_is_no_harm(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    case.world.faults.after["nomad.stop"] = Unavailable("nomad", "reply lost")
    case.world.faults.after["nomad.purge"] = Unavailable("nomad", "reply lost")
    await case.approve(Kind.JOB)
    await case.rounds(0.5)
    assert case.state(Kind.JOB, job) is State.REMOVED
    assert case.world.faults.count("nomad.stop") == 1


@scenario
async def test_another_pass_over_the_user_keeps_the_janitor_out(case: Case) -> None:
    job = await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB)
    # The same daemon's own pass: its name must not let the janitor in either.
    lease = await case.world.store.claim(GHOST, "d1", 600)
    assert isinstance(lease, Lease)
    await case.rounds(0.1)
    assert case.destructive == []
    await case.world.store.release(lease)
    await case.rounds(0.1)
    assert case.state(Kind.JOB, job) is State.REMOVED


@scenario
async def test_who_lost_the_fleet_s_lease_does_nothing_more(case: Case) -> None:
    await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB)
    lease = await case.world.store.claim("fleet", "d1", 60)
    assert isinstance(lease, Lease)
    held = HeldLease(lease, case.world.clock, deadline_at=case.world.clock.monotonic() + 300)
    listing = await case.lister.read()
    case.world.store.steal("fleet")
    with pytest.raises(StaleWrite):
        await case.janitor.run(held, listing)
    held.lost = True
    assert case.destructive == []


@scenario
async def test_no_effect_starts_when_the_lease_ends_before_it(case: Case) -> None:
    await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB)
    lease = await case.world.store.claim("fleet", "d1", 60)
    assert isinstance(lease, Lease)
    # Room enough to begin a removal, not for the call that it would make.
    held = HeldLease(lease, case.world.clock, deadline_at=case.world.clock.monotonic() + 15.1)
    case.world.faults.slow_s["nomad.job"] = 5.0
    await case.janitor.run(held, await case.lister.read())
    assert case.destructive == []


@scenario
async def test_an_instance_without_a_job_is_taken_out_of_the_catalog(case: Case) -> None:
    job = await case.ghost_job()
    (case.consul.left,) = [list(case.consul._now())]
    case.world.nomad.held.clear()
    case.world.nomad.variables.clear()
    (allocation,) = case.world.nomad.allocs[job]
    case.world.nomad.edit(allocation.id, client=ClientStatus.COMPLETE)
    name = case.consul.left[0].service_id
    await case.rounds(1.1)
    assert case.state(Kind.INSTANCE, name) is State.WAITING
    await case.approve(Kind.INSTANCE)
    await case.rounds(0.1)
    assert case.consul.left == []
    assert case.state(Kind.INSTANCE, name) is State.REMOVED


@scenario
async def test_ports_are_freed_of_what_a_good_list_lacks_and_of_nothing_else(case: Case) -> None:
    job = await case.ghost_job()
    running = case.world.nomad.allocs[job][0].id
    await case.round()
    assert (case.house.rounds, case.house.alive) == (1, {running})
    case.world.faults.down("nomad")
    await case.round()
    assert case.house.rounds == 1
    case.world.faults.up("nomad")
    case.world.nomad.edit(running, client=ClientStatus.LOST)
    await case.round()
    assert case.house.alive == {running}
    case.world.nomad.edit(running, client=ClientStatus.FAILED)
    await case.round()
    assert (case.house.rounds, case.house.alive) == (3, set())


@scenario
async def test_at_rest_it_asks_for_nothing_per_user(case: Case) -> None:
    world = case.world
    for number in range(30):
        world.store.add_chip(user_number(300 + number), user_number(900 + number))
    await case.round()
    before = len(world.faults.calls)
    await case.round()
    calls = world.faults.calls[before:]
    assert len(calls) == 5, calls
    assert U2 not in str(calls)


@scenario
async def test_a_paused_fleet_removes_nothing_and_goes_on_where_it_stood(case: Case) -> None:
    await case.ghost_job()
    await case.rounds(1.1)
    await case.approve(Kind.JOB, Kind.VARIABLES)
    case.world.store.pause_fleet()
    await case.rounds(0.3)
    assert case.world.nomad.held != {}
    assert case.world.faults.count("nomad.stop") == 0
    assert "the fleet is paused" in {row.note for row in (await case.orphans.book()).rows}
    case.world.store.pause_fleet(paused=False)
    await case.rounds(0.3)
    assert (case.world.nomad.held, case.world.nomad.variables) == ({}, {})
