"""What every write about a node has in common: its events, its drains' state, the evaluations it causes."""

from __future__ import annotations

from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.model import Allocation, Evaluation, Json, Node
from sandbox.nomad_double.scheduler import new_id
from sandbox.nomad_double.server import Server


def node_evaluations(server: Server, node: Node, trigger: str, node_index: int) -> list[Evaluation]:
    """Let every job look again that has an allocation on the node, also one that is over."""
    allocs = server.state.allocs_of_node(node.id)
    if not allocs:
        return []
    with server.state.commit("EvaluationUpdated") as commit:
        return put_evaluations(server, commit, allocs, trigger, node, node_index)


def put_evaluations(
    server: Server,
    commit: Commit,
    allocs: list[Allocation],
    trigger: str,
    node: Node,
    node_index: int = 0,
) -> list[Evaluation]:
    """One pending evaluation for each job of `allocs`."""
    if server.settings.release >= (1, 11, 2):
        # Since then what is over for the servers and the client makes none (measured on 2.0.5), so the return or
        # the purge of a node no longer skips the wait of a lost allocation.
        allocs = [alloc for alloc in allocs if not (alloc.server_terminal and alloc.client_terminal)]
    jobs = {(alloc.namespace, alloc.job_id): alloc.job for alloc in allocs}
    return [
        commit.put_eval(
            Evaluation(
                id=new_id(server.rng),
                namespace=namespace,
                priority=job["Priority"],
                type=job["Type"],
                triggered_by=trigger,
                job_id=job_id,
                node_id=node.id,
                node_modify_index=node_index,
                status="pending",
            )
        )
        for (namespace, job_id), job in jobs.items()
    ]


def last_drain(node: Node, status: str, now_ns: int) -> Json:
    """`LastDrain` of a node whose drain got this far."""
    started = (node.drain_strategy or {}).get("StartedAt") or iso_time(now_ns)
    return {
        "StartedAt": started,
        "UpdatedAt": iso_time(now_ns),
        "Status": status,
        "AccessorID": "",
        "Meta": None,
    }


def node_event(subsystem: str, message: str, now_ns: int, index: int = 0) -> Json:
    """One entry of a node's `Events`."""
    return {
        "Message": message,
        "Subsystem": subsystem,
        "Details": None,
        "Timestamp": iso_time(now_ns),
        "CreateIndex": index,
    }


def kept_events(node: Node, event: Json) -> list[Json]:
    """The newest ten events of a node, with one more."""
    return [*node.events, event][-10:]
