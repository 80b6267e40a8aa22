"""How the sandbox configures a real Nomad agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent offers to jobs.

    Attributes:
        ports: first and last dynamic port. Tasks of every host of the sandbox listen on 127.0.0.1, since Nomad
            gives out the addresses that the interface carries (measured on 1.10.5: 127.0.0.2 answers on `lo`
            and is none of them). So hosts of one machine need ranges that do not meet.
        consul: host:port of the Consul agent of this host alone, None for none.
        driver: the one task driver, `raw_exec` or `docker`.
    """

    ports: tuple[int, int]
    consul: str | None = None
    consul_token: str = ""
    driver: str = "raw_exec"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: its name, folder, address and ports. `join`: host:port of its server, None for a server.

    `heartbeat_s` shortens a server's min_heartbeat_ttl and heartbeat_grace (10 s each by default). `acl`: calls
    need tokens, the first of which the one who started the agent has to ask for (/v1/acl/bootstrap).
    """

    name: str
    folder: Path
    address: str
    http: int
    rpc: int
    serf: int
    join: str | None
    host: Host | None
    heartbeat_s: float | None = None
    acl: bool = False


_LOOPBACK: Final = "lo0" if sys.platform == "darwin" else "lo"
_NOBODY: Final = "127.0.0.1:1"
_PLUGINS: Final[dict[str, dict[str, Any]]] = {
    "raw_exec": {"raw_exec": {"config": {"enabled": True}}},
    "docker": {"docker": {"config": {"allow_privileged": False}}},
}


def write_config(agent: Agent) -> Path:
    """The agent's configuration, in JSON, which Nomad reads as it reads HCL."""
    host = agent.host
    config: dict[str, Any] = {
        "name": agent.name,
        "data_dir": str(agent.folder / "data"),
        "bind_addr": agent.address,
        "advertise": dict.fromkeys(("http", "rpc", "serf"), agent.address),
        "ports": {"http": agent.http, "rpc": agent.rpc, "serf": agent.serf},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "leave_on_interrupt": False,
        "log_level": "INFO",
        # Without it a client measures no task (Nomad 1.10.2 and later, GH-25870).
        "telemetry": {"publish_allocation_metrics": True},
        # Without a Consul an address that nobody listens on keeps Nomad from trying the default one.
        "consul": {
            "address": (host and host.consul) or _NOBODY,
            "token": host.consul_token if host else "",
            # Servers are named here, and the agents themselves are no services that anybody looks for.
            "client_auto_join": False,
            "server_auto_join": False,
            "auto_advertise": False,
        },
    }
    if agent.join is None:
        config["server"] = {"enabled": True, "bootstrap_expect": 1}
        if agent.heartbeat_s is not None:
            beat = f"{agent.heartbeat_s}s"
            config["server"] |= {"min_heartbeat_ttl": beat, "heartbeat_grace": beat}
    if agent.acl:
        config["acl"] = {"enabled": True}
    if host is not None:
        config["client"] = _client(agent, host)
        config["plugin"] = [_PLUGINS[host.driver]]
    path = agent.folder / "agent.json"
    path.write_text(json.dumps(config, indent=1))
    path.chmod(0o600)
    return path


def _client(agent: Agent, host: Host) -> dict[str, Any]:
    first, last = host.ports
    client: dict[str, Any] = {
        "enabled": True,
        "network_interface": _LOOPBACK,
        "min_dynamic_port": first,
        "max_dynamic_port": last,
        "max_kill_timeout": "60s",
        "preferred_address_family": "ipv4",
        # Else ports go on with ::1 when those of 127.0.0.1 are used up, as in nomad/client.hcl.
        "host_network": [{"ipv6": [{"cidr": "::/0", "reserved_ports": f"{first}-{last}"}]}],
        # Cloud metadata look-ups only cost time here, and a sandbox uses one driver.
        "options": {
            "driver.allowlist": host.driver,
            "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,vault,cni,bridge",
        },
    }
    if agent.join is not None:
        client["servers"] = [agent.join]
    return client
