"""Somebody deletes a user's Nomad Variables: the sweep notices, a pass writes them again."""

from __future__ import annotations

import asyncio

from core.domain.names import variable_path
from core.domain.sweep import UserSummary
from core.errors import Unavailable
from tests.unit.daemon.system import C1, U1, Daemon, World, scenario

PATH = variable_path(U1)


async def at_rest(w: World, daemon: Daemon) -> None:
    w.store.add_chip(U1, C1)
    daemon.queue.put(U1)
    await w.until(lambda: w.phase() == ("qr", None))
    await asyncio.sleep(5)


@scenario
async def test_deleted_variables_are_written_again_and_nothing_else_is_done(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        await at_rest(w, daemon)
        registered, written = w.faults.count("nomad.register"), w.nomad.variables.pop(PATH)
        await w.until(lambda: PATH in w.nomad.variables, 2 * daemon.sweep.every_s + 5)
        assert w.nomad.variables[PATH] == written
        await asyncio.sleep(3 * daemon.sweep.every_s)
    assert w.faults.count("nomad.register") == registered
    assert w.faults.count("nomad.write_variables") == 2


@scenario
async def test_a_list_of_variables_that_fails_says_nothing(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        await at_rest(w, daemon)
        w.nomad.variables.pop(PATH)
        lists = w.faults.count("nomad.variable_paths")
        w.faults.before["nomad.variable_paths"] = Unavailable("nomad", "this list alone")
        await asyncio.sleep(3 * daemon.sweep.every_s)
        assert w.faults.count("nomad.variable_paths") > lists
        assert w.faults.count("nomad.write_variables") == 1
        assert PATH not in w.nomad.variables


@scenario
async def test_variables_written_while_a_sweep_reads_its_lists_are_not_lost(w: World) -> None:
    """The other lists are of the moment before; on record the variables are when the users are read."""
    daemon = Daemon(w)
    users = w.store.summaries
    w.faults.slow_s["nomad.register"] = 1.0  # the look behind the first write ends long after the sweep

    async def behind_a_first_write() -> tuple[UserSummary, ...]:
        if not w.nomad.variables:
            w.store.add_chip(U1, C1)
            daemon.queue.put(U1)
            await w.until(lambda: w.faults.count("nomad.register") == 1)
        return await users()

    w.store.summaries = behind_a_first_write  # type: ignore[method-assign]
    async with daemon.running():
        await w.until(lambda: w.phase() == ("qr", None))
        await asyncio.sleep(3 * daemon.sweep.every_s)
    assert w.faults.count("nomad.write_variables") == 1
