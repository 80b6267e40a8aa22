"""The double's state store: tables, one global index, and commits that publish events and wake watchers.

As in Nomad, every committed write raises one global index by one; each table remembers the index of its last
write (that is what list queries answer and block on), and each object remembers its own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import msgspec

from sandbox.nomad_double.clock import Clock
from sandbox.nomad_double.events import Event, EventBroker
from sandbox.nomad_double.model import Allocation, Deployment, Evaluation, Json, Node, Variable
from sandbox.nomad_double.summary import count_alloc, job_status, new_summary

Key = tuple[str, str]

TABLES = (
    "jobs",
    "job_summary",
    "job_version",
    "job_submission",
    "allocs",
    "evals",
    "deployment",
    "nodes",
    "variables",
)


class Storage(Protocol):
    """Where commits are kept, so that a later double can go on from them."""

    def load(self) -> Iterator[tuple[str, str, bytes]]: ...

    def write(self, rows: Iterable[tuple[str, str, bytes | None]]) -> None:
        """Keep these (kind, key, JSON) rows, None meaning deleted, all or none of them."""
        ...

    def close(self) -> None: ...


class StateStore:
    """All tables. Reads are plain attributes and methods; writes go through `commit`."""

    def __init__(
        self, clock: Clock, broker: EventBroker, storage: Storage | None = None, tracked: int = 6
    ) -> None:
        self.clock = clock
        self.broker = broker
        self.index = 0
        self.table_index: dict[str, int] = dict.fromkeys(TABLES, 0)
        self.jobs: dict[Key, Json] = {}
        self.versions: dict[Key, list[Json]] = {}
        self.submissions: dict[tuple[str, str, int], Json] = {}
        self.summaries: dict[Key, Json] = {}
        self.allocs: dict[str, Allocation] = {}
        self.evals: dict[str, Evaluation] = {}
        self.deployments: dict[str, Deployment] = {}
        self.nodes: dict[str, Node] = {}
        self.variables: dict[Key, Variable] = {}
        self._job_allocs: dict[Key, dict[str, None]] = defaultdict(dict)
        self._node_allocs: dict[str, dict[str, None]] = defaultdict(dict)
        self._job_evals: dict[Key, dict[str, None]] = defaultdict(dict)
        self._tracked = tracked
        self._storage = storage
        self._changed = asyncio.Event()
        self._observers: list[Callable[[Commit], None]] = []
        if storage is not None:
            self._load(storage)

    # --- reading

    def allocs_of_job(self, namespace: str, job_id: str) -> list[Allocation]:
        return [self.allocs[i] for i in self._job_allocs.get((namespace, job_id), ())]

    def allocs_of_node(self, node_id: str) -> list[Allocation]:
        return [self.allocs[i] for i in self._node_allocs.get(node_id, ())]

    def evals_of_job(self, namespace: str, job_id: str) -> list[Evaluation]:
        return [self.evals[i] for i in self._job_evals.get((namespace, job_id), ())]

    def deployments_of_job(self, namespace: str, job_id: str) -> list[Deployment]:
        """Newest first."""
        found = [d for d in self.deployments.values() if (d.namespace, d.job_id) == (namespace, job_id)]
        return sorted(found, key=lambda d: d.create_index, reverse=True)

    def job_version(self, namespace: str, job_id: str, version: int) -> Json | None:
        return next((j for j in self.versions.get((namespace, job_id), ()) if j["Version"] == version), None)

    def observe(self, observer: Callable[[Commit], None]) -> None:
        """Call `observer` after each commit, in the order of indexes."""
        self._observers.append(observer)

    def changed(self) -> asyncio.Future[Literal[True]]:
        """Done at the next commit after this call (not: after it is first awaited). Cancel it when unused."""
        return asyncio.ensure_future(self._changed.wait())

    def wake_watchers(self) -> None:
        """Let every blocking query look again."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    # --- writing

    @contextmanager
    def commit(self, event_type: str) -> Iterator[Commit]:
        """One write under the next index.

        Everything in the block must be decided before it is entered: there is no rollback, so a refusal has to
        be raised outside.
        """
        commit = Commit(self, self.index + 1, event_type)
        yield commit
        commit.settle_job_states()
        self.index = commit.index
        for table in commit.tables:
            self.table_index[table] = commit.index
        if self._storage is not None:
            self._storage.write(commit.rows())
        for events in commit.frames():
            self.broker.publish(commit.index, events)
        self.wake_watchers()
        for observer in self._observers:
            observer(commit)

    def restore(self, index: int) -> None:
        """Lower every index to at most `index`, as restoring an old snapshot does; objects stay."""
        self.index = min(self.index, index)
        for table, value in self.table_index.items():
            self.table_index[table] = min(value, index)
        self.broker.close_all("subscription closed by server, client should resubscribe")
        self.wake_watchers()

    def close(self) -> None:
        if self._storage is not None:
            self._storage.close()

    def _load(self, storage: Storage) -> None:
        for kind, key, data in storage.load():
            parts = key.split("\x00")
            if kind == "meta":
                self.index, self.table_index = msgspec.json.decode(data, type=tuple[int, dict[str, int]])
                self.table_index = {**dict.fromkeys(TABLES, 0), **self.table_index}
            elif kind == "jobs":
                self.jobs[parts[0], parts[1]] = msgspec.json.decode(data)
            elif kind == "versions":
                self.versions[parts[0], parts[1]] = msgspec.json.decode(data)
            elif kind == "submissions":
                self.submissions[parts[0], parts[1], int(parts[2])] = msgspec.json.decode(data)
            elif kind == "summaries":
                self.summaries[parts[0], parts[1]] = msgspec.json.decode(data)
            elif kind == "allocs":
                self._index_alloc(msgspec.json.decode(data, type=Allocation))
            elif kind == "evals":
                self._index_eval(msgspec.json.decode(data, type=Evaluation))
            elif kind == "deployments":
                self.deployments[key] = msgspec.json.decode(data, type=Deployment)
            elif kind == "nodes":
                self.nodes[key] = msgspec.json.decode(data, type=Node)
            elif kind == "variables":
                self.variables[parts[0], parts[1]] = msgspec.json.decode(data, type=Variable)

    def _index_alloc(self, alloc: Allocation) -> None:
        self.allocs[alloc.id] = alloc
        self._job_allocs[alloc.namespace, alloc.job_id][alloc.id] = None
        self._node_allocs[alloc.node_id][alloc.id] = None

    def _index_eval(self, evaluation: Evaluation) -> None:
        self.evals[evaluation.id] = evaluation
        self._job_evals[evaluation.namespace, evaluation.job_id][evaluation.id] = None


