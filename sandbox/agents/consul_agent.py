"""A real Consul agent as a child process: its own configuration and data, loopback only.

The first agent of a cluster is its one server; each further host runs an agent of its own that joins it. Two
Nomad clients must not share an agent: each removes the services that it does not know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sandbox.free_ports import kept_ports
from sandbox.tether import TetheredProcess, command_line, is_alive, log_tail

_VERSION: Final = re.compile(r"\bv?(\d+\.\d+\.\d+)")
# No proxy that the environment names for the outer world.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ConsulAgentError(Exception):
    """The Consul agent cannot run. The text is one sentence for the person who started it."""


class ConsulAgent:
    """A running agent, owned by this process. Made by `start`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        address: str,
        ports: Mapping[str, int],
        version: str,
        process: TetheredProcess,
    ) -> None:
        self.folder = folder
        self.http_port = ports["http"]
        self.gossip = f"{address}:{ports['serf_lan']}"
        self.version = version
        self._name = name
        self._address = address
        self._process = process

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        http_port: int | None = None,
        node_name: str = "sandbox",
        address: str = "127.0.0.1",
        join: str | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Start `consul` of PATH with its data below `folder`; what it knew in this folder it knows again.

        Blocks until the cluster has a leader and knows this agent, at most `timeout_s`.

        Args:
            http_port: of its HTTP API; None takes that of last time, at first a free one.
            address: where it listens; a loopback address of this machine.
            join: `gossip` of the cluster's server, which this agent then joins as a client; None makes it
                the one server of a cluster of its own.

        Raises:
            ConsulAgentError: no consul on PATH, or the agent did not come up.
        """
        program = shutil.which("consul")
        if program is None:
            raise ConsulAgentError(
                "there is no `consul` on PATH; install one (tools/install-consul.sh on Debian) "
                "or use the double (`--consul double`)."
            )
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        version = program_version(program)
        _end_leftover(folder)
        ports = kept_ports(folder, address, ("http", "server", "serf_lan"), http=http_port)
        _write_config(folder, ports, node_name, address, join)
        log = folder / "log"
        process = TetheredProcess.start(
            [program, "agent", "-config-file", str(folder / "agent.json")], log=log, cwd=folder, env=_env()
        )
        (folder / "agent.pid").write_text(str(process.pid))
        agent = cls(folder, name=node_name, address=address, ports=ports, version=version, process=process)
        try:
            agent._wait_for_leader(timeout_s)
        except BaseException:
            agent.stop()
            raise
        return agent

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self.http_port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while the agent runs."""
        return self._process.exit_code()

    def stop(self) -> None:
        """End the agent; its data stays. Safe to call again."""
        self._process.stop(timeout_s=15)

    def kill(self) -> None:
        """End as a crash would: SIGKILL."""
        self._process.kill()

    def _wait_for_leader(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if self.exit_code() is not None or time.monotonic() > deadline:
                raise ConsulAgentError(
                    f"the Consul agent in {self.folder} did not start; the end of its log says:\n"
                    + log_tail(self.folder / "log")
                )
            try:
                with _open(f"{self.url}/v1/catalog/nodes", timeout=2) as answer:
                    # A leader, and it knows this agent: from now on the agent takes services.
                    known = {node["Node"] for node in json.load(answer)}
                    if self._name in known and self.exit_code() is None:
                        return
            except (urllib.error.URLError, OSError, ValueError):
                pass
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def program_version(program: str) -> str:
    """`1.8.7` of `consul version`. Raises ConsulAgentError."""
    try:
        said = subprocess.run(
            [program, "version"], capture_output=True, text=True, timeout=20, check=False, env=_env()
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConsulAgentError(f"{program} does not run ({error}); repair it or use the double.") from error
    found = _VERSION.search(said)
    return found.group(1) if found else "unknown"


def _env() -> dict[str, str]:
    """The environment without what would steer the agent from outside."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")}


def _write_config(
    folder: Path, ports: Mapping[str, int], node_name: str, address: str, join: str | None
) -> None:
    config: dict[str, Any] = {
        "datacenter": "dc1",
        "node_name": node_name,
        "data_dir": str(folder / "data"),
        "bind_addr": address,
        "client_addr": address,
        # Everything off that nobody here asks: DNS, gRPC, and the gossip between datacenters.
        "ports": {**ports, "serf_wan": -1, "dns": -1, "grpc": -1},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "log_level": "WARN",
    }
    if join is None:
        # A server alone needs no patience for the others: elect at once.
        config |= {"server": True, "bootstrap": True, "performance": {"raft_multiplier": 1}}
    else:
        config |= {"server": False, "retry_join": [join], "retry_interval": "1s"}
    (folder / "agent.json").write_text(json.dumps(config, indent=2) + "\n")


def _end_leftover(folder: Path) -> None:
    """Stop the agent that a killed owner left in this folder; its watchdog is on its way to do the same."""
    try:
        pid = int((folder / "agent.pid").read_text())
    except (OSError, ValueError):
        return
    for ask, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        if not is_alive(pid) or str(folder / "agent.json") not in command_line(pid):
            return
        os.kill(pid, ask)
        deadline = time.monotonic() + patience_s
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    if is_alive(pid):
        raise ConsulAgentError(
            f"the old Consul agent of {folder} (process {pid}) does not end; stop it first."
        )
