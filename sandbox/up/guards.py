"""The guards of a sandbox's hosts: which processes, and what each of them is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from core.domain.chip_credentials import node_key
from sandbox.guards import VARIABLE, HostGuard
from sandbox.up.errors import SandboxError

# Hosts; beyond that many the guards share one process.
ONE_PROCESS_EACH: Final = 8


class Host(msgspec.Struct, frozen=True):
    """A host as its Nomad knows it. `address`: that its containers are reached at, and its guard by them."""

    name: str
    node_id: str
    address: str


class GuardPart(msgspec.Struct, frozen=True):
    """One process. `module`: empty = the verb `egress`. `env`: beside the sandbox's own environment."""

    name: str
    module: str
    env: Mapping[str, str]
    listens: str


class _Listed(msgspec.Struct, rename="pascal"):
    name: str
    address: str
    status: str
    id: str = msgspec.field(name="ID")


async def find_hosts(http: httpx.AsyncClient, nomad_url: str) -> list[Host]:
    """The hosts that are ready, by name. Raises SandboxError."""
    try:
        answer = await http.get(f"{nomad_url}/v1/nodes")
        listed = msgspec.json.decode(answer.content, type=list[_Listed])
    except (httpx.HTTPError, msgspec.DecodeError) as error:
        raise SandboxError(f"Nomad does not list its hosts ({error}); start again.") from error
    found = [Host(one.name, one.id, one.address) for one in listed if one.status == "ready"]
    return sorted(found, key=lambda host: (len(host.name), host.name))


def guard_parts(hosts: list[Host], *, port: int, secret: str, api_url: str) -> list[GuardPart]:
    """The processes that guard `hosts`, each host at its own address and `port`. `secret`: WAHAFLEET_GUARD_SECRET."""
    guards = [
        HostGuard(
            listen=f"{host.address}:{port}",
            node_id=host.node_id,
            key=node_key(secret.encode(), host.node_id).hex(),
        )
        for host in hosts
    ]
    told = {"WAHAFLEET_GUARD_API_URL": api_url}
    if len(guards) > ONE_PROCESS_EACH:
        together = told | {VARIABLE: msgspec.json.encode(guards).decode()}
        return [GuardPart("guards", "sandbox.guards", together, f"port {port} of {len(guards)} hosts")]
    return [
        GuardPart(
            f"guard-{number}",
            "",
            told
            | {
                "WAHAFLEET_GUARD_LISTEN": guard.listen,
                "WAHAFLEET_GUARD_STATUS_LISTEN": "127.0.0.1:0",
                "WAHAFLEET_GUARD_NODE_ID": guard.node_id,
                "WAHAFLEET_GUARD_KEY": guard.key,
            },
            guard.listen,
        )
        for number, guard in enumerate(guards, start=1)
    ]
