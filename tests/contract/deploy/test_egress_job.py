"""nomad/egress.nomad.hcl on a real Nomad, with a plain process in the image's place: keys, start, upgrade."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.guard_wire import Ask, Upstream
from core.status_server import listening
from sandbox.agents.task_processes import end_all, taken_over, unmount_below
from sandbox.free_ports import free_port
from sandbox.tether import TetheredProcess
from tests.contract.deploy.forced import forced
from tests.contract.jobspec.conftest import Nomad, until
from tests.integration.egress.conftest import LOGIN, PASSWORD
from tests.integration.egress.doubles import Chip, Socks5, echo, knock, serving
from tests.integration.egress.process import HttpApi
from tests.real_agents import require_programs
from tests.unit.egress.fakes import ALLOCATION, CHIP, FakeApi, route

SHIPPED = Path(__file__).resolve().parents[3] / "nomad"
JOB = SHIPPED / "egress.nomad.hcl"
JOB_ID = "wahafleet-egress"
VARIABLE = f"nomad/jobs/{JOB_ID}"
SECRET = "0123456789abcdef0123456789abcdef"
SET = {"image": "wahafleet:test", "api_url": "http://127.0.0.1:1"}
WAHAFLEET = str(Path(sys.executable).with_name("wahafleet"))


@pytest.fixture(scope="module")
def nomad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    """server.hcl and client.hcl in one process, without ACLs and with raw_exec."""
    binary = require_programs("nomad")
    folder = tmp_path_factory.mktemp("egress-job")
    laid_over, address = forced(folder, plugin=[{"raw_exec": {"config": {"enabled": True}}}])
    for name in ("server.hcl", "client.hcl"):
        # Nothing that is laid over can switch it off again.
        text, count = re.subn(r"^acl \{.*?^\}", "", (SHIPPED / name).read_text("utf-8"), flags=re.M | re.S)
        assert count == 1
        (folder / name).write_text(text, "utf-8")
    files = (folder / "server.hcl", folder / "client.hcl", laid_over)
    argv = [binary, "agent", *(f"-config={file}" for file in files)]
    with TetheredProcess.start(argv, log=folder / "log", cwd=folder):
        calls = Nomad(address)

        def ready() -> Any:
            try:
                nodes = calls("GET", "/v1/nodes")
                return bool(calls("GET", "/v1/operator/keyring/keys")) and [
                    one for one in nodes if one["Status"] == "ready"
                ]
            except (httpx.HTTPError, AssertionError):
                return None

        until("a ready client", ready, 60)
        yield calls
        calls.close()
    # An agent that ends leaves its tasks running.
    end_all(set(taken_over(folder)))
    unmount_below(folder)


def nomad_cli(nomad: Nomad, *arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [require_programs("nomad"), *arguments],
        env={"NOMAD_ADDR": nomad.address, "PATH": "/usr/bin:/bin"},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 1), f"{arguments}: {done.stdout} {done.stderr}"
    return done.stdout + done.stderr


def parsed(nomad: Nomad, **variables: str) -> dict[str, Any]:
    given = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (SET | variables).items())
    body = {"JobHCL": JOB.read_text(), "Variables": given, "Canonicalize": True}
    job: dict[str, Any] = nomad("POST", "/v1/jobs/parse", body)
    return job


def as_process(job: dict[str, Any], **env: str) -> dict[str, Any]:
    """The same job with the installed command in the image's place, on ports that are free here."""
    (group,) = job["TaskGroups"]
    (task,) = group["Tasks"]
    task["Driver"], task["Config"] = "raw_exec", {"command": WAHAFLEET, "args": ["egress"]}
    status = free_port()
    group["Networks"][0]["ReservedPorts"][0]["Value"] = status
    group["Services"] = None  # no Consul here
    task["Env"] |= {"WAHAFLEET_GUARD_STATUS_LISTEN": f"127.0.0.1:{status}"} | env
    return job