class Commit:
    """One write in progress: puts and deletions, their events and the rows to keep."""

    def __init__(self, state: StateStore, index: int, event_type: str) -> None:
        self.state = state
        self.index = index
        self.event_type = event_type
        self.now_ns = state.clock.time_ns()
        self.tables: set[str] = set()
        self.events: list[Event] = []
        self.touched_allocs: dict[str, None] = {}
        self.touched_evals: dict[str, None] = {}
        self._touched_jobs: dict[Key, None] = {}
        self._rows: dict[tuple[str, str], object | None] = {}

    def put_job(self, job: Json) -> Json:
        """Store a spec; its bookkeeping fields are already set, its status is settled at the end."""
        key = (job["Namespace"], job["ID"])
        job = {**job, "ModifyIndex": self.index}
        self.state.jobs[key] = job
        history = [j for j in self.state.versions.get(key, []) if j["Version"] != job["Version"]]
        history = [job, *history][: self.state._tracked]
        self.state.versions[key] = history
        kept = {j["Version"] for j in history}
        for submission in [s for s in self.state.submissions if s[:2] == key and s[2] not in kept]:
            del self.state.submissions[submission]
            self._rows["submissions", _joined(*submission)] = None
        if key not in self.state.summaries:
            self.put_summary(key, new_summary(job, self.index))
        self.tables |= {"jobs", "job_version"}
        self._rows["jobs", _joined(*key)] = job
        self._rows["versions", _joined(*key)] = history
        self._touched_jobs[key] = None
        self._event("Job", key[1], key[0], None, job)
        return job

    def put_summary(self, key: Key, summary: Json) -> None:
        self.state.summaries[key] = summary
        self.tables.add("job_summary")
        self._rows["summaries", _joined(*key)] = summary

    def put_submission(self, namespace: str, job_id: str, version: int, submission: Json) -> None:
        self.state.submissions[namespace, job_id, version] = submission
        self.tables.add("job_submission")
        self._rows["submissions", _joined(namespace, job_id, version)] = submission

    def delete_job(self, namespace: str, job_id: str) -> None:
        """Purge: the record, its versions, submissions, summary and, since about 1.8, its allocations go at once.

        Measured on Nomad 1.10.5: a purged job's allocations answer 404 while their tasks are still being killed,
        and their ports are free to be handed out again. Evaluations stay.
        """
        key = (namespace, job_id)
        state = self.state
        job = state.jobs.pop(key)
        state.versions.pop(key, None)
        state.summaries.pop(key, None)
        self._rows["versions", _joined(*key)] = None
        self._rows["summaries", _joined(*key)] = None
        for submission in [s for s in state.submissions if s[:2] == key]:
            del state.submissions[submission]
            self._rows["submissions", _joined(*submission)] = None
        for alloc in state.allocs_of_job(*key):
            self.delete_alloc(alloc)
        for deployment in state.deployments_of_job(*key):
            self.delete_deployment(deployment)
        self.tables |= {"jobs", "job_version", "job_summary", "job_submission", "allocs"}
        self._rows["jobs", _joined(*key)] = None
        self._touched_jobs.pop(key, None)
        self._event("Job", job_id, namespace, None, job)

    def put_alloc(self, alloc: Allocation, *, by_server: bool) -> Allocation:
        """Store an allocation; `by_server` also moves AllocModifyIndex, which clients watch."""
        old = self.state.allocs.get(alloc.id)
        alloc = msgspec.structs.replace(
            alloc,
            create_index=old.create_index if old else self.index,
            modify_index=self.index,
            alloc_modify_index=self.index if by_server or old is None else old.alloc_modify_index,
            create_time=old.create_time if old else self.now_ns,
            modify_time=self.now_ns,
        )
        self.state._index_alloc(alloc)
        key = (alloc.namespace, alloc.job_id)
        summary = count_alloc(self.state.summaries.get(key), alloc, old, self.index)
        if summary is not None:
            self.put_summary(key, summary)
        self.tables.add("allocs")
        self.touched_allocs[alloc.id] = None
        self._touched_jobs[key] = None
        self._rows["allocs", alloc.id] = alloc
        keys = [alloc.job_id, alloc.deployment_id]
        self._event("Allocation", alloc.id, alloc.namespace, keys, alloc)
        if old is None and alloc.previous_allocation in self.state.allocs:
            previous = self.state.allocs[alloc.previous_allocation]
            self.put_alloc(msgspec.structs.replace(previous, next_allocation=alloc.id), by_server=True)
        return alloc

    def delete_alloc(self, alloc: Allocation) -> None:
        """Forget an allocation; like Nomad's garbage collection this sends no event."""
        del self.state.allocs[alloc.id]
        self.state._job_allocs[alloc.namespace, alloc.job_id].pop(alloc.id)
        self.state._node_allocs[alloc.node_id].pop(alloc.id)
        self.tables.add("allocs")
        self.touched_allocs[alloc.id] = None
        self._rows["allocs", alloc.id] = None

    def put_eval(self, evaluation: Evaluation) -> Evaluation:
        old = self.state.evals.get(evaluation.id)
        evaluation = msgspec.structs.replace(
            evaluation,
            create_index=old.create_index if old else self.index,
            modify_index=self.index,
            create_time=old.create_time if old else self.now_ns,
            modify_time=self.now_ns,
        )
        self.state._index_eval(evaluation)
        key = (evaluation.namespace, evaluation.job_id)
        self._queued(key, evaluation)
        self.tables.add("evals")
        self.touched_evals[evaluation.id] = None
        self._touched_jobs[key] = None
        self._rows["evals", evaluation.id] = evaluation
        keys = [evaluation.job_id, evaluation.deployment_id]
        self._event("Evaluation", evaluation.id, key[0], keys, evaluation)
        return evaluation

    def delete_eval(self, evaluation: Evaluation) -> None:
        del self.state.evals[evaluation.id]
        self.state._job_evals[evaluation.namespace, evaluation.job_id].pop(evaluation.id)
        self.tables.add("evals")
        self._rows["evals", evaluation.id] = None

    def put_deployment(self, deployment: Deployment) -> Deployment:
        old = self.state.deployments.get(deployment.id)
        deployment = msgspec.structs.replace(
            deployment,
            create_index=old.create_index if old else self.index,
            modify_index=self.index,
            create_time=old.create_time if old else self.now_ns,
            modify_time=self.now_ns,
        )
        self.state.deployments[deployment.id] = deployment
        self.tables.add("deployment")
        self._rows["deployments", deployment.id] = deployment
        self._event("Deployment", deployment.id, deployment.namespace, [deployment.job_id], deployment)
        return deployment

    def delete_deployment(self, deployment: Deployment) -> None:
        del self.state.deployments[deployment.id]
        self.tables.add("deployment")
        self._rows["deployments", deployment.id] = None

    def put_node(self, node: Node, *, own_change: bool = True) -> Node:
        """Store a node; `own_change=False` is the mark that its allocations were updated (no new ModifyIndex)."""
        old = self.state.nodes.get(node.id)
        node = msgspec.structs.replace(
            node,
            create_index=old.create_index if old else self.index,
            modify_index=self.index if own_change or old is None else old.modify_index,
        )
        self.state.nodes[node.id] = node
        self.tables.add("nodes")
        self._rows["nodes", node.id] = node
        self._event("Node", node.id, "", None, node)
        return node

    def delete_node(self, node: Node) -> None:
        del self.state.nodes[node.id]
        self.tables.add("nodes")
        self._rows["nodes", node.id] = None

    def put_variable(self, variable: Variable) -> Variable:
        self.state.variables[variable.namespace, variable.path] = variable
        self.tables.add("variables")
        self._rows["variables", _joined(variable.namespace, variable.path)] = variable
        return variable

    def delete_variable(self, namespace: str, path: str) -> None:
        self.state.variables.pop((namespace, path), None)
        self.tables.add("variables")
        self._rows["variables", _joined(namespace, path)] = None

    def settle_job_states(self) -> None:
        """Recompute pending / running / dead of every job this write touched."""
        for key in self._touched_jobs:
            job = self.state.jobs.get(key)
            if job is None:
                continue
            status = job_status(job, self.state.allocs_of_job(*key), self.state.evals_of_job(*key))
            if status != job["Status"]:
                self.put_job({**job, "Status": status})

    def frames(self) -> list[list[Event]]:
        """The lines this write becomes on the event stream: one, but two for a job's register and deregister.

        There Nomad writes the job and its evaluation one after the other under the same index (measured on
        1.10.5), so a reader must not take an index for finished after its first line.
        """
        if self.event_type not in ("JobRegistered", "JobDeregistered"):
            return [self.events]
        jobs = [event for event in self.events if event.topic == "Job"]
        return [jobs, [event for event in self.events if event.topic != "Job"]]

    def rows(self) -> Iterator[tuple[str, str, bytes | None]]:
        meta = (self.index, self.state.table_index)
        yield "meta", "", msgspec.json.encode(meta)
        for (kind, key), value in self._rows.items():
            yield kind, key, None if value is None else msgspec.json.encode(value)

    def _queued(self, key: Key, evaluation: Evaluation) -> None:
        summary = self.state.summaries.get(key)
        if summary is None or evaluation.queued_allocations is None:
            return
        groups = summary["Summary"]
        changed = {
            name: {**groups[name], "Queued": count}
            for name, count in evaluation.queued_allocations.items()
            if name in groups and groups[name]["Queued"] != count
        }
        if changed:
            self.put_summary(key, {**summary, "Summary": {**groups, **changed}, "ModifyIndex": self.index})

    def _event(
        self, topic: str, key: str, namespace: str, filter_keys: list[str] | None, subject: object
    ) -> None:
        self.events.append(Event(topic, self.event_type, key, namespace, filter_keys, self.index, subject))


def _joined(*parts: object) -> str:
    return "\x00".join(str(part) for part in parts)
