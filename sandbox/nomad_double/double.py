"""The whole double: state, server, one client for each host, and how they start and end together."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

import msgspec

from sandbox.faults import Fault, Faults
from sandbox.nomad_double.alloc_runner import AllocRunner, ClientReport
from sandbox.nomad_double.client import Client
from sandbox.nomad_double.clock import Clock, SystemClock
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.drivers import ProcessDriver, TaskDriver
from sandbox.nomad_double.events import EventBroker
from sandbox.nomad_double.heartbeats import Heartbeats
from sandbox.nomad_double.model import Allocation, Json
from sandbox.nomad_double.nodes import NodeOperations, fingerprint, register_nodes
from sandbox.nomad_double.registrar import ServiceRegistrar
from sandbox.nomad_double.server import Server
from sandbox.nomad_double.settings import DoubleSettings
from sandbox.nomad_double.snapshot import stale_double
from sandbox.nomad_double.state import StateStore
from sandbox.nomad_double.storage import SqliteStorage
from sandbox.nomad_double.task_runner import ProcessNote, TaskContext
from sandbox.nomad_double.templates import Lookup
from sandbox.nomad_double.worker import EvaluationWorker

MAX_LOGGED_WRITES = 100_000


class LoggedWrite(msgspec.Struct, frozen=True, rename="pascal"):
    """One accepted write. Nothing secret is kept: neither bodies nor tokens."""

    method: str
    path: str
    namespace: str
    status: int
    index: int
    time: int
    job_id: str = ""
    eval_id: str = ""
    spec_hash: str = ""
    """Of a register: names the job's spec. Equal hashes are equal specs."""
    job_modify_index_before: int | None = None
    job_modify_index: int | None = None


