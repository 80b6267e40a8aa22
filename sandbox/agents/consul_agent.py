"""A real Consul agent as a child process: one server, its own configuration and data, loopback only."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sandbox.tether import TetheredProcess, command_line, is_alive, log_tail

_VERSION: Final = re.compile(r"\bv?(\d+\.\d+\.\d+)")
# No proxy that the environment names for the outer world.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ConsulAgentError(Exception):
    """The Consul agent cannot run. The text is one sentence for the person who started it."""


class ConsulAgent:
    """A running agent that leads its cluster of one, owned by this process. Made by `start`."""

    def __init__(self, folder: Path, http_port: int, version: str, process: TetheredProcess) -> None:
        self.folder = folder
        self.http_port = http_port
        self.version = version
        self._process = process

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        http_port: int | None = None,
        node_name: str = "sandbox",
        timeout_s: float = 30.0,
    ) -> Self:
        """Start `consul` of PATH with its data below `folder`, its HTTP API on `http_port` or a free one.

        Blocks until the agent has elected itself leader, at most `timeout_s`. What it knew in this folder
        it knows again. Raises ConsulAgentError.
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
        port = http_port if http_port is not None else _free_ports(1)[0]
        _write_config(folder, port, node_name)
        log = folder / "log"
        process = TetheredProcess.start(
            [program, "agent", "-config-file", str(folder / "agent.json")], log=log, cwd=folder, env=_env()
        )
        (folder / "agent.pid").write_text(str(process.pid))
        agent = cls(folder, port, version, process)
        try:
            agent._wait_for_leader(timeout_s)
        except BaseException:
            agent.stop()
            raise
        return agent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

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
                    # Leader, and this agent has registered itself: from now on it takes services.
                    if len(json.load(answer)) == 1 and self.exit_code() is None:
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


def _write_config(folder: Path, http_port: int, node_name: str) -> None:
    server, serf = _free_ports(2)
    config = {
        "datacenter": "dc1",
        "node_name": node_name,
        "data_dir": str(folder / "data"),
        "server": True,
        "bootstrap": True,
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        # Everything off that nobody here asks: DNS, gRPC, and the gossip between datacenters.
        "ports": {
            "http": http_port,
            "server": server,
            "serf_lan": serf,
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
        },
        # A server alone needs no patience for the others: elect at once.
        "performance": {"raft_multiplier": 1},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "log_level": "WARN",
    }
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


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, for TCP and for UDP (gossip needs both), all different."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
            held += [tcp, udp]
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for one in held:
            one.close()
    return ports
