"""/v1/vars and /v1/var/:path."""

from __future__ import annotations

import re

import msgspec

from sandbox.nomad_double.api.web import Outcome, Reply, Request, blocking, not_found, page, read_reply
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.model import Variable

MAX_BYTES = 64 * 1024
_PATH = re.compile(r"^[a-zA-Z0-9\-_~/]{1,128}$")
_TEMPLATE_PATH = re.compile(r"^nomad/job-templates/[a-zA-Z0-9\-_]+$")


_RESERVED = (
    '"nomad" is a reserved top-level directory path, but you may write variables to "nomad/jobs", '
    '"nomad/job-templates", or below'
)


class VariableRoutes:
    """Variables with check-and-set. Locks are not offered: nothing of ours uses them."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double
        self._state = double.state

    async def list(self, request: Request) -> Reply:
        request.allow("GET")
        prefix, everywhere = request.get("prefix"), request.namespace == "*"

        def look() -> Outcome:
            index = self._state.table_index["variables"]
            return index, lambda: reply(index)

        def reply(index: int) -> Reply:
            variables = [
                variable
                for (namespace, path), variable in sorted(self._state.variables.items())
                if (everywhere or namespace == request.namespace)
                and path.startswith(prefix)
                and request.rights.on_variable(namespace, path, "list")
            ]
            found, token = page(
                request,
                variables,
                token_of=lambda v: f"{v.namespace}.{v.path}",
                full=lambda v: v.metadata(),
                stub=lambda v: v.metadata(),
            )
            return read_reply(index, found, next_token=token)

        return await blocking(self._double, request, look)

    async def specific(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1/var/")
        if not path:
            raise ApiError(400, "missing variable path")
        if any(name in request.query for name in ("lock-acquire", "lock-renew", "lock-release")):
            raise ApiError(
                501, "the Nomad double does not offer variable locks; run a real Nomad agent for them"
            )
        if request.method in ("PUT", "POST"):
            return await self._put(request, path)
        if request.method == "DELETE":
            return await self._delete(request, path)
        request.allow("GET")

        def look() -> Outcome:
            variable = self._state.variables.get((request.namespace, path))
            index = variable.modify_index if variable else self._state.table_index["variables"]
            return index, lambda: reply(variable, index)

        def reply(variable: Variable | None, index: int) -> Reply:
            if variable is None:
                raise not_found(index, "variable not found")
            return read_reply(index, variable.decrypted())

        return await blocking(self._double, request, look)

    async def _put(self, request: Request, path: str) -> Reply:
        body = request.json()
        cas = _cas(request)
        items = body.get("Items")
        if not items:
            raise ApiError(400, "variable missing required Items object")
        if not isinstance(items, dict) or not all(isinstance(value, str) for value in items.values()):
            kind = next((_go_kind(v) for v in items.values() if not isinstance(v, str)), "array")
            text = (
                f"json: cannot unmarshal {kind} into Go struct field VariableDecrypted.Items of type string"
            )
            raise ApiError(400, text)
        namespace = request.namespace if "namespace" in request.query else body.get("Namespace") or "default"
        self._check(path, items)
        await self._double.clock.sleep(self._double.settings.delays.raft_s)
        existing = self._state.variables.get((namespace, path))
        if cas is not None and cas != (existing.modify_index if existing else 0):
            return _conflict(existing, namespace, path)
        now_ns = self._state.clock.time_ns()
        with self._state.commit("") as commit:
            variable = commit.put_variable(
                Variable(
                    namespace=namespace,
                    path=path,
                    items=dict(items),
                    create_index=existing.create_index if existing else commit.index,
                    create_time=existing.create_time if existing else now_ns,
                    modify_index=commit.index,
                    modify_time=now_ns,
                )
            )
        return Reply(variable.decrypted(), headers={"X-Nomad-Index": str(commit.index)})

    async def _delete(self, request: Request, path: str) -> Reply:
        cas = _cas(request)
        await self._double.clock.sleep(self._double.settings.delays.raft_s)
        existing = self._state.variables.get((request.namespace, path))
        if cas is not None and cas != (existing.modify_index if existing else 0):
            return _conflict(existing, request.namespace, path)
        with self._state.commit("") as commit:
            commit.delete_variable(request.namespace, path)
        return Reply(status=204, headers={"X-Nomad-Index": str(commit.index)})

    @staticmethod
    def _check(path: str, items: dict[str, str]) -> None:
        if not _PATH.match(path):
            raise _refused(f'invalid path "{path}"')
        parts = path.split("/")
        if parts[0] == "nomad":
            if len(parts) == 1:
                raise _refused(_RESERVED)
            if parts[1] not in ("jobs", "job-templates"):
                raise _refused(
                    'only paths at "nomad/jobs" or "nomad/job-templates" and below are valid paths under the '
                    'top-level "nomad" directory'
                )
            if parts[1] == "job-templates" and not _TEMPLATE_PATH.match(path):
                raise _refused(
                    '"nomad/job-templates" is a reserved directory path, but you may write variables at the level '
                    'below it, for example, "nomad/job-templates/template-name"'
                )
        size = sum(len(key.encode()) + len(value.encode()) for key, value in items.items())
        if size > MAX_BYTES:
            raise _refused("variables are limited to 64KiB in total size")


def _cas(request: Request) -> int | None:
    if "cas" not in request.query:
        return None
    text = request.get("cas")
    if not text.isdigit():
        raise ApiError(400, f'can not parse cas: strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _conflict(existing: Variable | None, namespace: str, path: str) -> Reply:
    """409 with what stands there; an absent variable shows as one with index 0."""
    found = existing or Variable(namespace=namespace, path=path, items={})
    body = found.decrypted() if existing else {**found.metadata(), "Items": None}
    # The real server sends this JSON without a content type.
    raw = msgspec.json.encode(body)
    return Reply(status=409, raw=raw, headers={"X-Nomad-Index": str(found.modify_index)})


def _refused(text: str) -> ApiError:
    return ApiError(400, f"RPC Error:: 400,{text}", {"X-Nomad-Index": "0"})


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "object" if isinstance(value, dict) else "array"
