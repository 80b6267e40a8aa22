"""A real Nomad agent (and Consul beside it) for the jobspecs, where the binaries are on PATH."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.free_ports import free_ports
from sandbox.tether import TetheredProcess, log_tail
from tests.real_agents import require_programs


class Nomad:
    """The few calls that the tests make. Fails the test with Nomad's own text."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._http = httpx.Client(base_url=address, timeout=30, trust_env=False)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body)
        if answer.status_code >= 400:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def close(self) -> None:
        self._http.close()


def until(what: str, look: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer of `look`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def _answers(url: str) -> Any:
    try:
        answer = httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return None
    return answer.json() if answer.status_code == 200 else None


def _unfinished(calls: Nomad) -> list[str]:
    listed = calls("GET", "/v1/allocations")
    return [a["ID"] for a in listed if a["ClientStatus"] in ("pending", "running")]


def mounts() -> str:
    """What is mounted on this machine; nothing where there is no /proc."""
    table = Path("/proc/mounts")
    return table.read_text("utf-8") if table.exists() else ""


@pytest.fixture(scope="session")
def binary() -> str:
    return require_programs("nomad")


@pytest.fixture(scope="session")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """HTTP address of a Consul agent, None where there is no binary."""
    program = shutil.which("consul")
    if program is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("consul")
    http, server, lan, wan = free_ports(4)
    config = {
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "disable_update_check": True,
        "ports": {"http": http, "dns": -1, "grpc": -1, "server": server, "serf_lan": lan, "serf_wan": wan},
    }
    (folder / "consul.json").write_text(json.dumps(config), "utf-8")
    argv = [program, "agent", "-dev", "-config-file", str(folder / "consul.json")]
    with TetheredProcess.start(argv, log=folder / "log", cwd=folder):
        until("a Consul leader", lambda: _answers(f"http://127.0.0.1:{http}/v1/status/leader"))
        yield f"127.0.0.1:{http}"


@pytest.fixture(scope="session")
def nomad(binary: str, consul: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    """A server and client in one, with raw_exec, on loopback."""
    folder = tmp_path_factory.mktemp("nomad")
    http, rpc, serf = free_ports(3)
    config: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "bind_addr": "127.0.0.1",
        "advertise": {"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"},
        "ports": {"http": http, "rpc": rpc, "serf": serf},
        "disable_update_check": True,
        "log_level": "WARN",
        "server": {
            "enabled": True,
            "bootstrap_expect": 1,
            "raft_multiplier": 1,
            "default_scheduler_config": {"memory_oversubscription_enabled": True},
        },
        "client": {
            "enabled": True,
            "network_interface": "lo",
            "max_kill_timeout": "75s",
            "memory_total_mb": 16384,
            "cpu_total_compute": 8000,
            "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
        },
        "plugin": {"raw_exec": {"config": {"enabled": True}}},
        "consul": {"address": consul or "127.0.0.1:9", "client_auto_join": False, "auto_advertise": False},
    }
    (folder / "agent.json").write_text(json.dumps(config), "utf-8")
    argv = [binary, "agent", "-config", str(folder / "agent.json")]
    address = f"http://127.0.0.1:{http}"
    with TetheredProcess.start(argv, log=folder / "log", cwd=folder) as agent:

        def ready() -> bool:
            if agent.exit_code() is not None:
                raise AssertionError(f"nomad agent ended:\n{log_tail(folder / 'log')}")
            nodes = _answers(f"{address}/v1/nodes?resources=true") or []
            return any(node["Status"] == "ready" for node in nodes)

        until("a ready Nomad client", ready, 60)
        # A fresh server answers 500 "keyring has not been initialized yet" to variables for a moment.
        until("Nomad's keyring", lambda: _answers(f"{address}/v1/operator/keyring/keys"))
        calls = Nomad(address)
        try:
            yield calls
        finally:
            # Tasks of an ended agent live on, and so do the mounts of their secrets, on which the removal of
            # this folder would fail; only the agent itself takes both away.
            for job in calls("GET", "/v1/jobs"):
                calls("DELETE", f"/v1/job/{job['ID']}?purge=true")
            until("no task left", lambda: not _unfinished(calls))
            calls("PUT", "/v1/system/gc")
            until("no mount left", lambda: str(folder) not in mounts())
            calls.close()


@pytest.fixture
def placing(nomad: Nomad, consul: str | None) -> Nomad:
    """A Nomad that can place jobs with Consul services."""
    if consul is None:
        pytest.skip("no `consul` on PATH: Nomad places no job whose service goes to Consul")

    def seen() -> bool:
        node = nomad("GET", "/v1/nodes")[0]["ID"]
        return "consul.version" in nomad("GET", f"/v1/node/{node}")["Attributes"]

    until("Consul's fingerprint on the node", seen, 45)
    return nomad
