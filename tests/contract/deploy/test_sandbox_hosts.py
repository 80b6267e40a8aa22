"""The sandbox's own hosts on real agents: ranges of ports that do not meet, a Consul agent for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.agents.consul_agent import ConsulAgent
from sandbox.agents.nomad_agent import NomadAgent
from sandbox.agents.nomad_config import Host
from sandbox.up.machine import check_hosts
from sandbox.up.plan import real_ports
from tests.contract.jobspec.conftest import until
from tests.real_agents import require_programs

FIRST = (3100, 3101)
COUNT = 5  # one more than two hosts have ports


def job() -> dict[str, Any]:
    task = {
        "Name": "t",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sleep", "args": ["600"]},
        "Resources": {"CPU": 20, "MemoryMB": 10},
        "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1},
    }
    group = {
        "Name": "g",
        "Count": COUNT,
        "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
        "Services": [{"Name": "held", "PortLabel": "http", "Provider": "consul"}],
        "EphemeralDisk": {"SizeMB": 50},
        "Tasks": [task],
    }
    return {"ID": "held", "Name": "held", "Type": "service", "Datacenters": ["*"], "TaskGroups": [group]}


class Hosts:
    """A server and two hosts; `consul[n]` is the agent of host n + 1, the first one Consul's server."""

    def __init__(self, nomad: NomadAgent, consul: list[ConsulAgent]) -> None:
        self.nomad = nomad
        self.consul = consul
        self.http = httpx.Client(timeout=10, trust_env=False)

    def get(self, path: str) -> Any:
        return self.http.get(f"{self.nomad.url}/v1{path}").raise_for_status().json()

    def ports(self) -> dict[str, list[tuple[str, int]]]:
        """(address, port) of each allocation, by host."""
        found: dict[str, list[tuple[str, int]]] = {}
        for one in self.get("/job/held/allocations"):
            full = self.get(f"/allocation/{one['ID']}")
            (port,) = full["AllocatedResources"]["Shared"]["Ports"]
            found.setdefault(full["NodeName"], []).append((port["HostIP"], port["Value"]))
        return {name: sorted(ports) for name, ports in found.items()}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_programs("nomad", "consul")
    check_hosts(2)
    folder = tmp_path_factory.mktemp("hosts")
    with (
        ConsulAgent.start(folder / "consul", node_name="host-1") as first,
        ConsulAgent.start(
            folder / "consul-2", node_name="host-2", address="127.0.0.2", join=first.gossip
        ) as second,
        NomadAgent.start(folder / "server", name="server") as server,
        NomadAgent.start(
            folder / "host-1",
            name="host-1",
            join=server.rpc,
            host=Host(ports=FIRST, consul=first.url.removeprefix("http://")),
        ),
        NomadAgent.start(
            folder / "host-2",
            name="host-2",
            address="127.0.0.2",
            join=server.rpc,
            host=Host(ports=real_ports(FIRST, 2), consul=second.url.removeprefix("http://")),
        ),
    ):
        made = Hosts(server, [first, second])
        made.http.put(f"{server.url}/v1/jobs", json={"Job": job()}).raise_for_status()
        until("every port is taken", lambda: sum(map(len, made.ports().values())) == COUNT - 1, 20)
        yield made
        made.http.close()


def test_ports_of_hosts_do_not_meet_and_none_is_given_out_on_ipv6(hosts: Hosts) -> None:
    assert hosts.ports() == {
        "host-1": [("127.0.0.1", 3100), ("127.0.0.1", 3101)],
        "host-2": [("127.0.0.1", 3102), ("127.0.0.1", 3103)],
    }
    exhausted = [
        failed["DimensionExhausted"]
        for one in hosts.get("/job/held/evaluations")
        for failed in (one.get("FailedTGAllocs") or {}).values()
    ]
    assert {"network: dynamic port selection failed": 2} in exhausted


def test_every_host_registers_at_its_own_consul_agent_and_the_first_one_sees_all(hosts: Hosts) -> None:
    def registered(agent: ConsulAgent) -> set[int]:
        found = hosts.http.get(f"{agent.url}/v1/agent/services").raise_for_status().json()
        return {one["Port"] for one in found.values() if one["Service"] == "held"}

    until(
        "both know their own",
        lambda: [registered(one) for one in hosts.consul] == [{3100, 3101}, {3102, 3103}],
    )

    def seen() -> set[tuple[str, str, int]]:
        listed = (
            hosts.http.get(f"{hosts.consul[0].url}/v1/health/service/held?passing").raise_for_status().json()
        )
        return {(one["Node"]["Node"], one["Service"]["Address"], one["Service"]["Port"]) for one in listed}

    expected = {("host-1", "127.0.0.1", port) for port in FIRST}
    expected |= {("host-2", "127.0.0.1", port) for port in real_ports(FIRST, 2)}
    until("Consul's server lists all of them", lambda: seen() == expected)
