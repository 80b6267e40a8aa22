"""The servers' side of heartbeats: a TTL for each node, and what a missed or a resumed one does to the node.

Follows nomad/heartbeat.go and Node.UpdateStatus of Nomad 1.10.5. A node is given up TTL + grace after its last
heartbeat; it becomes `disconnected` while an allocation of it may still come back (`lost_after`), else `down`.
"""

from __future__ import annotations

import asyncio

import msgspec

from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.disconnect import may_come_back
from sandbox.nomad_double.model import Node
from sandbox.nomad_double.node_writes import kept_events, node_evaluations, node_event
from sandbox.nomad_double.server import Server

MISSED = "Node heartbeat missed"
RETURNED = "Node reregistered by heartbeat"


class Heartbeats:
    """Timers of all nodes of a cluster."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state = server.state
        self._settings = server.settings
        self._deadlines_ns: dict[str, int] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}

    def beat(self, node_id: str) -> float:
        """A client is heard. Returns the TTL it is granted, in seconds: random in [B, 2B] (`min_heartbeat_ttl`)."""
        node = self._state.nodes.get(node_id)
        if node is not None and node.status != "ready":
            self._returned(node)
        beats = self._settings.heartbeats
        base_s = max(beats.min_ttl_s, len(self._state.nodes) / beats.max_per_second)
        ttl_s = (base_s + self._server.rng.uniform(0, base_s)) / self._settings.speed
        self._expect(node_id, ttl_s)
        return ttl_s

    def forget(self, node_id: str) -> None:
        """The node is purged."""
        self._deadlines_ns.pop(node_id, None)
        timer = self._timers.pop(node_id, None)
        if timer is not None:
            timer.cancel()

    async def stop(self) -> None:
        timers = [*self._timers.values()]
        self._timers.clear()
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)

    def deadline_ns(self, node_id: str) -> int | None:
        """When a node is given up unless it is heard before."""
        return self._deadlines_ns.get(node_id)

    def _expect(self, node_id: str, ttl_s: float) -> None:
        grace_s = self._settings.heartbeats.grace_s / self._settings.speed
        self._deadlines_ns[node_id] = self._state.clock.time_ns() + round((ttl_s + grace_s) * NS_PER_S)
        if node_id not in self._timers:
            self._timers[node_id] = asyncio.create_task(self._watch(node_id))

    async def _watch(self, node_id: str) -> None:
        while (deadline_ns := self._deadlines_ns.get(node_id)) is not None:
            left_ns = deadline_ns - self._state.clock.time_ns()
            if left_ns > 0:
                await self._state.clock.sleep(left_ns / NS_PER_S)
                continue
            del self._deadlines_ns[node_id]
            self._missed(node_id)
        self._timers.pop(node_id, None)

    def _missed(self, node_id: str) -> None:
        node = self._state.nodes.get(node_id)
        if node is None:
            return
        now_ns = self._state.clock.time_ns()
        allocs = self._state.allocs_of_node(node_id)
        status = "down"
        if node.status != "down" and may_come_back(allocs, now_ns, self._settings.speed):
            status = "disconnected"
        self._put_status(node, status, MISSED, missed=True)
        if status == "disconnected":
            # Looked at again and again, until nothing on it may come back any more.
            self._expect(node_id, self._settings.heartbeats.min_ttl_s / self._settings.speed)

    def _returned(self, node: Node) -> None:
        self._put_status(node, "ready", RETURNED, missed=False)

    def _put_status(self, node: Node, status: str, message: str, *, missed: bool) -> None:
        changed = node.status != status
        with self._state.commit("NodeStreamEvent") as commit:
            commit.put_node(
                msgspec.structs.replace(
                    node,
                    status=status,
                    status_updated_at=commit.now_ns // NS_PER_S,
                    events=kept_events(node, node_event("Cluster", message, commit.now_ns, commit.index)),
                    last_missed_heartbeat_index=commit.index if missed else node.last_missed_heartbeat_index,
                )
            )
        if changed or status == "down":
            node_evaluations(self._server, node, "node-update", commit.index)
