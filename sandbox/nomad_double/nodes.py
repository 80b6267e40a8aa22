"""Hosts of the double: how they register, and what an operator may do to them."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Callable

import msgspec

from sandbox.nomad_double.drains import Drains
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.model import Evaluation, Json, Node
from sandbox.nomad_double.node_writes import kept_events, last_drain, node_evaluations, node_event
from sandbox.nomad_double.server import Server
from sandbox.nomad_double.settings import DoubleSettings, HostSettings
from sandbox.nomad_double.state import StateStore


def fingerprint(
    host: HostSettings, settings: DoubleSettings, drivers: list[str], consul_version: str | None
) -> Node:
    """The node of a host, with the attributes that jobs constrain on."""
    attributes = {
        "kernel.name": "linux",
        "kernel.arch": platform.machine(),
        "cpu.arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "cpu.numcores": "8",
        "cpu.totalcompute": str(host.cpu_mhz),
        "cpu.usablecompute": str(host.cpu_mhz),
        "memory.totalbytes": str(host.memory_mb * 1024 * 1024),
        "nomad.version": settings.version,
        "nomad.service_discovery": "true",
        "os.name": "debian",
        "os.version": "12",
        "unique.hostname": host.name,
        "unique.network.ip-address": host.address,
        "unique.storage.bytesfree": str(host.disk_mb * 1024 * 1024),
        **{f"driver.{driver}": "1" for driver in drivers},
    }
    if consul_version is not None:
        attributes |= {
            "consul.version": consul_version,
            "consul.datacenter": "dc1",
            "consul.server": "true",
            "unique.consul.name": "consul",
        }
    return Node(
        id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{host.name}.{host.address}")),
        name=host.name,
        address=host.address,
        datacenter=host.datacenter,
        node_pool=host.node_pool,
        node_class=host.node_class,
        attributes=attributes,
        meta=dict(host.meta),
        cpu_mhz=host.cpu_mhz,
        memory_mb=host.memory_mb,
        disk_mb=host.disk_mb,
        min_dynamic_port=host.min_dynamic_port,
        max_dynamic_port=host.max_dynamic_port,
        reserved_ports=list(host.reserved_ports),
        drivers=drivers,
        max_kill_timeout_ns=round(host.max_kill_timeout_s * 1e9),
    )


def register_nodes(state: StateStore, nodes: list[Node]) -> None:
    """Make hosts known, or renew what is known of them; what an operator set (eligibility, drain) stays."""
    for node in nodes:
        known = state.nodes.get(node.id)
        now_ns = state.clock.time_ns()
        if known is not None:
            node = msgspec.structs.replace(
                node,
                scheduling_eligibility=known.scheduling_eligibility,
                drain_strategy=known.drain_strategy,
                last_drain=known.last_drain,
                events=known.events,
                last_alloc_update_index=known.last_alloc_update_index,
                last_missed_heartbeat_index=known.last_missed_heartbeat_index,
            )
        else:
            node = msgspec.structs.replace(node, events=[node_event("Cluster", "Node registered", now_ns)])
        with state.commit("NodeRegistration") as commit:
            commit.put_node(msgspec.structs.replace(node, status_updated_at=now_ns // 1_000_000_000))


class NodeOperations:
    """Eligibility, drain and purge, as /v1/node/:id/... does them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state = server.state
        self.forgotten: Callable[[str], None] = lambda _node_id: None
        """Called with the id of a purged node."""
        self.drains = Drains(server)

    def set_eligibility(self, node: Node, eligibility: str) -> Json:
        """Allow or forbid new placements.

        Raises:
            ApiError: 500 for another word than eligible / ineligible, or while the node drains.
        """
        if eligibility not in ("eligible", "ineligible"):
            raise ApiError(500, f'invalid scheduling eligibility "{eligibility}"')
        if node.drain_strategy is not None and eligibility == "eligible":
            raise ApiError(500, "can not set node's scheduling eligibility to eligible while it is draining")
        changed = node.scheduling_eligibility != eligibility
        with self._state.commit("NodeDrain") as commit:
            event = node_event("Cluster", f"Node marked as {eligibility} for scheduling", commit.now_ns)
            commit.put_node(
                msgspec.structs.replace(
                    node, scheduling_eligibility=eligibility, events=kept_events(node, event)
                )
            )
        evals: list[Evaluation] = []
        if changed and eligibility == "eligible":
            evals = self._evaluate_node(node, "node-update")
        return {
            "NodeModifyIndex": 0,
            "EvalIDs": [e.id for e in evals] or None,
            "EvalCreateIndex": evals[0].create_index if evals else 0,
            "Index": commit.index,
        }

    def drain(self, node: Node, spec: Json | None, *, mark_eligible: bool) -> Json:
        """Start, change or (spec None) cancel a drain. The node is ineligible from the first moment."""
        now_ns = self._state.clock.time_ns()
        with self._state.commit("NodeDrain") as commit:
            if spec is None:
                if node.drain_strategy is not None:
                    node = msgspec.structs.replace(
                        node,
                        last_drain=last_drain(node, "canceled", now_ns),
                        events=kept_events(node, node_event("Drain", "Node drain disabled", now_ns)),
                    )
                eligibility = "eligible" if mark_eligible else node.scheduling_eligibility
                commit.put_node(
                    msgspec.structs.replace(node, drain_strategy=None, scheduling_eligibility=eligibility)
                )
            else:
                deadline = int(spec.get("Deadline") or 0)
                strategy = {
                    "Deadline": deadline,
                    "IgnoreSystemJobs": bool(spec.get("IgnoreSystemJobs")),
                    "ForceDeadline": iso_time(now_ns + deadline) if deadline > 0 else "0001-01-01T00:00:00Z",
                    "StartedAt": iso_time(now_ns),
                }
                started = msgspec.structs.replace(
                    node,
                    drain_strategy=strategy,
                    scheduling_eligibility="ineligible",
                    events=kept_events(node, node_event("Drain", "Node drain strategy set", now_ns)),
                )
                commit.put_node(
                    msgspec.structs.replace(started, last_drain=last_drain(started, "draining", now_ns))
                )
        self.drains.changed(node.id)
        return {"NodeModifyIndex": commit.index, "EvalIDs": None, "EvalCreateIndex": 0, "Index": commit.index}

    def purge(self, node: Node) -> Json:
        """Forget a node; its allocations become lost."""
        with self._state.commit("NodeDeregistration") as commit:
            commit.delete_node(node)
        self.forgotten(node.id)
        evals = self._evaluate_node(node, "node-update")
        return {
            "NodeModifyIndex": commit.index,
            "EvalIDs": [e.id for e in evals] or None,
            "EvalCreateIndex": evals[0].create_index if evals else 0,
            "Index": commit.index,
        }

    def evaluate(self, node: Node) -> Json:
        evals = self._evaluate_node(node, "node-update")
        index = evals[0].create_index if evals else 0
        ids = [e.id for e in evals] or None
        return {
            "NodeModifyIndex": node.modify_index,
            "EvalIDs": ids,
            "EvalCreateIndex": index,
            "Index": index,
        }

    def _evaluate_node(self, node: Node, trigger: str) -> list[Evaluation]:
        return node_evaluations(self._server, node, trigger, node.modify_index)
