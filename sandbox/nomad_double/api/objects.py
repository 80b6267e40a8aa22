"""Allocations, evaluations, deployments and nodes: lists, single objects, and operators' writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sandbox.nomad_double.api.web import (
    Outcome,
    Reply,
    Request,
    blocking,
    check_prefix,
    check_uuid,
    not_found,
    page,
    read_reply,
)
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.model import Allocation, Evaluation, Json, Node
from sandbox.nomad_double.views import (
    alloc_stub,
    alloc_view,
    deployment_view,
    eval_view,
    node_stub,
    node_view,
)


class ObjectRoutes:
    """Handlers of everything that is looked up by a UUID."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double
        self._state = double.state

    # --- allocations

    async def allocations(self, request: Request) -> Reply:
        request.allow("GET")
        resources, task_states = request.flag("resources"), request.flag("task_states", True)

        def items() -> Iterable[Allocation]:
            found = [
                a
                for a in self._state.allocs.values()
                if _in(request, a.namespace) and _prefixed(request, a.id)
            ]
            return sorted(found, key=lambda a: (a.create_index, a.id))

        return await self._list(
            request,
            "allocs",
            "alloc",
            items,
            token_of=lambda a: f"{a.create_index}.{a.id}",
            full=alloc_view,
            stub=lambda a: alloc_stub(a, resources=resources, task_states=task_states),
        )

    async def allocation(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1/allocation/")
        if path.endswith("/stop"):
            return await self._stop(request, path.removesuffix("/stop"))
        if "/" in path:
            raise ApiError(404, "resource not found")
        request.allow("GET")
        check_uuid(path, "alloc")

        def look() -> Outcome:
            alloc = self._state.allocs.get(path)
            index = alloc.modify_index if alloc else self._state.table_index["allocs"]
            return index, lambda: _found(index, alloc_view(alloc) if alloc else None, "alloc not found")

        return await blocking(self._double, request, look)

    async def _stop(self, request: Request, alloc_id: str) -> Reply:
        request.allow("PUT", "POST")
        check_uuid(alloc_id, "alloc")
        alloc = self._state.allocs.get(alloc_id)
        if alloc is None:
            raise ApiError(404, "allocation not found")
        flag = request.flag("no_shutdown_delay")
        body = await self._double.server.stop_alloc(alloc, no_shutdown_delay=flag)
        return Reply(body, headers={"X-Nomad-Index": str(body["Index"])})

    # --- evaluations

    async def evaluations(self, request: Request) -> Reply:
        request.allow("GET")
        if request.get("filter") and (request.get("job") or request.get("status")):
            raise ApiError(400, "Filter expression cannot be used with other filter parameters")

        def items() -> Iterable[Evaluation]:
            found = [
                e
                for e in self._state.evals.values()
                if _in(request, e.namespace)
                and _prefixed(request, e.id)
                and request.get("job") in ("", e.job_id)
                and request.get("status") in ("", e.status)
            ]
            return sorted(found, key=lambda e: (e.create_index, e.id))

        return await self._list(
            request,
            "evals",
            "eval",
            items,
            token_of=lambda e: f"{e.create_index}.{e.id}",
            full=eval_view,
            stub=eval_view,
        )

    async def evaluation(self, request: Request) -> Reply:
        request.allow("GET")
        path = request.path.removeprefix("/v1/evaluation/")
        eval_id = path.removesuffix("/allocations")
        if len(eval_id) != 36:
            raise ApiError(
                500, "failed to lookup eval: eval lookup failed: index error: UUID must be 36 characters"
            )
        if path != eval_id:
            return await self._table(
                request,
                "allocs",
                lambda: [alloc_stub(a) for a in self._state.allocs.values() if a.eval_id == eval_id],
            )

        def look() -> Outcome:
            evaluation = self._state.evals.get(eval_id)
            index = evaluation.modify_index if evaluation else self._state.table_index["evals"]
            value = eval_view(evaluation) if evaluation else None
            return index, lambda: _found(index, value, "eval not found")

        return await blocking(self._double, request, look)

    # --- deployments

    async def deployments(self, request: Request) -> Reply:
        request.allow("GET")

        def items() -> list[Any]:
            found = [
                d
                for d in self._state.deployments.values()
                if _in(request, d.namespace) and _prefixed(request, d.id)
            ]
            return sorted(found, key=lambda d: (d.create_index, d.id))

        return await self._list(
            request,
            "deployment",
            "deployment",
            items,
            token_of=lambda d: f"{d.create_index}.{d.id}",
            full=deployment_view,
            stub=deployment_view,
        )

    async def deployment(self, request: Request) -> Reply:
        request.allow("GET")
        deployment_id = request.path.removeprefix("/v1/deployment/")
        check_uuid(deployment_id, "deployment")

        def look() -> Outcome:
            found = self._state.deployments.get(deployment_id)
            index = found.modify_index if found else self._state.table_index["deployment"]
            value = deployment_view(found) if found else None
            return index, lambda: _found(index, value, "deployment not found")

        return await blocking(self._double, request, look)

    # --- nodes

    async def nodes(self, request: Request) -> Reply:
        request.allow("GET")
        resources, os = request.flag("resources"), request.flag("os")
        return await self._list(
            request,
            "nodes",
            "node",
            lambda: sorted(
                (n for n in self._state.nodes.values() if _prefixed(request, n.id)), key=lambda n: n.id
            ),
            token_of=lambda n: n.id,
            full=node_view,
            stub=lambda n: node_stub(n, resources=resources, os=os),
        )

    async def node(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1/node/")
        node_id, _, action = path.partition("/")
        check_uuid(node_id, "node")
        if action == "allocations":
            request.allow("GET")
            return await self._table(
                request, "allocs", lambda: [alloc_view(a) for a in self._state.allocs_of_node(node_id)]
            )
        if action in ("drain", "eligibility", "purge", "evaluate"):
            return self._node_write(request, node_id, action)
        if action:
            raise ApiError(404, "")
        request.allow("GET")

        def look() -> Outcome:
            node = self._state.nodes.get(node_id)
            index = node.modify_index if node else self._state.table_index["nodes"]
            return index, lambda: _found(index, node_view(node) if node else None, "node not found")

        return await blocking(self._double, request, look)

    def _node_write(self, request: Request, node_id: str, action: str) -> Reply:
        request.allow("PUT", "POST")
        node = self._state.nodes.get(node_id)
        operations = self._double.node_operations
        body = request.json() if action in ("drain", "eligibility") else {}
        if action == "eligibility" and not body.get("Eligibility"):
            raise ApiError(400, "missing scheduling eligibility")
        if node is None:
            raise ApiError(404 if action == "purge" else 500, "node not found")
        value = self._node_operation(operations, node, action, body)
        return Reply(value, headers={"X-Nomad-Index": str(value["Index"])})

    @staticmethod
    def _node_operation(operations: Any, node: Node, action: str, body: Json) -> Json:
        result: Json
        if action == "eligibility":
            result = operations.set_eligibility(node, body["Eligibility"])
        elif action == "drain":
            result = operations.drain(
                node, body.get("DrainSpec"), mark_eligible=bool(body.get("MarkEligible"))
            )
        elif action == "purge":
            result = operations.purge(node)
        else:
            result = operations.evaluate(node)
        return result

    # --- shared

    async def _list(
        self,
        request: Request,
        table: str,
        what: str,
        items: Callable[[], Iterable[Any]],
        *,
        token_of: Callable[[Any], str],
        full: Callable[[Any], Any],
        stub: Callable[[Any], Any],
    ) -> Reply:
        check_prefix(request.get("prefix"), what)

        def look() -> Outcome:
            index = self._state.table_index[table]
            return index, lambda: reply(index)

        def reply(index: int) -> Reply:
            found, token = page(request, items(), token_of=token_of, full=full, stub=stub)
            return read_reply(index, found, next_token=token)

        return await blocking(self._double, request, look)

    async def _table(self, request: Request, table: str, make: Callable[[], list[Json]]) -> Reply:
        def look() -> Outcome:
            index = self._state.table_index[table]
            return index, lambda: read_reply(index, make())

        return await blocking(self._double, request, look)


def _found(index: int, value: Json | None, text: str) -> Reply:
    if value is None:
        raise not_found(index, text)
    return read_reply(index, value)


def _in(request: Request, namespace: str) -> bool:
    return request.sees(namespace, "read-job")


def _prefixed(request: Request, object_id: str) -> bool:
    return object_id.startswith(request.get("prefix"))