def test_nomad_takes_the_file_and_would_place_it_on_each_host_one_after_another(nomad: Nomad) -> None:
    told = nomad_cli(
        nomad, "job", "validate", *(f"-var={name}={value}" for name, value in SET.items()), str(JOB)
    )
    assert "Job validation successful" in told
    job = parsed(nomad)
    assert (job["Type"], job["ID"]) == ("system", JOB_ID)
    assert (job["Update"]["MaxParallel"], job["Update"]["Stagger"]) == (1, 30 * 10**9)
    plan = nomad("POST", f"/v1/job/{JOB_ID}/plan", {"Job": as_process(job), "Diff": False})
    assert plan["FailedTGAllocs"] is None
    assert plan["Annotations"]["DesiredTGUpdates"]["guard"]["Place"] == 1


def give_keys(nomad: Nomad, *node_ids: str) -> None:
    """As the head of the file says."""
    keys = subprocess.run(
        [WAHAFLEET, "guard", "keys", *node_ids],
        env={"WAHAFLEET_GUARD_SECRET": SECRET, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    nomad_cli(nomad, "var", "put", "-force", "-in", "json", VARIABLE, "-", text=keys)


def allocation(nomad: Nomad) -> dict[str, Any] | None:
    found = sorted(nomad("GET", f"/v1/job/{JOB_ID}/allocations"), key=lambda one: one["CreateIndex"])
    return found[-1] if found else None


@asynccontextmanager
async def far_side(node_id: str) -> AsyncIterator[tuple[FakeApi, Socks5, str]]:
    api, socks = FakeApi(), Socks5()
    app = HttpApi(api, node_id, node_key(SECRET.encode(), node_id))
    async with (
        serving(echo) as echo_port,
        serving(socks) as socks_port,
        listening(app, "127.0.0.1:0", setting="(test)") as url,
    ):
        assert url is not None
        socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", echo_port)
        api.current[ALLOCATION] = 1
        api.routes = [route(upstream=Upstream("socks5", "127.0.0.1", socks_port, LOGIN, PASSWORD, "generic"))]
        yield api, socks, url


async def opened(port: int, node_id: str) -> Chip:
    """A tunnel, as soon as there is one."""
    key = node_key(SECRET.encode(), node_id)
    user, password = chip_user(CHIP, ALLOCATION), chip_password(key, CHIP, ALLOCATION, 1)
    async with asyncio.timeout(60):
        while True:
            try:
                chip = await knock(("127.0.0.1", port), user, password)
                if chip.status == 200:
                    return chip
                chip.close()
            except (OSError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(0.05)


async def test_a_guard_waits_for_its_key_runs_and_is_upgraded(nomad: Nomad) -> None:
    (node,) = nomad("GET", "/v1/nodes")
    node_id, port = node["ID"], free_port()
    async with far_side(node_id) as (api, socks, url):
        env = {"WAHAFLEET_GUARD_LISTEN": f"127.0.0.1:{port}", "WAHAFLEET_GUARD_API_URL": url}
        first = as_process(parsed(nomad), **env)
        nomad("PUT", "/v1/jobs", {"Job": first})
        try:
            # Another node's key alone: this guard is not given any.
            await asyncio.to_thread(give_keys, nomad, ALLOCATION)
            await asyncio.sleep(3)
            assert api.heard == []
            await asyncio.to_thread(give_keys, nomad, ALLOCATION, node_id)
            chip = await opened(port, node_id)
            assert await chip.said(b"hello") == b"hello"

            # An upgrade: the old one gives back what it holds, and its successor takes it up.
            second = as_process(parsed(nomad, tunnels="1999"), **env)
            nomad("PUT", "/v1/jobs", {"Job": second})
            assert await chip.is_cut(30)
            cut_at = time.monotonic()
            chip.close()
            again = await opened(port, node_id)
            gap_s = time.monotonic() - cut_at
            assert await again.said(b"hello") == b"hello"
            again.close()
            sys.stdout.write(f"a host's gap while its guard is upgraded: {gap_s:.2f} s\n")
            assert Ask(ALLOCATION, 1) in api.closed
            assert {login.username for login in socks.logins} == {LOGIN}
            # Far below a lease's life: nothing had to run out.
            assert gap_s < 30
        finally:
            nomad("DELETE", f"/v1/job/{JOB_ID}?purge=true")
            await asyncio.to_thread(
                until,
                "the guard has ended",
                lambda: (
                    (found := allocation(nomad)) is None
                    or found["ClientStatus"] in ("complete", "failed", "lost")
                ),
            )
