"""Real Nomad agents as child processes: one server that is also the first host, and further hosts if wanted.

Everything stays on the loopback: own configuration and data, free ports, no update check. An agent that is
told to end leaves its tasks running, as Nomad means it (`leave_on_terminate = false`), so `stop` ends what
the agents started and left behind. Started again on the same folder the agents bring those tasks back.
"""

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
from typing import Any, Final, Self

from sandbox.agents.nomad_config import HostPlan, write_config
from sandbox.tether import TetheredProcess, command_line, is_alive, log_tail

_VERSION: Final = re.compile(r"\bv?(\d+\.\d+\.\d+)")
_TASKS_GRACE_S: Final = 3.0
# No proxy that the environment names for the outer world.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class NomadAgentError(Exception):
    """A Nomad agent cannot run. The text is one sentence for the person who started it."""


class NomadAgents:
    """A running cluster of one server and its hosts, owned by this process. Made by `start`."""

    def __init__(self, hosts: list[HostPlan], processes: list[TetheredProcess], version: str) -> None:
        self.hosts = hosts
        self.version = version
        self._processes = processes

    @property
    def url(self) -> str:
        """Base URL of the HTTP API of the server."""
        return f"http://127.0.0.1:{self.hosts[0].http}"

    @property
    def pids(self) -> list[int]:
        """Process ids of the agents, the server first."""
        return [process.pid for process in self._processes]

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._processes[0].pid

    def exit_code(self) -> int | None:
        """None while all agents run, else the exit code of one that ended."""
        codes = (process.exit_code() for process in self._processes)
        return next((code for code in codes if code is not None), None)

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        http_port: int | None = None,
        hosts: int = 1,
        dynamic_ports: tuple[int, int] = (3100, 3199),
        consul_address: str | None = None,
        consul_token: str = "",
        driver: str = "raw_exec",
        timeout_s: float = 60.0,
    ) -> Self:
        """Start `nomad` of PATH with its data below `folder`; blocks until every host is ready.

        Args:
            http_port: of the server's HTTP API; a free one when None. The ports of a folder are kept.
            hosts: agents; the first is server and client. All have 127.0.0.1, so each gets a range of dynamic
                ports of its own, behind the range of the one before.
            dynamic_ports: first and last port of the first host.
            consul_address: host:port of a Consul agent. With it `start` also waits until the first host has
                noticed Consul, since no job with Consul services is placed before. Further hosts get none: two
                Nomad clients at one Consul agent delete each other's services.
            driver: the one task driver of all hosts, `raw_exec` or `docker`.

        Raises:
            NomadAgentError: no nomad on PATH, a range that does not fit, an agent that did not come up, or
                no Docker engine where the driver needs one.
        """
        program = shutil.which("nomad")
        if program is None:
            raise NomadAgentError(
                "there is no `nomad` on PATH; install Nomad 1.10.2 or newer, or use the double (`--nomad double`)."
            )
        first, last = dynamic_ports
        if last + (hosts - 1) * (last - first + 1) > 65_535:
            raise NomadAgentError(
                f"{hosts} hosts with ports {first}-{last} do not fit; choose a smaller range."
            )
        folder = folder.absolute()
        plans = [_plan(folder, number, first, last, http_port) for number in range(hosts)]
        version = _version(program)
        processes: list[TetheredProcess] = []
        agents = cls(plans, processes, version)
        try:
            for plan in plans:
                _end_leftover(plan)
                consul = consul_address if plan is plans[0] else None
                config = write_config(
                    plan,
                    plans[0],
                    is_server=plan is plans[0],
                    consul=consul,
                    consul_token=consul_token,
                    driver=driver,
                )
                log = plan.folder / "agent.log"
                argv = [program, "agent", "-config", str(config)]
                processes.append(TetheredProcess.start(argv, log=log, env=_env(), stop_signal=signal.SIGINT))
                (plan.folder / "agent.pid").write_text(str(processes[-1].pid))
            agents._await_ready(consul_address is not None, timeout_s)
            if driver == "docker":
                agents._await_docker()
        except BaseException:
            agents.stop()
            raise
        return agents

    def stop(self, timeout_s: float = 15.0) -> None:
        """End the agents and every task they started. Safe to call again."""
        started = [pid for process in self._processes for pid in _descendants(process.pid)]
        started += [pid for plan in self.hosts for pid in _taken_over(plan.folder)]
        marks = {pid: _start_mark(pid) for pid in started}
        for process in reversed(self._processes):
            process.stop(timeout_s)
        _end_all({pid for pid, mark in marks.items() if mark is not None and _start_mark(pid) == mark})
        for plan in self.hosts:
            _unmount_below(plan.folder)

    def kill(self) -> None:
        """SIGKILL for every agent, as a crash would end it. Tasks live on; `stop` afterwards cannot find them."""
        for process in self._processes:
            process.kill()

    def _await_ready(self, with_consul: bool, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for plan, process in zip(self.hosts, self._processes, strict=True):
                if process.exit_code() is not None:
                    tail = log_tail(plan.folder / "agent.log")
                    raise NomadAgentError(f"the Nomad agent {plan.name} ended at once; its log says:\n{tail}")
            if self._ready(with_consul):
                return
            time.sleep(0.1)
        tail = log_tail(self.hosts[0].folder / "agent.log")
        raise NomadAgentError(f"Nomad was not ready after {timeout_s:g} s; its log ends with:\n{tail}")

    def _ready(self, with_consul: bool) -> bool:
        nodes = _get(f"{self.url}/v1/nodes") or []
        ready = {node["Name"]: node["ID"] for node in nodes if node["Status"] == "ready"}
        if not _get(f"{self.url}/v1/status/leader") or not all(plan.name in ready for plan in self.hosts):
            return False
        if not with_consul:
            return True
        node = _get(f"{self.url}/v1/node/{ready[self.hosts[0].name]}")
        return bool(node) and "consul.version" in node["Attributes"]

    def _await_docker(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            nodes = _get(f"{self.url}/v1/nodes") or []
            if nodes and all((node["Drivers"] or {}).get("docker", {}).get("Healthy") for node in nodes):
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


def _end_leftover(plan: HostPlan) -> None:
    """Stop the agent that a killed owner left in this folder. Its tasks live on and are taken over again."""
    try:
        pid = int((plan.folder / "agent.pid").read_text())
    except (OSError, ValueError):
        return
    for ask, patience_s in ((signal.SIGINT, 10.0), (signal.SIGKILL, 5.0)):
        if not is_alive(pid) or str(plan.folder / "agent.json") not in command_line(pid):
            return
        os.kill(pid, ask)
        deadline = time.monotonic() + patience_s
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    if is_alive(pid):
        raise NomadAgentError(
            f"the old Nomad agent of {plan.folder} (process {pid}) does not end; stop it first."
        )


def _plan(folder: Path, number: int, first: int, last: int, http_port: int | None) -> HostPlan:
    name = f"host-{number + 1}"
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    kept = own / "ports.json"
    # A server that changes its address would not find itself again in its Raft data.
    ports: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    if not ports:
        ports = dict(zip(("http", "rpc", "serf"), _free_ports(3), strict=True))
    if number == 0 and http_port is not None:
        ports["http"] = http_port
    kept.write_text(json.dumps(ports))
    size = last - first + 1
    return HostPlan(
        name=name,
        folder=own,
        http=ports["http"],
        rpc=ports["rpc"],
        serf=ports["serf"],
        min_dynamic_port=first + number * size,
        max_dynamic_port=last + number * size,
    )


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is found, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


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


def _descendants(pid: int) -> list[int]:
    """Every process below `pid`, from /proc (Linux) or ps."""
    parents: dict[int, list[int]] = {}
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        child, parent = (int(part) for part in line.split())
        parents.setdefault(parent, []).append(child)
    found: list[int] = []
    open_ = [pid]
    while open_:
        children = parents.get(open_.pop(), [])
        found += children
        open_ += children
    return found


def _taken_over(folder: Path) -> list[int]:
    """Executors (with their tasks) and log collectors of this folder that an earlier agent started.

    They are nobody's children any more; an executor names the folder in its arguments, a log collector has
    files of it open.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        said = command_line(pid)
        if f"{folder}/data/alloc/" in said and " executor " in said:
            found += [pid, *_descendants(pid)]
        elif said.endswith(" logmon") and _has_open(entry / "fd", folder):
            found.append(pid)
    return found


def _has_open(descriptors: Path, folder: Path) -> bool:
    try:
        return any(os.readlink(link).startswith(f"{folder}/") for link in descriptors.iterdir())
    except OSError:
        return False


def _start_mark(pid: int) -> str | None:
    """What tells a process from a later one with the same number: its start time."""
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def _unmount_below(folder: Path) -> None:
    """Run as root, Nomad mounts a tmpfs for the secrets of each task; it mounts them anew when it comes back."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return
    points = [line.split()[1] for line in mounts.read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def _end_all(pids: set[int]) -> None:
    """SIGTERM, a grace, then SIGKILL."""
    for number, grace_s in ((signal.SIGTERM, _TASKS_GRACE_S), (signal.SIGKILL, 1.0)):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + grace_s
        while pids and time.monotonic() < deadline:
            pids = {pid for pid in pids if is_alive(pid)}
            time.sleep(0.02)
        if not pids:
            return
