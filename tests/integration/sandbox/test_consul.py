"""Consul as a process: the double, and a real agent when one is on PATH."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from sandbox.agents import consul_agent
from sandbox.agents.consul_agent import ConsulAgent, ConsulAgentError
from sandbox.consul_double import running_consul_double
from sandbox.postgres import scratch_folder
from sandbox.tether import is_alive

REAL = pytest.mark.skipif(shutil.which("consul") is None, reason="no `consul` on PATH")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = scratch_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def put(agent: ConsulAgent, key: str, value: str) -> None:
    assert httpx.put(f"{agent.url}/v1/kv/{key}", content=value, trust_env=False).json() is True


def get(agent: ConsulAgent, key: str) -> str:
    return httpx.get(f"{agent.url}/v1/kv/{key}", params={"raw": ""}, trust_env=False).text


async def test_the_double_inside_of_a_test_makes_trouble_on_demand() -> None:
    async with (
        running_consul_double() as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        running.double.register({"Name": "web"})
        assert len((await client.get("/v1/health/service/web")).json()) == 1
        assert (await client.put("/double/serf-health/critical")).status_code == 200
        assert (await client.get("/v1/health/service/web?passing")).json() == []
        assert (await client.put("/double/serf-health/passing")).status_code == 200
        knobs = (await client.put("/double/knobs", json={"registration_delay_s": 2.5})).json()
        assert knobs["registration_delay_s"] == running.double.knobs.registration_delay_s == 2.5
        assert (await client.put("/double/knobs", json={"bogus": 1})).status_code == 400
        assert (await client.put("/double/freeze/web")).status_code == 200
        await client.put("/v1/agent/service/deregister/web")
        assert len((await client.get("/v1/health/service/web")).json()) == 1
        running.double.knobs.registration_delay_s = 0
        assert (await client.put("/double/thaw/web")).status_code == 200
        assert (await client.get("/v1/health/service/web")).json() == []
        index = int((await client.get("/v1/health/service/web")).headers["X-Consul-Index"])
        assert (await client.put("/double/reset-index")).status_code == 200
        assert int((await client.get("/v1/health/service/web")).headers["X-Consul-Index"]) < index
        assert (await client.put("/double/invalidate-sessions")).status_code == 200
        assert (await client.put("/double/forget")).status_code == 200


async def test_replies_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    async with (
        running_consul_double() as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        await client.get("/v1/status/leader")
        took = []
        for _ in range(20):
            started = time.monotonic()
            await client.get("/v1/status/leader")
            took.append(time.monotonic() - started)
    assert statistics.median(took) < 0.03  # 0.04 is what a delayed acknowledgement costs


async def test_the_double_ends_although_somebody_waits() -> None:
    started = time.monotonic()
    async with httpx.AsyncClient(trust_env=False) as client:
        async with running_consul_double() as running:
            index = (await client.get(f"{running.url}/v1/health/service/web")).headers["X-Consul-Index"]
            request = client.build_request(
                "GET", f"{running.url}/v1/health/service/web", params={"index": index, "wait": "60s"}
            )
            waiting = asyncio.create_task(client.send(request, stream=False))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        answer = await waiting
    assert answer.status_code == 200
    assert time.monotonic() - started < 4


def test_the_double_as_a_process_says_when_it_is_ready_and_ends_when_asked() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox.consul_double", "--port", "0"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        ready = msgspec.json.decode(process.stdout.readline())
        assert ready["ready"] is True
        assert ready["pid"] == process.pid
        leader = httpx.get(f"{ready['url']}/v1/status/leader", trust_env=False)
        assert leader.json() == f"127.0.0.1:{ready['port']}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_double_on_a_busy_port_is_one_sentence() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "sandbox.consul_double", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


@REAL
def test_a_real_agent_knows_its_data_again_after_stop_and_crash(folder: Path) -> None:
    with ConsulAgent.start(folder) as agent:
        put(agent, "k", "1")
        assert agent.exit_code() is None
    assert agent.exit_code() is not None
    agent = ConsulAgent.start(folder)
    try:
        assert get(agent, "k") == "1"
        put(agent, "k", "2")
    finally:
        agent.kill()
    with ConsulAgent.start(folder, http_port=agent.http_port) as again:
        assert again.url == agent.url
        assert get(again, "k") == "2"


@REAL
def test_a_real_agent_ends_with_an_owner_that_was_killed(folder: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path; from sandbox.agents.consul_agent import ConsulAgent\n"
        "agent = ConsulAgent.start(Path(sys.argv[1]))\n"
        "print(agent.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, check=False)
    pid = int(done.stdout)
    with ConsulAgent.start(folder):  # no waiting for the old one: a start must work
        assert not is_alive(pid)


@REAL
def test_a_real_agent_on_a_busy_port_is_told(folder: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(
            ConsulAgentError, match=r"did not start; the end of its log says:[\s\S]*address already in use"
        ):
            ConsulAgent.start(folder, http_port=port)


def test_without_the_program_one_sentence_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConsulAgentError, match=r"no `consul` on PATH; install one .* or use the double"):
        ConsulAgent.start(folder)


def test_settings_of_consul_in_the_environment_do_not_reach_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")
    assert not [name for name in consul_agent._env() if name.startswith("CONSUL_")]
    assert "PATH" in consul_agent._env() or "PATH" not in os.environ
