"""Sessions that no chip explains: told by passes, deleted only after a yes."""

from __future__ import annotations

import msgspec
from structlog.testing import capture_logs

from core.domain.belongings import Kind
from core.domain.facts import WahaStatus
from core.domain.names import (
    database_name,
    main_database,
    session_name,
)
from core.domain.orphans import State
from daemon.observe import Observer
from tests.unit.daemon.fakes import FakeSession
from tests.unit.daemon.system import C1, U1, Daemon, user_number
from tests.unit.janitor.case import CHIP, SETTINGS, Case, scenario


async def _with_a_stranger(case: Case, status: WahaStatus = WahaStatus.STOPPED) -> str:
    """A running container of U1 with a session that no chip explains; a pass has seen it."""
    world, name = case.world, session_name(CHIP)
    world.store.add_chip(U1, C1)
    daemon = Daemon(world)
    async with daemon.running():
        await world.until(lambda: session_name(C1) in world.waha.sessions[U1])
        world.waha.sessions[U1][name] = FakeSession(status)
    snapshot = await world.store.load(U1)
    assert snapshot is not None
    observer = Observer(world.nomad, case.consul, world.waha, world.caches, world.clock, case.outages)
    await case.sessions.heard(snapshot, await observer.observe(snapshot.container))
    return name


@scenario
async def test_a_session_of_no_chip_goes_after_the_yes_and_its_database_after_it(case: Case) -> None:
    name = await _with_a_stranger(case)
    space = case.world.store.containers[U1].namespace
    database = database_name(space, name)
    case.storage.names |= {main_database(space), database, database_name(space, session_name(C1))}
    await case.rounds(1.1)
    rows = {row.found.key for row in (await case.orphans.book()).rows}
    assert rows == {(Kind.SESSION, name, U1), (Kind.DATABASE, database, "main")}
    await case.approve(Kind.DATABASE)
    await case.rounds(0.2)
    assert case.destructive == []  # the session still has it open
    await case.approve(Kind.SESSION)
    await case.rounds(0.2)
    assert case.destructive == ["waha.delete", "storage.drop"]
    assert case.world.waha.sessions[U1].keys() == {session_name(C1)}
    assert case.storage.names == {main_database(space), database_name(space, session_name(C1))}


@scenario
async def test_no_setting_deletes_a_session_that_works(case: Case) -> None:
    case.settings = msgspec.structs.replace(SETTINGS, janitor="remove")
    case.boot()
    name = await _with_a_stranger(case, WahaStatus.WORKING)
    await case.rounds(3)
    assert case.state(Kind.SESSION, name) is State.WAITING
    assert case.destructive == []


@scenario
async def test_a_container_that_does_not_answer_has_no_session_deleted_or_forgotten(case: Case) -> None:
    name = await _with_a_stranger(case)
    await case.rounds(1.1)
    await case.approve(Kind.SESSION)
    case.world.faults.down("waha")
    await case.rounds(2)
    assert case.state(Kind.SESSION, name) is State.REMOVING
    assert case.destructive == []


@scenario
async def test_many_orphans_at_once_are_no_setting_s_business(case: Case) -> None:
    case.settings = msgspec.structs.replace(SETTINGS, janitor="remove")
    case.boot()
    for number in range(8):
        await case.ghost_job(user_number(700 + number))
    with capture_logs() as logs:
        await case.rounds(2)
    told = [line for line in logs if line["event"] == "janitor_held_back"]
    assert [(line["log_level"], line["orphans"]) for line in told] == [("error", {"job": 8, "variables": 8})]
    assert case.destructive == []
    assert {row.state for row in (await case.orphans.book()).rows} == {State.WAITING}
