"""Tokens: what the policy of ours grants and what it refuses, and how Nomad says so.

The real one is a server without hosts, so nothing is placed here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.agents.nomad_agent import NomadAgent
from tests.contract.nomad.cluster import Cluster
from tests.contract.nomad.conftest import DOUBLE_RELEASE
from tests.contract.nomad.recorder import ConsulRecorder
from tests.real_agents import require_programs

POLICY = Path(__file__).parents[3] / "nomad" / "policies" / "daemon.hcl"
READER = 'namespace "default" { capabilities = ["list-jobs", "read-job"] }'
JOB = "waha_plus_user_contract"
NOBODY = "11111111-2222-3333-4444-555555555555"
DENIED = (403, "Permission denied")


def _patience(path: str) -> float:
    return 1.0 if path.startswith("/v1/event/stream") else 20.0


def _first_bytes(reply: httpx.Response) -> str:
    """What a stream says within a second; "" when it is silent."""
    try:
        return next(reply.iter_text())
    except httpx.ReadTimeout:
        return ""


class Tokens:
    """An agent with ACLs, and three tokens: root may everything, daemon what our policy says, reader only reads."""

    def __init__(self, url: str, kind: str, version: str, secrets: dict[str, str]) -> None:
        self.url = url
        self.kind = kind
        self.version = version
        self._secrets = secrets

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    def call(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        token = self._secrets.get(who, who)
        headers = {"X-Nomad-Token": token} if token else {}
        with httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(20, read=_patience(path)),
            trust_env=False,
            headers=headers,
        ) as http:
            if path.startswith("/v1/event/stream"):
                with http.stream(method, path) as reply:
                    if reply.status_code != 200:
                        reply.read()
                        return reply
                    return httpx.Response(200, text=_first_bytes(reply))
            return http.request(method, path, json=body)

    def seen(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
        reply = self.call(who, method, path, body)
        return reply.status_code, reply.text

    def job(self) -> dict[str, Any]:
        """A job that nothing is placed for."""
        recorder = ConsulRecorder()
        try:
            cluster = Cluster(self.url, self.kind, self.version, recorder)
            job = cluster.job(JOB, job={"Datacenters": ["nowhere"]})
            cluster.http.close()
            return job
        finally:
            recorder.close()


@pytest.fixture(scope="module", params=["double", "real"])
def _tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    folder = tmp_path_factory.mktemp(f"acl-{request.param}")
    if request.param == "real":
        require_programs("nomad")
        with NomadAgent.start(folder, name="server", acl=True) as agent:
            yield _bootstrapped(agent.url, agent.version)
        return
    reader = folder / "reader.hcl"
    reader.write_text(READER)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sandbox.nomad_double", "--port", "0", "--data", str(folder / "data")),
            *("--nomad-version", DOUBLE_RELEASE, "--namespace", "other"),
            *("--policy", "daemon", str(POLICY), "--policy", "reader", str(reader)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NOMAD_DOUBLE_TOKEN": "root"},
    )
    assert process.stdout is not None
    with process, process.stdout:
        url = json.loads(process.stdout.readline())["address"]
        yield Tokens(url, "double", DOUBLE_RELEASE, {"root": "root", "daemon": "daemon", "reader": "reader"})
        process.terminate()
        assert process.wait(20) == 0


def _bootstrapped(url: str, version: str) -> Tokens:
    root = httpx.post(f"{url}/v1/acl/bootstrap", json={}, trust_env=False, timeout=20).json()["SecretID"]
    tokens = Tokens(url, "real", version, {"root": root})
    secrets = {"root": root}
    for name, rules in (("daemon", POLICY.read_text()), ("reader", READER)):
        made = tokens.call("root", "PUT", f"/v1/acl/policy/{name}", {"Name": name, "Rules": rules})
        assert made.status_code == 200, made.text
        body = {"Name": name, "Type": "client", "Policies": [name]}
        secrets[name] = tokens.call("root", "PUT", "/v1/acl/token", body).json()["SecretID"]
    made = tokens.call("root", "PUT", "/v1/namespace/other", {"Name": "other"})
    assert made.status_code == 200, made.text
    return Tokens(url, "real", version, secrets)


@pytest.fixture
def cluster(_tokens: Tokens, record_property: Callable[[str, object], None]) -> Iterator[Tokens]:
    if _tokens.kind == "real":
        record_property("nomad_version", _tokens.version)
    yield _tokens
    for namespace in ("default", "other"):
        _tokens.call("root", "DELETE", f"/v1/job/{JOB}?purge=true&namespace={namespace}")
    _tokens.call("root", "DELETE", f"/v1/var/nomad/jobs/{JOB}")


def test_our_policy_grants_what_the_daemon_does(cluster: Tokens) -> None:
    job = cluster.job()
    for method, path, body in (
        ("PUT", f"/v1/var/nomad/jobs/{JOB}?cas=0", {"Items": {"a": "1"}}),
        ("GET", f"/v1/var/nomad/jobs/{JOB}", None),
        ("GET", "/v1/vars?prefix=nomad/jobs/waha_plus_user_&per_page=10", None),
        ("PUT", "/v1/jobs", {"Job": job}),
        ("PUT", f"/v1/job/{JOB}/plan", {"Job": job}),
        ("PUT", "/v1/validate/job", {"Job": job}),
        ("GET", "/v1/jobs?prefix=waha_plus_user_&per_page=10", None),
        ("GET", f"/v1/job/{JOB}", None),
        ("GET", f"/v1/job/{JOB}/allocations?all=true", None),
        ("GET", f"/v1/job/{JOB}/evaluations", None),
        ("GET", "/v1/allocations?resources=true&task_states=false&per_page=10", None),
        ("PUT", f"/v1/job/{JOB}/evaluate", {"JobID": JOB}),
        ("GET", "/v1/nodes", None),
        ("GET", "/v1/event/stream?topic=Job&topic=Allocation&topic=Evaluation&topic=Node", None),
        ("GET", "/v1/namespaces", None),
        ("GET", "/v1/namespace/default", None),
        ("GET", "/v1/status/leader", None),
        ("GET", "/v1/agent/members", None),
        ("DELETE", f"/v1/job/{JOB}", None),
        ("DELETE", f"/v1/var/nomad/jobs/{JOB}", None),
    ):
        reply = cluster.call("daemon", method, path, body)
        assert reply.status_code in (200, 204), (method, path, reply.text)


def test_it_grants_nothing_else(cluster: Tokens) -> None:
    job = cluster.job()
    for method, path, body in (
        ("GET", "/v1/jobs?namespace=other", None),
        ("GET", "/v1/jobs?namespace=nowhere", None),
        ("GET", "/v1/job/x?namespace=other", None),
        ("GET", "/v1/allocations?namespace=other", None),
        ("GET", "/v1/evaluations?namespace=other", None),
        ("GET", "/v1/var/nomad/jobs/else", None),
        ("PUT", "/v1/var/nomad/jobs/else", {"Items": {"a": "1"}}),
        ("DELETE", "/v1/var/nomad/jobs/else", None),
        ("PUT", f"/v1/var/nomad/jobs/{JOB}?namespace=other", {"Items": {"a": "1"}}),
        ("PUT", "/v1/jobs?namespace=other", {"Job": job}),
        ("DELETE", "/v1/job/x?namespace=other", None),
        ("PUT", f"/v1/node/{NOBODY}/eligibility", {"Eligibility": "eligible"}),
        ("PUT", f"/v1/node/{NOBODY}/drain", {"DrainSpec": None}),
        ("GET", "/v1/agent/self", None),
        ("PUT", "/v1/system/gc", None),
        ("GET", "/v1/namespace/other", None),
        ("GET", "/v1/operator/scheduler/configuration", None),
    ):
        assert cluster.seen("daemon", method, path, body) == DENIED, (method, path)
    assert cluster.seen("daemon", "GET", f"/v1/var/nomad/jobs/{JOB}-none") == (404, "variable not found")


def test_a_stream_that_the_token_may_not_read(cluster: Tokens) -> None:
    # 2.0.5 answers 200 and then nothing at all, not even the empty line that every other stream begins with.
    refused = (200, "") if cluster.release >= (2,) else DENIED
    for who, path in (
        ("daemon", "/v1/event/stream?topic=Job&namespace=other"),
        ("daemon", "/v1/event/stream?topic=Job&namespace=*"),
        ("daemon", "/v1/event/stream"),
        ("reader", "/v1/event/stream?topic=Node"),
        ("", "/v1/event/stream?topic=Job"),
        (NOBODY, "/v1/event/stream?topic=Job"),
    ):
        assert cluster.seen(who, "GET", path) == refused, (who, path)
    for who, path in (
        ("daemon", "/v1/event/stream?topic=Job&topic=Node"),
        ("reader", "/v1/event/stream?topic=Job"),
    ):
        status, text = cluster.seen(who, "GET", path)
        assert (status, text[:2]) == (200, "{}"), (who, path)


def test_lists_are_shortened_without_a_word(cluster: Tokens) -> None:
    job = cluster.job()
    for namespace in ("default", "other"):
        made = cluster.call("root", "PUT", f"/v1/jobs?namespace={namespace}", {"Job": job})
        assert made.status_code == 200, made.text
    cluster.call("root", "PUT", f"/v1/var/nomad/jobs/{JOB}", {"Items": {"a": "1"}})
    for who, number in (("root", 2), ("daemon", 1), ("reader", 1)):
        assert len(cluster.call(who, "GET", "/v1/jobs?namespace=*").json()) == number, who
    assert [one["Name"] for one in cluster.call("daemon", "GET", "/v1/namespaces").json()] == ["default"]
    assert [one["Path"] for one in cluster.call("daemon", "GET", "/v1/vars").json()] == [f"nomad/jobs/{JOB}"]
    for who in ("reader", ""):
        assert cluster.seen(who, "GET", "/v1/vars") == (200, "[]"), who


def test_a_token_that_only_reads(cluster: Tokens) -> None:
    for method, path, body in (
        ("GET", "/v1/nodes", None),
        ("GET", f"/v1/var/nomad/jobs/{JOB}", None),
        ("PUT", "/v1/jobs", {"Job": cluster.job()}),
        ("GET", "/v1/agent/members", None),
        ("PUT", "/v1/jobs/parse", {"JobHCL": 'job "x" {}'}),
    ):
        assert cluster.seen("reader", method, path, body) == DENIED, (method, path)


def test_no_token_and_one_that_nobody_knows(cluster: Tokens) -> None:
    for who in ("", NOBODY):
        for path in ("/v1/jobs", "/v1/nodes"):
            assert cluster.seen(who, "GET", path) == DENIED, path
        for path in ("/v1/status/leader", "/v1/agent/health", "/v1/regions"):
            assert cluster.call(who, "GET", path).status_code == 200, path
    told = "Permission denied" if cluster.release >= (2,) else "ACL token not found"
    assert cluster.seen(NOBODY, "GET", "/v1/agent/self") == (403, told)
    assert cluster.seen(NOBODY, "GET", "/v1/vars") == DENIED
