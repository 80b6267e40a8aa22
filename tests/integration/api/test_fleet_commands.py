"""The operator's verbs over a served API: what they print, and what they leave behind."""

from __future__ import annotations

import json

from tests.integration.api.commands import Run
from tests.integration.api.conftest import Running
from tests.integration.api.fleet import WORKING


async def test_a_container_from_its_making_to_its_end(running: Running, run: Run) -> None:
    person = await running.person()
    assert await run("container", "list") == "no containers"
    assert await run("container", "create", person.email) == f"{person.id} made: absent"
    assert await run("container", "create", person.id) == f"{person.id} was there and is kept: absent"
    chip = (await person.chip())["id"]
    await running.daemon.saw(person.id, port=3109, chips={chip: WORKING})
    listed = await run("container", "list", "--phase", "ready", "--node", "host-1")
    assert person.id in listed
    assert "host-1:3109" in listed
    assert "1 chips" in listed
    assert await run("container", "list", "--phase", "waiting") == "no containers"
    assert [one["user_id"] for one in json.loads(await run("container", "list", "-o", "json"))] == [person.id]
    assert await run("container", "delete", person.email, "--yes") == f"{person.id} removing, with 1 chips"
    assert "Container não encontrado." in await run("container", "delete", person.id, "--yes", code=1)
    assert "phase" in await run("container", "list", "--phase", "running", code=1)


async def test_the_fleet_is_shown_paused_and_resumed(running: Running, run: Run) -> None:
    person = await running.person()
    await person.chip()
    assert "state       running" in await run("fleet", "show")
    plan = await run("fleet", "plan")
    assert [line.split()[1] for line in plan.splitlines()] == ["WriteVariables", "RegisterJob"]
    assert (await run("fleet", "pause", "--reason", "troca de switch")).startswith("paused since ")
    assert await running.daemon.store.is_fleet_paused()
    shown = await run("fleet", "show")
    assert "paused since" in shown
    assert "troca de switch" in shown
    assert (await run("fleet", "plan")).startswith("the fleet is paused")
    assert json.loads(await run("fleet", "plan", "-o", "json"))["paused"]
    assert (await run("fleet", "resume")).startswith("running since ")
    await running.daemon.saw(person.id, port=3109)
    shown = await run("fleet", "show")
    assert "host-1" in shown
    assert "99 ports free" in shown
    assert json.loads(await run("fleet", "show", "-o", "json"))["containers"] == {"ready": 1}
