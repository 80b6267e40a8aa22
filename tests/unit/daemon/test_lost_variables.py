"""Somebody deletes a user's Nomad Variables: the sweep notices, a pass writes them again."""

from __future__ import annotations

import asyncio

from core.domain.names import variable_path
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
