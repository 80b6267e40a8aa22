"""How the sandbox configures a real Nomad agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec


class HostPlan(msgspec.Struct, frozen=True):
    """One agent: its name, ports and folder."""

    name: str
    folder: Path
    http: int
    rpc: int
    serf: int
    min_dynamic_port: int
    max_dynamic_port: int


_PLUGINS: Final[dict[str, dict[str, Any]]] = {
    "raw_exec": {"raw_exec": {"config": {"enabled": True}}},
    "docker": {"docker": {"config": {"allow_privileged": False}}},
}


def write_config(
    plan: HostPlan,
    server: HostPlan,
    *,
    is_server: bool,
    consul: str | None,
    consul_token: str,
    driver: str,
) -> Path:
    """The agent's configuration, in JSON, which Nomad reads as it reads HCL."""
    local = "127.0.0.1"
    client: dict[str, Any] = {
        "enabled": True,
        "network_interface": "lo",
        "min_dynamic_port": plan.min_dynamic_port,
        "max_dynamic_port": plan.max_dynamic_port,
        "max_kill_timeout": "60s",
        "preferred_address_family": "ipv4",
        # Cloud metadata look-ups only cost time here, and a sandbox uses one driver.
        "options": {
            "driver.allowlist": driver,
            "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,vault,cni,bridge",
        },
    }
    config: dict[str, Any] = {
        "name": plan.name,
        "data_dir": str(plan.folder / "data"),
        "bind_addr": local,
        "advertise": {"http": local, "rpc": local, "serf": local},
        "ports": {"http": plan.http, "rpc": plan.rpc, "serf": plan.serf},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "leave_on_interrupt": False,
        "log_level": "INFO",
        "client": client,
        "plugin": [_PLUGINS[driver]],
        # Without a Consul an address that nobody listens on keeps Nomad from trying the default one.
        "consul": {"address": consul or f"{local}:1", "token": consul_token},
    }
    if is_server:
        config["server"] = {"enabled": True, "bootstrap_expect": 1}
    else:
        client["servers"] = [f"{local}:{server.rpc}"]
    path = plan.folder / "agent.json"
    path.write_text(json.dumps(config, indent=1))
    path.chmod(0o600)
    return path
