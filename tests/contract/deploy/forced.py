"""What a test machine lays over the shipped configuration of an agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sandbox.free_ports import free_ports


def forced(folder: Path, **more: Any) -> tuple[Path, str]:
    """A file in `folder` (loopback and free ports, no Consul, no cloud) with `more`, and the agent's address."""
    http, rpc, serf = free_ports(3)
    settings = {
        "data_dir": str(folder / "data"),
        "bind_addr": "127.0.0.1",
        "advertise": {"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"},
        "ports": {"http": http, "rpc": rpc, "serf": serf},
        "log_level": "WARN",
        "server": {"bootstrap_expect": 1, "raft_multiplier": 1},
        "client": {
            "network_interface": "lo",
            "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
        },
        "consul": {"address": "127.0.0.1:9", "client_auto_join": False, "auto_advertise": False},
    }
    file = folder / "forced.json"
    file.write_text(json.dumps(settings | more), "utf-8")
    return file, f"http://127.0.0.1:{http}"
