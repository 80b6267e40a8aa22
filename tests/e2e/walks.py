"""One user on a real Nomad cluster: what happens to the container, read from Nomad, Consul and the journal."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from sandbox.up.data import read_env
from sandbox.up.environment import simulator_storage
from sandbox.waha import journal
from tests.contract.evidence import FOLDER
from tests.e2e import overlaps
from tests.e2e.running import Client, Up, until

_LOOK_S: Final = 0.2


class Placed(msgspec.Struct, frozen=True):
    """The allocation that Nomad wants and that runs."""

    allocation: str
    node: str
    node_name: str
    address: str
    port: int


class Submitted(msgspec.Struct, frozen=True):
    """How often somebody wrote the job. `registers`: ids of evaluations that a register made."""

    version: int
    modify_index: int
    registers: frozenset[str]


class Figures(msgspec.Struct, kw_only=True):
    """What one walk showed. Times in seconds since the walk's first act.

    Attributes:
        sessions, tasks: overlaps, in seconds, by the journal and by Nomad's clients.
        processes: how long more than one process lived that had run a session of the user; looked at five
            times a second, also for allocations that Nomad no longer lists.
        passing_most: most instances of the user that Consul listed as passing at one time.
        seen: each change of what chip and allocations looked like.
    """

    name: str
    connected_after_s: float = 0.0
    sessions: list[float] = []
    tasks: list[float] = []
    processes: float = 0.0
    registers: int = 0
    version_moved: int = 0
    passing_most: int = 0
    facts: dict[str, float | str] = {}
    seen: list[str] = []


class Cluster:
    """Reads, and what an operator could do by hand. Never goes through wahafleet."""

    def __init__(self, nomad: str, consul: str) -> None:
        self.nomad = httpx.Client(base_url=f"{nomad}/v1", timeout=10, trust_env=False)
        self.consul = httpx.Client(base_url=f"{consul}/v1", timeout=10, trust_env=False)

    def close(self) -> None:
        self.nomad.close()
        self.consul.close()

    def get(self, path: str) -> Any:
        return self.nomad.get(path).raise_for_status().json()

    def jobs(self) -> list[str]:
        return [job["ID"] for job in self.get("/jobs?prefix=waha_plus_user_")]

    def allocations(self, job: str) -> list[dict[str, Any]]:
        return list(self.get(f"/job/{job}/allocations?all=true"))

    def placed(self, job: str) -> Placed | None:
        """None unless exactly one allocation is wanted and running."""
        running = [
            one
            for one in self.allocations(job)
            if (one["DesiredStatus"], one["ClientStatus"]) == ("run", "running")
        ]
        if len(running) != 1:
            return None
        full = self.get(f"/allocation/{running[0]['ID']}")
        (port,) = full["AllocatedResources"]["Shared"]["Ports"]
        return Placed(full["ID"], full["NodeID"], full["NodeName"], port["HostIP"], port["Value"])

    def submitted(self, job: str) -> Submitted:
        spec = self.get(f"/job/{job}")
        made = self.get(f"/job/{job}/evaluations")
        registers = frozenset(one["ID"] for one in made if one["TriggeredBy"] == "job-register")
        return Submitted(spec["Version"], spec["JobModifyIndex"], registers)

    def passing(self, user: str) -> list[str]:
        """Allocations of `user` that Consul lists as passing."""
        query = {"passing": "1", "filter": f'Service.Meta.user == "{user}"'}
        listed = self.consul.get("/health/service/waha-plus", params=query).raise_for_status().json()
        return [one["Service"]["Meta"]["allocation"] for one in listed]

    def ready(self) -> bool:
        nodes = self.get("/nodes")
        return all(
            (node["Status"], node["SchedulingEligibility"], node["Drain"]) == ("ready", "eligible", False)
            for node in nodes
        )


class Walks:
    """A sandbox with two real hosts and one user whose chip was paired once, and never again."""

    def __init__(self, up: Up, client: Client, chip: str, version: str) -> None:
        self.up = up
        self.client = client
        self.chip = chip
        self.version = version
        env = read_env(up.data / "settings.env")
        self.settings = env
        self.cluster = Cluster(env["NOMAD_ADDR"], env["CONSUL_HTTP_ADDR"])
        seen = client.chip(chip)
        self.job: str = seen["extra_data"]["waha_plus_container"]
        self.user = self.job.removeprefix("waha_plus_user_")
        self.number: str = seen["phone_number"]
        self.journal = simulator_storage(up.data)
        self.done: list[Figures] = []

    def settled(self, *, unlike: Placed | None = None, since: float = 0.0) -> Placed | None:
        """Where the chip is CONNECTED, once every witness agrees; None until then.

        Args:
            unlike: the allocation before; it must be another one now.
            since: the process that runs the session must have begun it after this.
        """
        chip = self.client.chip(self.chip)
        place = self.cluster.placed(self.job)
        if place is None or (unlike is not None and place.allocation == unlike.allocation):
            return None
        if (chip["status"], chip["phone_number"]) != ("CONNECTED", self.number):
            return None
        if (chip["extra_data"]["waha_plus_port"], chip["extra_data"]["node"]) != (
            place.port,
            place.node_name,
        ):
            return None
        speaking = [one for one in journal.intervals(self.journal) if one.open and one.speaking]
        if not any(one.allocation == place.allocation and one.since >= since for one in speaking):
            return None
        if place.allocation not in self.cluster.passing(self.user):
            return None
        answer = httpx.get(f"http://{place.address}:{place.port}/ping", timeout=2, trust_env=False)
        return place if answer.status_code == 200 else None

    def alone(self) -> bool:
        """One process of the user lives, one allocation runs, and Consul believes in one instance."""
        running = [one for one in self.cluster.allocations(self.job) if not _ended(one)]
        alive = overlaps.processes(self.journal)
        return len(running) == len(alive) == len(self.cluster.passing(self.user)) == 1

    def begin(self) -> Placed:
        """Everything is well before the next walk: hosts, chip, one container, nothing runs twice."""
        until(self.cluster.ready, 60, "both hosts are ready")
        until(self.alone, 60, "one container runs")
        place = until(self.settled, 60, "the chip is CONNECTED before the walk")
        assert place is not None
        return place

    @contextmanager
    def walk(self, name: str) -> Iterator[Figures]:
        """Times, overlaps and submissions of what is done inside; the figures are complete afterwards."""
        figures = Figures(name=name)
        before, began = self.cluster.submitted(self.job), time.time()
        with self._watched(figures, began):
            yield figures
        after = self.cluster.submitted(self.job)
        figures.registers = len(after.registers - before.registers)
        figures.version_moved = after.version - before.version
        sessions = overlaps.of_sessions(self.journal, since=began)
        tasks = overlaps.of_tasks(self.cluster.allocations(self.job), now=time.time(), since=began)
        figures.sessions = [one.seconds for one in sessions]
        figures.tasks = [one.seconds for one in tasks]
        assert self.cluster.jobs() == [self.job], "a second job"
        self.done.append(figures)

    def back(
        self, figures: Figures, began: float, within_s: float, *, unlike: Placed | None = None
    ) -> Placed:
        """Wait until the chip is CONNECTED in a process that began after `began`, and stays so."""
        place = until(
            lambda: self.settled(unlike=unlike, since=began), within_s, f"{figures.name}: CONNECTED again"
        )
        assert place is not None
        figures.connected_after_s = round(time.time() - began, 1)
        return place

    def agent(self, place: Placed) -> str:
        """The part of the sandbox that is the Nomad agent of this host."""
        return f"nomad-{place.node_name.removeprefix('host-')}"

    @contextmanager
    def without(self, part: str) -> Iterator[None]:
        """SIGKILL for `part`, which stays away inside."""
        hold = self.up.data / "run" / f"{part}.hold"
        hold.touch()
        os.kill(self.up.pid(part), signal.SIGKILL)
        try:
            yield
        finally:
            hold.unlink(missing_ok=True)

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        pid = self.up.pid(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _watched(self, figures: Figures, began: float) -> Iterator[None]:
        enough = threading.Event()
        look = Cluster(self.settings["NOMAD_ADDR"], self.settings["CONSUL_HTTP_ADDR"])

        def watch() -> None:
            last = time.monotonic()
            with self.up.client() as client:
                while not enough.wait(_LOOK_S):
                    now = time.monotonic()
                    if len(overlaps.processes(self.journal)) > 1:
                        figures.processes = round(figures.processes + now - last, 1)
                    last = now
                    self._look(look, client, figures, began)

        thread = threading.Thread(target=watch, name="walk", daemon=True)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join(15)
            look.close()

    def _look(self, cluster: Cluster, client: Client, figures: Figures, began: float) -> None:
        chip = client.chip(self.chip)
        extra = chip["extra_data"]
        passing = cluster.passing(self.user)
        figures.passing_most = max(figures.passing_most, len(passing))
        allocations = [
            f"{one['ID'][:4]}@{one['NodeName'][-1]} {one['ClientStatus']}/{one['DesiredStatus']}"
            for one in sorted(cluster.allocations(self.job), key=lambda one: one["CreateIndex"])
            if one["ClientStatus"] in ("pending", "running", "unknown", "lost")
            or one["ModifyTime"] > began * 1e9
        ]
        text = (
            f"chip {chip['status']} ({extra['phase']}, {extra['reason']}), port {extra['waha_plus_port']}; "
            f"allocations {', '.join(allocations) or 'none'}; passing {len(passing)}"
        )
        if not figures.seen or figures.seen[-1].partition(" s: ")[2] != text:
            figures.seen.append(f"{time.time() - began:5.1f} s: {text}")


def _ended(allocation: dict[str, Any]) -> bool:
    states = (allocation["TaskStates"] or {}).values()
    return allocation["ClientStatus"] in ("complete", "failed", "lost") and all(
        state["State"] == "dead" for state in states
    )


def line(figures: Figures) -> str:
    """One walk for people."""

    def seconds(found: list[float]) -> str:
        return ", ".join(f"{one:.2f}" for one in found) + " s" if found else "0 s"

    facts = "".join(f"; {name} {value}" for name, value in figures.facts.items())
    return (
        f"{figures.name:<24} CONNECTED after {figures.connected_after_s:6.1f} s; overlap of sessions "
        f"{seconds(figures.sessions)}, of tasks {seconds(figures.tasks)}, of processes {figures.processes:g} s; "
        f"registers {figures.registers}, versions {figures.version_moved:+d}; passing at once "
        f"{figures.passing_most}{facts}"
    )


def write(version: str, settings: dict[str, str], done: list[Figures]) -> Path:
    """Keep the figures of walks on this release of Nomad; those that did not run now stay as they were."""
    path = FOLDER / f"walks-nomad-{version}.json"
    known: dict[str, Any] = json.loads(path.read_text())["walks"] if path.exists() else {}
    known |= {one.name: msgspec.to_builtins(one) for one in done}
    told = {"agent": "nomad", "version": version, "settings": settings, "walks": known}
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path
