"""Real Nomad agents as child processes: a server, hosts that belong to it, or both in one.

Everything stays on the loopback: own configuration and data, free ports, no update check. An agent that is
told to end leaves its tasks running, as Nomad means it (`leave_on_terminate = false`), so `stop` ends what
the agent started and left behind. Started again on the same folder the agent brings those tasks back.
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

from sandbox.agents.nomad_config import Agent, Host, write_config
from sandbox.agents.task_processes import descendants, end_all, start_mark, taken_over, unmount_below
from sandbox.free_ports import kept_ports
from sandbox.tether import TetheredProcess, command_line, is_alive, log_tail

_VERSION: Final = re.compile(r"\bv?(\d+\.\d+\.\d+)")
# No proxy that the environment names for the outer world.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class NomadAgentError(Exception):
    """A Nomad agent cannot run. The text is one sentence for the person who started it."""


class NomadAgent:
    """A running agent, owned by this process. Made by `start`."""

    def __init__(self, plan: Agent, version: str, process: TetheredProcess) -> None:
        self.version = version
        self._plan = plan
        self._process = process

    @property
    def url(self) -> str:
        """Base URL of its HTTP API. A host's agent answers for the whole cluster too."""
        return f"http://{self._plan.address}:{self._plan.http}"

    @property
    def rpc(self) -> str:
        """host:port under which hosts reach a server."""
        return f"{self._plan.address}:{self._plan.rpc}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while the agent runs."""
        return self._process.exit_code()

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        name: str = "host-1",
        address: str = "127.0.0.1",
        http_port: int | None = None,
        join: str | None = None,
        host: Host | None = None,
        env: Mapping[str, str] | None = None,
        heartbeat_s: float | None = None,
        acl: bool = False,
        timeout_s: float = 60.0,
    ) -> Self:
        """Start `nomad` of PATH with its data below `folder`; blocks until it does its work.

        Args:
            name: of the node. address: where the agent listens; a loopback address of this machine.
            http_port: of its HTTP API; None takes that of last time, at first a free one.
            join: `rpc` of the server of this host; None makes the agent the one server of a cluster.
            host: what the agent offers to jobs; None for a server that carries none.
            env: what its tasks find in their environment beside what their jobs say (raw_exec).
            acl: a server without a host that answers nobody without a token.
            heartbeat_s: of a server: how soon it gives a silent host up, 2 to 3 times this; None for Nomad's own.

        Raises:
            NomadAgentError: no nomad on PATH, an agent that did not come up, or no Docker engine where the
                driver needs one.
        """
        program = shutil.which("nomad")
        if program is None:
            raise NomadAgentError(
                "there is no `nomad` on PATH; install Nomad 1.10.2 or newer, or use the double (`--nomad double`)."
            )
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        version = _version(program)
        _end_leftover(folder)
        ports = kept_ports(folder, address, ("http", "rpc", "serf"), http=http_port)
        plan = Agent(
            name=name,
            folder=folder,
            address=address,
            join=join,
            host=host,
            heartbeat_s=heartbeat_s,
            acl=acl,
            **ports,
        )
        config = write_config(plan)
        process = TetheredProcess.start(
            [program, "agent", "-config", str(config)],
            log=folder / "agent.log",
            env={**_env(), **(env or {})},
            stop_signal=signal.SIGINT,
        )
        (folder / "agent.pid").write_text(str(process.pid))
        agent = cls(plan, version, process)
        try:
            agent._await_ready(timeout_s)
        except BaseException:
            agent.stop()
            raise
        return agent

    def stop(self, timeout_s: float = 15.0) -> None:
        """End the agent and every task it started, now or in an earlier life. Safe to call again."""
        folder = self._plan.folder
        started = descendants(self._process.pid) if self._process.exit_code() is None else []
        marks = {pid: start_mark(pid) for pid in {*started, *taken_over(folder)}}
        self._process.stop(timeout_s)
        end_all({pid for pid, mark in marks.items() if mark is not None and start_mark(pid) == mark})
        unmount_below(folder)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it. Its tasks live on."""
        self._process.kill()

    def _await_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        log = self._plan.folder / "agent.log"
        while time.monotonic() < deadline:
            if self._process.exit_code() is not None:
                raise NomadAgentError(
                    f"the Nomad agent {self._plan.name} ended at once; its log says:\n{log_tail(log)}"
                )
            if self._ready():
                break
            time.sleep(0.1)
        else:
            raise NomadAgentError(
                f"Nomad was not ready after {timeout_s:g} s; its log ends with:\n{log_tail(log)}"
            )
        if self._plan.host is not None and self._plan.host.driver == "docker":
            self._await_docker()

    def _ready(self) -> bool:
        if not _get(f"{self.url}/v1/status/leader"):
            return False
        host = self._plan.host
        if host is None:
            return True
        node = self._node()
        if node is None or node["Status"] != "ready":
            return False
        # No job with Consul services is placed before the host has noticed its Consul.
        return host.consul is None or "consul.version" in node["Attributes"]

    def _node(self) -> dict[str, Any] | None:
        nodes = _get(f"{self.url}/v1/nodes") or []
        ours = [node["ID"] for node in nodes if node["Name"] == self._plan.name]
        found: list[dict[str, Any]] = [node for one in ours if (node := _get(f"{self.url}/v1/node/{one}"))]
        # A host whose data was removed left a namesake behind, which is down.
        return next((node for node in found if node["Status"] == "ready"), None)

    def _await_docker(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            node = self._node()
            if node is not None and (node["Drivers"] or {}).get("docker", {}).get("Healthy"):
                return
            time.sleep(0.2)
        raise NomadAgentError(
            "Nomad found no Docker engine on this machine; start Docker, or use `--driver raw_exec`."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def nomad_version() -> str | None:
    """The release of the `nomad` on PATH; None without one."""
    program = shutil.which("nomad")
    return _version(program) if program is not None else None


def _version(program: str) -> str:
    told = subprocess.run([program, "version"], capture_output=True, text=True, check=False, env=_env())
    found = _VERSION.search(told.stdout)
    if found is None:
        raise NomadAgentError(f"`{program} version` does not name a release; is it HashiCorp Nomad?")
    return found.group(1)


def _end_leftover(folder: Path) -> None:
    """Stop the agent that a killed owner left in this folder. Its tasks live on and are taken over again."""
    try:
        pid = int((folder / "agent.pid").read_text())
    except (OSError, ValueError):
        return
    for ask, patience_s in ((signal.SIGINT, 10.0), (signal.SIGKILL, 5.0)):
        if not is_alive(pid) or str(folder / "agent.json") not in command_line(pid):
            return
        os.kill(pid, ask)
        deadline = time.monotonic() + patience_s
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    if is_alive(pid):
        raise NomadAgentError(f"the old Nomad agent of {folder} (process {pid}) does not end; stop it first.")


def _env() -> dict[str, str]:
    """Nothing of the caller's own Nomad or Consul may reach an agent of the sandbox."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("NOMAD_", "CONSUL_", "VAULT_"))}


def _get(url: str) -> Any:
    """The decoded answer, None when there is none (yet)."""
    try:
        with _open(url, timeout=2) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None
