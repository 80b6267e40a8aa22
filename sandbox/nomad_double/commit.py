"""One write to the state store: puts and deletions, the events they make and the rows to keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from sandbox.nomad_double.events import Event
from sandbox.nomad_double.model import Allocation, Deployment, Evaluation, Json, Node, Variable
from sandbox.nomad_double.summary import count_alloc, job_status, new_summary

if TYPE_CHECKING:
    from sandbox.nomad_double.state import StateStore

Key = tuple[str, str]


class Commit:
    """One write in progress: puts and deletions, their events and the rows to keep."""

    def __init__(self, state: StateStore, index: int, event_type: str) -> None:
        self.state = state
        self.index = index
        self.event_type = event_type
        self.now_ns = state.clock.time_ns()
        self.tables: set[str] = set()
        self.variables: set[Key] = set()
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
        self.variables.add((variable.namespace, variable.path))
        self._rows["variables", _joined(variable.namespace, variable.path)] = variable
        return variable

    def delete_variable(self, namespace: str, path: str) -> None:
        self.state.variables.pop((namespace, path), None)
        self.tables.add("variables")
        self.variables.add((namespace, path))
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