class NomadDouble:
    """A Nomad cluster of simulated hosts in this process.

    Args:
        settings: hosts, delays, release, ACL token.
        data_dir: holds state, logs and task folders; a later double on the same folder goes on from there.
        drivers: by name; without `raw_exec` real processes are started.
        registrar: where Consul services go; None means that no node has Consul, and jobs with Consul services are
            not placed (as on a real cluster).
    """

    def __init__(
        self,
        settings: DoubleSettings,
        data_dir: Path,
        *,
        drivers: Mapping[str, TaskDriver] | None = None,
        registrar: ServiceRegistrar | None = None,
        clock: Clock | None = None,
    ) -> None:
        problems = settings.problems()
        if problems:
            raise ValueError("; ".join(problems))
        self.settings = settings
        self.data_dir = data_dir
        self.clock = clock or SystemClock()
        self.rng = Random(settings.seed)  # noqa: S311 - ports and ids of a simulation
        self.broker = EventBroker(settings.event_buffer_size)
        data_dir.mkdir(parents=True, exist_ok=True)
        storage = SqliteStorage(data_dir / "state.db")
        self.state = StateStore(self.clock, self.broker, storage, settings.tracked_versions)
        self.registrar = registrar
        self.drivers: dict[str, TaskDriver] = dict(drivers) if drivers else {"raw_exec": ProcessDriver()}
        self.server = Server(self.state, settings, self.clock, self.rng)
        self.journal = self.server.journal
        self.faults = Faults()
        self.stale: dict[int, NomadDouble] = {}
        """By fault id: what this double was when the fault was set."""
        self.worker = EvaluationWorker(self.state, settings, self.clock, self.rng)
        self.node_operations = NodeOperations(self.server)
        self.heartbeats = Heartbeats(self.server)
        self.node_operations.forgotten = self.heartbeats.forget
        self.writes: list[LoggedWrite] = []
        context = TaskContext(
            clock=self.clock,
            delays=settings.delays,
            rng=self.rng,
            drivers=self.drivers,
            registrar=registrar,
            variables=self._variables,
            changed=self.state.changed,
            data_dir=data_dir,
            speed=settings.speed,
            journal=self._note_process,
        )
        nodes = [
            fingerprint(host, settings, sorted(self.drivers), registrar.consul_version if registrar else None)
            for host in settings.hosts
        ]
        register_nodes(self.state, nodes)
        self.fingerprints = {node.id: node for node in nodes}
        self.clients = {node.id: Client(self.state, node.id, context, self, settings.speed) for node in nodes}
        self.state.observe(self._on_commit)

    async def start(self) -> None:
        """Bring the registrar, the clients' tasks and the evaluation worker to life."""
        if self.registrar is not None:
            await self.registrar.start()
        for client in self.clients.values():
            client.start()
        for node_id in self.clients:
            self.node_operations.drains.changed(node_id)
        self.worker.start()

    async def stop(self) -> None:
        """End every task that was started here and nothing else; the state stays on disk."""
        self.broker.close_all("")
        await self.worker.stop()
        await self.heartbeats.stop()
        await self.node_operations.drains.stop()
        await asyncio.gather(*(client.stop() for client in self.clients.values()))
        if self.registrar is not None:
            await self.registrar.stop()
        self.state.wake_watchers()
        self.state.close()

    def client_update(self, node_id: str, reports: list[ClientReport]) -> None:
        """Take a client's reports."""
        self.server.client_update(node_id, reports)

    def beat(self, node_id: str) -> float:
        """Take a client's heartbeat; the TTL granted, in seconds. A node that was purged registers anew."""
        if node_id not in self.state.nodes:
            register_nodes(self.state, [self.fingerprints[node_id]])
        return self.heartbeats.beat(node_id)

    def reachable(self, node_id: str) -> bool:
        """Can the servers ask the client of this node."""
        client = self.clients.get(node_id)
        return client is not None and node_id in self.state.nodes and client.agent.reachable

    def runner(self, alloc: Allocation) -> AllocRunner | None:
        """What runs an allocation, None when its node does not know it any more."""
        client = self.clients.get(alloc.node_id)
        return client.runner(alloc.id) if client is not None else None

    def add_fault(self, fault: Fault) -> Fault:
        """Set a fault; a `stale` one remembers the state of this moment."""
        self.faults.add(fault)
        if fault.kind == "stale":
            self.stale[fault.id] = stale_double(self)
        return fault

    def collect_garbage(self) -> None:
        """/v1/system/gc: forget what is over. A job goes when it is dead, stopped or without work left."""
        state = self.state
        allocs = [a for a in state.allocs.values() if self._collectable(a)]
        gone = {a.id for a in allocs}
        evals = [
            e
            for e in state.evals.values()
            if e.terminal
            and not any(
                a.eval_id == e.id and a.id not in gone for a in state.allocs_of_job(e.namespace, e.job_id)
            )
        ]
        dead = [
            key
            for key, job in state.jobs.items()
            if job["Stop"]
            and job["Status"] == "dead"
            and all(a.id in gone for a in state.allocs_of_job(*key))
        ]
        if not (allocs or evals or dead):
            return
        with state.commit("") as commit:
            for alloc in allocs:
                commit.delete_alloc(alloc)
            for evaluation in evals:
                commit.delete_eval(evaluation)
            for key in dead:
                commit.delete_job(*key)
            commit.events.clear()
        for alloc in allocs:
            client = self.clients.get(alloc.node_id)
            if client is not None:
                client.forget(alloc.id)
            else:
                shutil.rmtree(self.data_dir / "alloc" / alloc.id, ignore_errors=True)

    def record(self, write: LoggedWrite) -> None:
        """Append to the log of accepted writes, in memory and in `writes.ndjson`."""
        self.writes.append(write)
        del self.writes[:-MAX_LOGGED_WRITES]
        with (self.data_dir / "writes.ndjson").open("ab") as log:
            log.write(msgspec.json.encode(write) + b"\n")

    def writes_of(self, job_id: str) -> list[Json]:
        """Accepted writes about one job, oldest first."""
        found: list[Json] = msgspec.to_builtins([w for w in self.writes if w.job_id == job_id])
        return found

    def _collectable(self, alloc: Allocation) -> bool:
        if not alloc.client_terminal:
            return False
        job = self.state.jobs.get((alloc.namespace, alloc.job_id))
        if job is None or job["CreateIndex"] != alloc.job["CreateIndex"] or job["Stop"]:
            return True
        # A failed allocation that still waits for its replacement must be remembered.
        return alloc.server_terminal or bool(alloc.next_allocation) or alloc.client_status == "complete"

    def _note_process(self, note: ProcessNote) -> None:
        alloc = self.state.allocs.get(note.alloc_id)
        self.journal.note(
            "process",
            note.job_id,
            alloc_id=note.alloc_id,
            task=note.task,
            runs=note.runs,
            node_name=alloc.node_name if alloc is not None else "",
        )

    def _runs(self, alloc: Allocation) -> bool:
        client = self.clients.get(alloc.node_id)
        return client is not None and client.running_tasks(alloc.id)

    def _on_commit(self, commit: Commit) -> None:
        self.journal.on_commit(commit, self._runs)
        self.worker.on_commit(commit)
        for client in self.clients.values():
            client.on_commit(commit)

    def _variables(self, namespace: str) -> Lookup:
        def lookup(path: str) -> Mapping[str, str] | None:
            variable = self.state.variables.get((namespace, path))
            return variable.items if variable is not None else None

        return lookup
