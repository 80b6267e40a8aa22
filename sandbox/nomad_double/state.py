"""The double's state store: tables, one global index, and commits that publish events and wake watchers.

As in Nomad, every committed write raises one global index by one; each table remembers the index of its last
write (that is what list queries answer and block on), and each object remembers its own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from sandbox.nomad_double.clock import Clock
from sandbox.nomad_double.commit import Commit, Key
from sandbox.nomad_double.events import EventBroker
from sandbox.nomad_double.model import Allocation, Deployment, Evaluation, Json, Node, Variable

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


RESUBSCRIBE = "subscription closed by server, client should resubscribe"


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
        self._changed: defaultdict[Key | None, asyncio.Event] = defaultdict(asyncio.Event)
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

    def evals_of_jobs(self, namespace: str, prefix: str) -> list[Evaluation]:
        """Evaluations of every job whose id begins with `prefix`."""
        keys = [key for key in self._job_evals if key[0] == namespace and key[1].startswith(prefix)]
        return [evaluation for key in keys for evaluation in self.evals_of_job(*key)]

    def deployments_of_job(self, namespace: str, job_id: str) -> list[Deployment]:
        """Newest first."""
        found = [d for d in self.deployments.values() if (d.namespace, d.job_id) == (namespace, job_id)]
        return sorted(found, key=lambda d: d.create_index, reverse=True)

    def job_version(self, namespace: str, job_id: str, version: int) -> Json | None:
        return next((j for j in self.versions.get((namespace, job_id), ()) if j["Version"] == version), None)

    def observe(self, observer: Callable[[Commit], None]) -> None:
        """Call `observer` after each commit, in the order of indexes."""
        self._observers.append(observer)

    def changed(self, *variables: Key) -> asyncio.Future[Any]:
        """Done at the next commit after this call (not: after it is first awaited). Cancel it when unused.

        With `variables` (namespace, path), at the next commit that writes one of them: a thousand tasks must
        not wake at every write.
        """
        events = [self._changed[key] for key in variables or (None,)]
        return asyncio.ensure_future(events[0].wait() if len(events) == 1 else _any_of(events))

    def wake_watchers(self, variables: Iterable[Key] | None = None) -> None:
        """Let those who wait for one of `variables`, or for any commit, look again; left out: everybody."""
        for key in list(self._changed) if variables is None else (None, *variables):
            event = self._changed.pop(key, None)
            if event is not None:
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
        self.wake_watchers(commit.variables)
        for observer in self._observers:
            observer(commit)

    def restore(self, index: int) -> None:
        """Lower every index to at most `index`, as restoring an old snapshot does; objects stay."""
        self.index = min(self.index, index)
        for table, value in self.table_index.items():
            self.table_index[table] = min(value, index)
        self.broker.close_all(RESUBSCRIBE)
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


async def _any_of(events: list[asyncio.Event]) -> None:
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
