"""The shipped agent configuration and ACL policy on a real Nomad, laid over by what a test machine forces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.tether import TetheredProcess, log_tail
from tests.contract.deploy.forced import forced
from tests.contract.jobspec.conftest import until
from tests.real_agents import require_programs

SHIPPED = Path(__file__).resolve().parents[3] / "nomad"
USER_JOB = "waha_plus_user_0b4b1c7e-2f6a-4d55-9c3b-1f2e3d4c5b6a"


class Agent:
    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=10, trust_env=False)
        self.management = ""

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        headers = {"X-Nomad-Token": self.management if token is None else token}
        return self._http.request(method, path, json=body, headers=headers)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """server.hcl and client.hcl in one process, ACLs bootstrapped."""
    binary = require_programs("nomad")
    folder = tmp_path_factory.mktemp("shipped")
    laid_over, address = forced(folder)
    files = (SHIPPED / "server.hcl", SHIPPED / "client.hcl", laid_over)
    argv = [binary, "agent", *(f"-config={file}" for file in files)]
    with TetheredProcess.start(argv, log=folder / "log", cwd=folder) as process:
        calls = Agent(address)

        def bootstrapped() -> bool:
            if process.exit_code() is not None:
                raise AssertionError(f"nomad agent ended:\n{log_tail(folder / 'log')}")
            try:
                answer = calls.call("POST", "/v1/acl/bootstrap", {})
            except httpx.HTTPError:
                return False
            if answer.status_code != 200:
                return False
            calls.management = answer.json()["SecretID"]
            return True

        until("an ACL bootstrap", bootstrapped, 60)
        until("a ready client", lambda: [n for n in calls.get("/v1/nodes") if n["Status"] == "ready"], 60)
        until("Nomad's keyring", lambda: calls.get("/v1/operator/keyring/keys"))
        yield calls
        calls.close()


def test_agent_runs_as_the_files_say(agent: Agent) -> None:
    (listed,) = agent.get("/v1/nodes")
    resources = agent.get(f"/v1/node/{listed['ID']}")["NodeResources"]
    assert (resources["MinDynamicPort"], resources["MaxDynamicPort"]) == (3100, 3199)
    config = agent.get("/v1/agent/self")["config"]
    assert config["Client"]["MaxKillTimeout"] == "75s"
    assert config["DisableUpdateCheck"] is True
    assert config["Server"]["EventBufferSize"] == 2000
    assert config["Client"]["TemplateConfig"]["NomadRetry"]["Attempts"] == 0
    scheduler = agent.get("/v1/operator/scheduler/configuration")["SchedulerConfig"]
    assert scheduler["MemoryOversubscriptionEnabled"] is True
    assert scheduler["SchedulerAlgorithm"] == "spread"
    assert "raw_exec" not in {
        name for name, driver in listed["Drivers"].items() if driver["Detected"] and driver["Healthy"]
    }


def test_no_port_is_given_out_on_ipv6(agent: Agent) -> None:
    (listed,) = agent.get("/v1/nodes")
    networks = agent.get(f"/v1/node/{listed['ID']}")["NodeResources"]["NodeNetworks"]
    addresses = [address for network in networks for address in network["Addresses"] or ()]
    usable = {
        address["Address"]
        for address in addresses
        if not any(
            other["Address"] == address["Address"] and other["ReservedPorts"] == "3100-3199"
            for other in addresses
        )
    }
    assert usable == {"127.0.0.1"}


@pytest.fixture(scope="module")
def daemon_token(agent: Agent) -> str:
    policy = {
        "Name": "wahafleet-daemon",
        "Rules": (SHIPPED / "policies" / "daemon.hcl").read_text("utf-8"),
    }
    applied = agent.call("POST", "/v1/acl/policy/wahafleet-daemon", policy)
    assert applied.status_code == 200, applied.text
    made = agent.call(
        "POST", "/v1/acl/token", {"Name": "daemon", "Type": "client", "Policies": ["wahafleet-daemon"]}
    )
    token: str = made.json()["SecretID"]
    return token


JOB = {
    "ID": USER_JOB,
    "Type": "service",
    "Datacenters": ["nowhere"],
    "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "docker", "Config": {"image": "x:1"}}]}],
}
NEEDED: list[tuple[str, str, Any]] = [
    ("PUT", f"/v1/var/nomad/jobs/{USER_JOB}", {"Items": {"hook_key": "x"}}),
    ("GET", f"/v1/var/nomad/jobs/{USER_JOB}", None),
    ("GET", "/v1/vars?prefix=nomad/jobs/waha_plus_user_", None),
    ("POST", "/v1/jobs/parse", {"JobHCL": 'job "x" {}'}),
    ("PUT", "/v1/jobs", {"Job": JOB}),
    ("POST", f"/v1/job/{USER_JOB}/plan", {"Job": JOB}),
    ("GET", f"/v1/job/{USER_JOB}", None),
    ("GET", f"/v1/job/{USER_JOB}/allocations", None),
    ("GET", f"/v1/job/{USER_JOB}/evaluations", None),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/allocations?resources=true", None),
    ("GET", "/v1/nodes?resources=true", None),
    ("POST", f"/v1/job/{USER_JOB}/evaluate", {"JobID": USER_JOB}),
    ("DELETE", f"/v1/job/{USER_JOB}?purge=true", None),
    ("DELETE", f"/v1/var/nomad/jobs/{USER_JOB}", None),
]
FORBIDDEN: list[tuple[str, str, Any]] = [
    ("GET", "/v1/var/other/secret", None),
    ("PUT", "/v1/var/nomad/jobs/somebody-elses", {"Items": {"a": "b"}}),
    ("GET", "/v1/acl/tokens", None),
    ("GET", "/v1/agent/self", None),
    ("PUT", "/v1/system/gc", None),
    ("POST", "/v1/operator/scheduler/configuration", {}),
]


def test_daemon_token_may_do_what_the_daemon_does(agent: Agent, daemon_token: str) -> None:
    refused = {
        f"{method} {path}": (answer.status_code, answer.text)
        for method, path, body in NEEDED
        if (answer := agent.call(method, path, body, token=daemon_token)).status_code >= 400
    }
    assert refused == {}


def test_daemon_token_may_open_the_event_stream(agent: Agent, daemon_token: str) -> None:
    path = "/v1/event/stream?topic=Allocation&topic=Job&topic=Evaluation&topic=Node"
    with agent._http.stream("GET", path, headers={"X-Nomad-Token": daemon_token}) as stream:
        assert stream.status_code == 200


def test_daemon_token_may_do_nothing_else(agent: Agent, daemon_token: str) -> None:
    told = {
        f"{method} {path}": agent.call(method, path, body, token=daemon_token).status_code
        for method, path, body in FORBIDDEN
    }
    assert told == dict.fromkeys(told, 403)


def test_without_a_token_nothing_is_told(agent: Agent) -> None:
    for method, path, body in NEEDED:
        if path.startswith(("/v1/jobs", "/v1/var")) and method != "GET":
            assert agent.call(method, path, body, token="").status_code in (401, 403), path
