"""The daemon as a process of its own: killed with SIGKILL at a named step, started again, the same end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from core.domain.names import job_id
from tests.integration.daemon.conftest import Fleet, has, until

pytestmark = pytest.mark.timeout(90)

RUN = "from core.settings import load; from daemon.main import run; run(load(part='daemon'))"
ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def process(fleet: Fleet, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A daemon, told to end at the end of the block."""
    fds = tuple(int(value) for name, value in env.items() if name.endswith("_FD"))
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        cwd=ROOT,
        env={**os.environ, **fleet.env, **env},
        pass_fds=fds,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(running.wait(), 10)
            except TimeoutError:
                running.kill()
        await running.wait()


@pytest.mark.parametrize(
    "step",
    [
        "effect_done {user} WriteVariables",
        "effect_done {user} RegisterJob",
        "effect_recorded {user} RegisterJob",
        "tries_recorded {user}",
        "effect_done {user} CreateSession",
        "status_written {user}",
    ],
)
async def test_killed_in_the_middle_of_a_create_the_chip_still_gets_its_qr(fleet: Fleet, step: str) -> None:
    user = await fleet.user()
    chip = await fleet.chip(user)
    step_out, step_in = os.pipe()
    ack_out, ack_in = os.pipe()
    env = {"WAHAFLEET_TEST_STEP_FD": str(step_in), "WAHAFLEET_TEST_ACK_FD": str(ack_out)}
    wanted = step.format(user=user).encode()
    async with process(fleet, **env) as killed:
        os.close(step_in)
        os.close(ack_out)
        with os.fdopen(step_out, "rb") as steps:
            while line := await asyncio.to_thread(steps.readline):
                if line.strip() == wanted:
                    break
                os.write(ack_in, b".")
            assert line, "the daemon never came to this step"
            killed.kill()
            assert await killed.wait() == -signal.SIGKILL
        os.close(ack_in)
    await fleet.expire_leases()
    async with process(fleet):
        await until(lambda: fleet.chip_row(chip), has(phase="qr"), 40)
    async with httpx.AsyncClient(base_url=fleet.nomad.url, trust_env=False) as client:
        allocations = (await client.get(f"/v1/job/{job_id(user)}/allocations?all=true")).json()
    assert [a["ClientStatus"] for a in allocations] == ["running"]
    starts = [hook for hook in fleet.hooks if hook["payload"].get("status") == "STARTING"]
    assert len({hook["id"] for hook in starts}) == 1


async def test_sigterm_ends_in_order_and_gives_leases_back(fleet: Fleet) -> None:
    user = await fleet.user()
    chip = await fleet.chip(user)
    async with process(fleet) as first:
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        first.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.wait(), 10) == 0
    second_chip = await fleet.chip(user)
    async with process(fleet):
        # With a lease left behind this would take a minute.
        await until(lambda: fleet.chip_row(second_chip), has(phase="qr"), 15)
