"""Draining nodes: which allocation is moved when, and when a drain is over (nomad/drainer of 1.10.5).

An allocation is moved once its health is known, so that no more than `migrate.max_parallel` of a group move at
a time; at the deadline, or with force, whatever is left is told to move and the drain counts as done.
"""

from __future__ import annotations

import asyncio

import msgspec

from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, DesiredTransition, Node
from sandbox.nomad_double.node_writes import kept_events, last_drain, node_event, put_evaluations
from sandbox.nomad_double.server import Server


class Drains:
    """All drains of a cluster."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state = server.state
        self._deadlines: dict[str, asyncio.Task[None]] = {}
        self._state.observe(self._on_commit)

    def changed(self, node_id: str) -> None:
        """A drain began, was changed or was called off."""
        timer = self._deadlines.pop(node_id, None)
        if timer is not None:
            timer.cancel()
        node = self._state.nodes.get(node_id)
        if node is None or node.drain_strategy is None:
            return
        deadline_ns = int(node.drain_strategy["Deadline"])
        if deadline_ns < 0:
            self._move_all(node_id)
        else:
            if deadline_ns:
                wait_s = deadline_ns / NS_PER_S / self._server.settings.speed
                self._deadlines[node_id] = asyncio.create_task(self._at_deadline(node_id, wait_s))
            self._advance(node_id)

    async def stop(self) -> None:
        timers = [*self._deadlines.values()]
        self._deadlines.clear()
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)

    async def _at_deadline(self, node_id: str, wait_s: float) -> None:
        await self._state.clock.sleep(wait_s)
        self._deadlines.pop(node_id, None)
        self._move_all(node_id)

    def _on_commit(self, commit: Commit) -> None:
        if "allocs" in commit.tables or "nodes" in commit.tables:
            for node in list(self._state.nodes.values()):
                if node.drain_strategy is not None and int(node.drain_strategy["Deadline"]) >= 0:
                    self._advance(node.id)

    def _advance(self, node_id: str) -> None:
        """Move what may be moved now; finish the drain when nothing is left."""
        left = [alloc for alloc in self._state.allocs_of_node(node_id) if not alloc.client_terminal]
        if not left:
            self._finish(node_id)
            return
        groups = {(alloc.namespace, alloc.job_id, alloc.task_group) for alloc in left}
        moving: list[Allocation] = []
        for namespace, job_id, group_name in sorted(groups):
            moving += self._movable(node_id, namespace, job_id, group_name)
        self._move(node_id, moving)

    def _movable(self, node_id: str, namespace: str, job_id: str, group_name: str) -> list[Allocation]:
        job = self._state.jobs.get((namespace, job_id))
        group = group_of(job, group_name) if job is not None else None
        if job is None or group is None or job["Stop"] or job["Type"] == "batch":
            return []
        allocs = [a for a in self._state.allocs_of_job(namespace, job_id) if a.task_group == group_name]
        still = [a for a in allocs if not a.terminal and not a.desired_transition.migrate]
        healthy = sum(
            a.deployment_status is not None and a.deployment_status.healthy is not None for a in still
        )
        allowed = healthy - (group["Count"] - (group["Migrate"] or {"MaxParallel": 1})["MaxParallel"])
        return [a for a in still if a.node_id == node_id][: max(0, allowed)]

    def _move_all(self, node_id: str) -> None:
        allocs = self._state.allocs_of_node(node_id)
        self._move(node_id, [a for a in allocs if not a.terminal and not a.desired_transition.migrate])
        self._finish(node_id)

    def _move(self, node_id: str, allocs: list[Allocation]) -> None:
        node = self._state.nodes.get(node_id)
        if not allocs or node is None:
            return
        with self._state.commit("AllocationUpdateDesiredStatus") as commit:
            for alloc in allocs:
                moved = msgspec.structs.replace(alloc, desired_transition=DesiredTransition(migrate=True))
                commit.put_alloc(moved, by_server=True)
            put_evaluations(self._server, commit, allocs, "node-drain", node)

    def _finish(self, node_id: str) -> None:
        node: Node | None = self._state.nodes.get(node_id)
        if node is None or node.drain_strategy is None:
            return
        timer = self._deadlines.pop(node_id, None)
        if timer is not None:
            timer.cancel()
        now_ns = self._state.clock.time_ns()
        done = msgspec.structs.replace(
            node,
            drain_strategy=None,
            last_drain=last_drain(node, "complete", now_ns),
            events=kept_events(node, node_event("Drain", "Node drain complete", now_ns)),
        )
        with self._state.commit("NodeDrain") as commit:
            commit.put_node(done)
