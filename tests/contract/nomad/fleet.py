"""Two hosts under test and what may befall them: signals to real agents, the double's own paths otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import httpx

from sandbox.agents.nomad_agent import NomadAgent
from sandbox.agents.nomad_config import Host

HEARTBEAT_S = 1.0
"""min_heartbeat_ttl and heartbeat_grace of the fleet: a silent host is given up after two to three of these."""
HOSTS = ("host-1", "host-2")


class Fleet(Protocol):
    """Hosts by name."""

    url: str
    version: str

    def freeze(self, host: str) -> None:
        """The agent stands still, its tasks run on."""
        ...

    def thaw(self, host: str) -> None: ...

    def kill_agent(self, host: str) -> None:
        """The agent dies, its tasks run on."""
        ...

    def start_agent(self, host: str) -> None:
        """A new agent takes over what the dead one left."""
        ...

    def close(self) -> None: ...


class RealFleet:
    """A server and two clients; a frozen or killed client is one whose process was told so."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self._folder = folder
        self._frozen: set[str] = set()
        self._server = NomadAgent.start(folder / "server", name="server", heartbeat_s=HEARTBEAT_S)
        self._agents: dict[str, NomadAgent] = {}
        self._ports = {name: first_port + 10 * number for number, name in enumerate(HOSTS)}
        try:
            for name in HOSTS:
                self.start_agent(name)
        except BaseException:
            self.close()
            raise
        self.url = self._server.url
        self.version = self._server.version

    def freeze(self, host: str) -> None:
        os.kill(self._agents[host].pid, signal.SIGSTOP)
        self._frozen.add(host)

    def thaw(self, host: str) -> None:
        os.kill(self._agents[host].pid, signal.SIGCONT)
        self._frozen.discard(host)

    def kill_agent(self, host: str) -> None:
        self._agents[host].kill()

    def start_agent(self, host: str) -> None:
        first = self._ports[host]
        self._agents[host] = NomadAgent.start(
            self._folder / host, name=host, join=self._server.rpc, host=Host(ports=(first, first + 9))
        )

    def close(self) -> None:
        for host in tuple(self._frozen):
            self.thaw(host)
        for agent in self._agents.values():
            agent.stop()
        self._server.stop()


class DoubleFleet:
    """The double with two simulated hosts."""

    def __init__(self, folder: Path, first_port: int, version: str) -> None:
        beat = str(HEARTBEAT_S)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sandbox.nomad_double", "--port", "0", "--data", str(folder)),
                *("--nomad-version", version, "--hosts", str(len(HOSTS))),
                *("--heartbeat-ttl", beat, "--heartbeat-grace", beat),
                *("--min-port", str(first_port), "--max-port", str(first_port + 9)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url: str = json.loads(self._process.stdout.readline())["address"]
        self.version = version

    def freeze(self, host: str) -> None:
        self._tell(host, "freeze")

    def thaw(self, host: str) -> None:
        self._tell(host, "back")

    def kill_agent(self, host: str) -> None:
        self._tell(host, "kill-agent")

    def start_agent(self, host: str) -> None:
        self._tell(host, "back")

    def close(self) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _tell(self, host: str, verb: str) -> None:
        reply = httpx.put(f"{self.url}/v1/double/host/{host}/{verb}", trust_env=False)
        assert reply.status_code == 200, reply.text
