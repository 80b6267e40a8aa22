"""Namespaces, and tokens that may do what our policy says and nothing else. Answers as Nomad 1.10.5 gave them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.nomad_double import NullServiceRegistrar
from sandbox.nomad_double.clock import VirtualClock
from sandbox.nomad_double.policy import PolicyError, Rights, parse_policy
from tests.unit.nomad_double.conftest import Build, Tasks, World, make_job

DAEMON = (Path(__file__).parents[3] / "nomad" / "policies" / "daemon.hcl").read_text()
READER = 'namespace "default" { capabilities = ["list-jobs", "read-job"] }'
USER = "waha_plus_user_x"
NOBODY = "11111111-2222-3333-4444-555555555555"


class Secured:
    """A double with ACLs on, one job of ours in `default` and a foreign one in `other`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alloc = ""
        self.foreign = ""
        self.node = ""

    async def call(self, token: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"X-Nomad-Token": token} if token else {}
        return await self.world.http.request(method, path, json=body, headers=headers)

    async def seen(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
        reply = await self.call(token, method, path, body)
        return reply.status_code, reply.text


@pytest.fixture
async def secured(
    build: Build, clock: VirtualClock, tasks: Tasks, registrar: NullServiceRegistrar
) -> AsyncIterator[Secured]:
    tokens = {"daemon": (DAEMON,), "reader": (READER,)}
    double = build(token="root", tokens=tokens, namespaces=("default", "other"))
    await double.start()
    world = World(double, clock, tasks, registrar)
    secured = Secured(world)
    for namespace, job_id in (("default", USER), ("other", "foreign")):
        reply = await secured.call(
            "root", "PUT", f"/v1/jobs?namespace={namespace}", {"Job": make_job(job_id)}
        )
        assert reply.status_code == 200, reply.text
    await secured.call("root", "PUT", f"/v1/var/nomad/jobs/{USER}", {"Items": {"a": "1"}})
    await world.settle()
    allocs = (await secured.call("root", "GET", "/v1/allocations?namespace=*")).json()
    secured.alloc, secured.foreign = (
        next(a["ID"] for a in allocs if a["JobID"] == name) for name in (USER, "foreign")
    )
    secured.node = allocs[0]["NodeID"]
    yield secured
    await world.http.aclose()
    await double.stop()


DENIED = (403, "Permission denied")


async def test_the_daemons_policy_grants_what_the_daemon_does(secured: Secured) -> None:
    job = make_job(USER)
    for method, path, body in (
        ("GET", "/v1/jobs", None),
        ("GET", f"/v1/job/{USER}", None),
        ("GET", f"/v1/job/{USER}/allocations?all=true", None),
        ("GET", f"/v1/job/{USER}/evaluations", None),
        ("GET", "/v1/allocations?resources=true&task_states=false&per_page=10", None),
        ("GET", f"/v1/allocation/{secured.alloc}", None),
        ("GET", "/v1/nodes", None),
        ("GET", f"/v1/node/{secured.node}", None),
        ("GET", "/v1/vars?prefix=nomad/jobs/waha", None),
        ("GET", f"/v1/var/nomad/jobs/{USER}", None),
        ("PUT", f"/v1/var/nomad/jobs/{USER}", {"Items": {"a": "2"}}),
        ("PUT", "/v1/jobs", {"Job": job}),
        ("PUT", f"/v1/job/{USER}/plan", {"Job": job}),
        ("PUT", "/v1/validate/job", {"Job": job}),
        ("PUT", f"/v1/job/{USER}/evaluate", {"JobID": USER}),
        ("GET", f"/v1/client/allocation/{secured.alloc}/stats", None),
        ("PUT", f"/v1/allocation/{secured.alloc}/stop", None),
        ("GET", "/v1/namespaces", None),
        ("GET", "/v1/status/leader", None),
        ("GET", "/v1/agent/members", None),
        ("DELETE", f"/v1/job/{USER}", None),
        ("DELETE", f"/v1/var/nomad/jobs/{USER}", None),
    ):
        reply = await secured.call("daemon", method, path, body)
        assert reply.status_code in (200, 204), (method, path, reply.text)


async def test_it_grants_nothing_else(secured: Secured) -> None:
    job = make_job(USER)
    for method, path, body in (
        ("GET", "/v1/jobs?namespace=other", None),
        ("GET", "/v1/jobs?namespace=nowhere", None),
        ("GET", "/v1/job/foreign?namespace=other", None),
        ("GET", "/v1/allocations?namespace=other", None),
        ("GET", "/v1/evaluations?namespace=other", None),
        ("GET", "/v1/var/nomad/jobs/else", None),
        ("PUT", "/v1/var/nomad/jobs/else", {"Items": {"a": "1"}}),
        ("DELETE", "/v1/var/nomad/jobs/else", None),
        ("PUT", f"/v1/var/nomad/jobs/{USER}?namespace=other", {"Items": {"a": "1"}}),
        ("PUT", "/v1/jobs?namespace=other", {"Job": job}),
        ("PUT", "/v1/jobs", {"Job": {**job, "Namespace": "other"}}),
        ("DELETE", "/v1/job/foreign?namespace=other", None),
        ("PUT", f"/v1/node/{secured.node}/eligibility", {"Eligibility": "eligible"}),
        ("PUT", f"/v1/node/{secured.node}/drain", {"DrainSpec": None}),
        ("PUT", f"/v1/node/{secured.node}/purge", None),
        ("GET", f"/v1/client/allocation/{secured.foreign}/stats", None),
        ("PUT", f"/v1/allocation/{secured.foreign}/stop", None),
        ("GET", "/v1/event/stream?topic=Job&namespace=other", None),
        ("GET", "/v1/event/stream?topic=Job&namespace=*", None),
        ("GET", "/v1/event/stream", None),
        ("GET", "/v1/agent/self", None),
        ("PUT", "/v1/system/gc", None),
        ("GET", "/v1/namespace/other", None),
        ("GET", "/v1/operator/scheduler/configuration", None),
    ):
        assert await secured.seen("daemon", method, path, body) == DENIED, (method, path)
    assert await secured.seen("daemon", "GET", f"/v1/allocation/{secured.foreign}") == (
        500,
        f'Unknown allocation "{secured.foreign}"',
    )
    assert await secured.seen("daemon", "GET", f"/v1/var/nomad/jobs/{USER}-none") == (
        404,
        "variable not found",
    )


async def test_lists_are_shortened_to_what_the_token_may_see(secured: Secured) -> None:
    async def names(token: str, path: str, field: str) -> list[str]:
        reply = await secured.call(token, "GET", path)
        assert reply.status_code == 200, reply.text
        return [one[field] for one in reply.json()]

    assert await names("root", "/v1/jobs?namespace=*", "ID") == [USER, "foreign"]
    assert await names("daemon", "/v1/jobs?namespace=*", "ID") == [USER]
    assert await names("daemon", "/v1/allocations?namespace=*", "JobID") == [USER]
    assert await names("daemon", "/v1/namespaces", "Name") == ["default"]
    assert await names("daemon", "/v1/vars?namespace=*", "Path") == [f"nomad/jobs/{USER}"]
    # No error tells that variables are missing from these.
    assert await names("reader", "/v1/vars", "Path") == []
    assert await names("", "/v1/vars", "Path") == []


async def test_a_token_that_only_reads(secured: Secured) -> None:
    for method, path in (
        ("GET", "/v1/nodes"),
        ("GET", f"/v1/var/nomad/jobs/{USER}"),
        ("PUT", f"/v1/client/allocation/{secured.alloc}/restart"),
        ("PUT", f"/v1/allocation/{secured.alloc}/stop"),
        ("GET", "/v1/agent/members"),
    ):
        assert await secured.seen("reader", method, path) == DENIED, (method, path)
    logs = f"/v1/client/fs/logs/{secured.alloc}?task=main&type=stdout"
    assert await secured.seen("reader", "GET", logs) == (500, "Permission denied")
    assert (
        await secured.call("reader", "GET", f"/v1/client/allocation/{secured.alloc}/stats")
    ).status_code == 200


async def test_no_token_and_one_that_nobody_knows(secured: Secured) -> None:
    for token in ("", NOBODY):
        for path in ("/v1/jobs", "/v1/nodes", "/v1/event/stream?topic=Job"):
            assert await secured.seen(token, "GET", path) == DENIED
        for path in ("/v1/status/leader", "/v1/agent/health", "/v1/regions"):
            assert (await secured.call(token, "GET", path)).status_code == 200
    assert await secured.seen(NOBODY, "GET", "/v1/agent/self") == (403, "ACL token not found")
    assert await secured.seen(NOBODY, "GET", "/v1/vars") == DENIED


async def test_namespaces_keep_jobs_and_variables_apart(world: World) -> None:
    for namespace in ("default", "nowhere"):
        await world.http.put(f"/v1/var/a?namespace={namespace}", json={"Items": {"in": namespace}})
    assert (await world.get("/v1/var/a"))["Items"] == {"in": "default"}
    assert len(await world.get("/v1/vars", namespace="*")) == 2
    assert await world.get("/v1/jobs", namespace="nowhere") == []
    reply = await world.http.put("/v1/jobs", params={"namespace": "nowhere"}, json={"Job": make_job()})
    assert reply.status_code == 500
    assert 'job "app" is in nonexistent namespace "nowhere"' in reply.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('namespace "x" { capabilities = ["read-job" }', "a string or a list of strings"),
        ('namespace "x" { policy = "much" }', "read, write or deny"),
        ('quota { policy = "read" }', "no rule 'quota'"),
        ('namespace "x" { secrets { } }', "the double knows no secrets"),
        ('namespace "x" {', "not closed"),
        ("}", "a closing brace"),
        ("node = %", "not understood"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        parse_policy(text)


def test_the_most_specific_rule_decides_and_deny_wins() -> None:
    policy = parse_policy(
        """
        namespace "*" { policy = "read" }       # everywhere
        namespace "prod-*" {
          capabilities = ["submit-job"]
          variables {
            path "*"       { capabilities = ["write"] }
            path "app/*"   { capabilities = ["read"] }
            path "app/key" { capabilities = ["deny", "read"] }
          }
        }
        node { policy = "write" }
        """
    )
    rights = Rights((policy,))
    assert rights.in_namespace("other", "read-job")
    assert not rights.in_namespace("prod-1", "read-job")
    assert rights.in_namespace("prod-1", "submit-job")
    assert rights.on_variable("prod-1", "x", "write")
    assert rights.on_variable("prod-1", "x", "list")
    assert not rights.on_variable("prod-1", "app/x", "write")
    assert not rights.on_variable("prod-1", "app/key", "read")
    assert not rights.on_variable("other", "x", "read")
    assert rights.on("node", "read")
    assert not rights.on("agent", "read")
