"""The operator's verbs over a served API: what they print, and what they leave behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn

from cli.main import main
from tests.integration.api.conftest import OPERATOR_TOKEN, Running
from tests.integration.api.fleet import WORKING
from tests.polling import eventually

Run = Callable[..., Any]


@asynccontextmanager
async def served(running: Running) -> AsyncIterator[str]:
    """The application on a port of this machine; its lifespan is the test's."""
    config = uvicorn.Config(cast(Any, running.app), port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    async def port() -> int:
        return server.servers[0].sockets[0].getsockname()[1] if server.started else 0

    try:
        yield f"http://127.0.0.1:{await eventually(port, 20)}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def run(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Run]:
    monkeypatch.setenv("WAHAFLEET_OPERATOR_TOKEN", OPERATOR_TOKEN)
    async with served(running) as url:

        async def verb(*arguments: str, code: int = 0) -> str:
            def in_thread() -> int:
                with pytest.raises(SystemExit) as ended:
                    main(["--api", url, *arguments])
                return int(ended.value.code or 0)

            capsys.readouterr()
            found = await asyncio.to_thread(in_thread)
            shown = capsys.readouterr()
            # The application of this process logs to the same place.
            out = "\n".join(line for line in shown.out.splitlines() if "[info " not in line)
            assert found == code, shown.err
            return out if code == 0 else shown.err

        yield verb


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
