"""Which guards a sandbox runs, and what each is told: its own node's key and nothing more."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from core.domain.chip_credentials import node_key
from core.settings import load
from sandbox.guards import HostGuard
from sandbox.up.errors import SandboxError
from sandbox.up.guards import ONE_PROCESS_EACH, Host, find_hosts, guard_parts

API = "http://127.0.0.1:8000"
SECRET = "the-secret-of-this-sandbox-0123456789"


def hosts(count: int) -> list[Host]:
    return [
        Host(f"host-{n}", f"{n:08d}-0000-4000-8000-000000000000", f"127.0.0.{n}") for n in range(1, count + 1)
    ]


def test_each_host_has_a_process_that_its_own_settings_start() -> None:
    parts = guard_parts(hosts(3), port=31999, secret=SECRET, api_url=API)
    assert [part.name for part in parts] == ["guard-1", "guard-2", "guard-3"]
    for part, host in zip(parts, hosts(3), strict=True):
        guard = load(dict(part.env), part="egress").guard
        assert (guard.listen, guard.node_id, guard.api_url) == (f"{host.address}:31999", host.node_id, API)
        assert bytes.fromhex(guard.key.reveal()) == node_key(SECRET.encode(), host.node_id)
        assert SECRET not in str(part.env)


def test_guards_of_many_hosts_share_a_process() -> None:
    (part,) = guard_parts(hosts(ONE_PROCESS_EACH + 1), port=31999, secret=SECRET, api_url=API)
    assert (part.name, part.module) == ("guards", "sandbox.guards")
    told = msgspec.json.decode(part.env["SANDBOX_GUARDS"], type=list[HostGuard])
    assert [(one.listen, one.node_id) for one in told] == [
        (f"{host.address}:31999", host.node_id) for host in hosts(ONE_PROCESS_EACH + 1)
    ]
    assert len({one.key for one in told}) == len(told)
    assert told[0].key not in repr(told)
    assert SECRET not in str(part.env)


def nomad(status: int, body: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(status, text=body)))


async def test_hosts_are_those_that_nomad_lists_as_ready_in_the_order_of_their_numbers() -> None:
    listed = [
        {"ID": f"id-{n}", "Name": f"host-{n}", "Address": f"127.0.0.{n}", "Status": status, "Drain": False}
        for n, status in ((10, "ready"), (2, "ready"), (3, "down"), (1, "ready"))
    ]
    async with nomad(200, msgspec.json.encode(listed).decode()) as http:
        found = await find_hosts(http, "http://127.0.0.1:4646")
    assert found == [Host(f"host-{n}", f"id-{n}", f"127.0.0.{n}") for n in (1, 2, 10)]


async def test_a_nomad_that_does_not_say_is_one_sentence() -> None:
    async with nomad(500, "No cluster leader") as http:
        with pytest.raises(SandboxError, match="does not list its hosts"):
            await find_hosts(http, "http://127.0.0.1:4646")
