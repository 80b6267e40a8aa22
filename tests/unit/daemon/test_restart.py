"""Restart of a container by request, by the real daemon on fakes."""

from __future__ import annotations

import asyncio

from core.domain.facts import AllocationFact, ClientStatus
from core.domain.names import session_name
from core.errors import Missing, StaleWrite, Unavailable
from tests.unit.daemon.system import C1, U1, Daemon, World, scenario

CALL = "nomad.restart_allocation"


async def connected(world: World) -> AllocationFact:
    world.store.add_chip(U1, C1)
    world.store.on_news = lambda _channel, user: world.waha.tell(user)
    await world.until(lambda: world.phase() == ("qr", None))
    session = world.waha.sessions[U1][session_name(C1)]
    session.me, session.status = "5511999999999@c.us", type(session.status).WORKING
    world.waha.tell(U1)
    await world.until(lambda: world.phase() == ("connected", None))
    (allocation,) = world.nomad.allocs[world.job()]
    return allocation


def task(world: World) -> AllocationFact:
    (allocation,) = world.nomad.allocs[world.job()]
    return allocation


def is_back(world: World) -> bool:
    session = world.waha.sessions[U1][session_name(C1)]
    return (
        world.container() == ("ready", None)
        and world.phase() == ("connected", None)
        and session.status.value == "WORKING"
        and world.store.containers[U1].observed.restarted_generation > 0
    )


@scenario
async def test_a_wish_restarts_the_task_once_and_the_chip_comes_back(world: World) -> None:
    async with Daemon(world).running():
        before = await connected(world)
        starts = world.waha.sessions[U1][session_name(C1)].starts
        wish = world.store.restart(U1)
        await world.until(lambda: world.container()[1] == "restarting")
        await world.until(lambda: is_back(world))
        await asyncio.sleep(300)
    after = task(world)
    assert (after.id, after.port, after.restarts) == (before.id, before.port, 1)
    assert world.faults.count(CALL) == 1
    row = world.store.containers[U1].observed
    assert (row.restarted_generation, row.restart_mark) == (wish, None)
    assert world.waha.sessions[U1][session_name(C1)].starts == starts + 1


@scenario
async def test_a_lost_answer_restarts_nothing_twice(world: World) -> None:
    async with Daemon(world).running():
        await connected(world)
        world.faults.after[CALL] = Unavailable("nomad", "no complete answer in time")
        world.store.restart(U1)
        await world.until(lambda: is_back(world))
        await asyncio.sleep(300)
    assert task(world).restarts == 1
    assert world.faults.count(CALL) == 1


@scenario
async def test_a_call_that_does_not_arrive_is_sent_until_it_does(world: World) -> None:
    async with Daemon(world).running():
        await connected(world)
        world.faults.before[CALL] = Unavailable("nomad", "no answer")
        world.store.restart(U1)
        await world.until(lambda: world.faults.count(CALL) >= 3)
        assert task(world).restarts == 0
        del world.faults.before[CALL]
        await world.until(lambda: is_back(world))
    assert task(world).restarts == 1


@scenario
async def test_a_task_that_does_not_run_at_this_moment_is_looked_at_again(world: World) -> None:
    async with Daemon(world).running():
        await connected(world)
        world.faults.before[CALL] = StaleWrite("nomad", "the task does not run at this moment")
        world.store.restart(U1)
        await world.until(lambda: world.faults.count(CALL) >= 2)
        world.faults.before[CALL] = Missing("nomad", "Unknown allocation")
        await world.until(lambda: world.faults.count(CALL) >= 4)
        del world.faults.before[CALL]
        await world.until(lambda: is_back(world))
    assert task(world).restarts == 1


@scenario
async def test_a_wish_for_what_ended_meanwhile_is_answered_by_its_successor(world: World) -> None:
    daemon = Daemon(world)
    async with daemon.running():
        old = await connected(world)
        world.faults.down("nomad")
        wish = world.store.restart(U1)
        await asyncio.sleep(5)
        world.nomad.edit(old.id, client=ClientStatus.FAILED)
        world.nomad.background(world.nomad.place(world.job()))
        world.faults.up("nomad")
        await world.until(lambda: world.store.containers[U1].observed.restarted_generation == wish)
    assert world.faults.count(CALL) == 0
