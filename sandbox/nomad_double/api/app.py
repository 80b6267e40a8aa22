"""The ASGI application: routing as in Nomad's mux, tokens, errors as text, the log of accepted writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import structlog

from sandbox.faults import Fault, cut_connection
from sandbox.nomad_double.api.access import Access
from sandbox.nomad_double.api.agent import AgentRoutes
from sandbox.nomad_double.api.client import ClientRoutes
from sandbox.nomad_double.api.control import ControlRoutes
from sandbox.nomad_double.api.jobs import JobRoutes
from sandbox.nomad_double.api.objects import ObjectRoutes
from sandbox.nomad_double.api.statuses import StatusRoutes
from sandbox.nomad_double.api.stream import StreamRoutes
from sandbox.nomad_double.api.variables import VariableRoutes
from sandbox.nomad_double.api.web import Reply, Request, parse_query
from sandbox.nomad_double.double import LoggedWrite, NomadDouble
from sandbox.nomad_double.errors import ApiError

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Reply]]

MAX_BODY = 32 * 1024 * 1024
_DRY = ("/plan", "/v1/jobs/parse", "/v1/validate/job")


class NomadApp:
    """Serves one double over HTTP."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double
        self._access = Access(double.settings, double.state)
        jobs, objects = JobRoutes(double), ObjectRoutes(double)
        variables, client, agent = VariableRoutes(double), ClientRoutes(double), AgentRoutes(double)
        control = ControlRoutes(double)
        self._exact: dict[str, Handler] = {
            "/": agent.root,
            "/v1/jobs": jobs.jobs,
            "/v1/jobs/statuses": StatusRoutes(double).statuses,
            "/v1/jobs/parse": jobs.parse,
            "/v1/validate/job": jobs.validate,
            "/v1/allocations": objects.allocations,
            "/v1/evaluations": objects.evaluations,
            "/v1/deployments": objects.deployments,
            "/v1/nodes": objects.nodes,
            "/v1/vars": variables.list,
            "/v1/event/stream": StreamRoutes(double).stream,
            "/v1/agent/self": agent.self_,
            "/v1/agent/members": agent.members,
            "/v1/agent/health": agent.health,
            "/v1/status/leader": agent.leader,
            "/v1/status/peers": agent.peers,
            "/v1/regions": agent.regions,
            "/v1/system/gc": agent.collect_garbage,
            "/v1/namespaces": agent.namespaces,
            "/v1/operator/scheduler/configuration": agent.scheduler_configuration,
            "/v1/double/log": agent.write_log,
            "/v1/double/hosts": control.hosts,
            "/v1/double/journal": control.journal,
            "/v1/double/faults": control.faults,
            "/v1/double/restore": control.restore,
            "/v1/double/cas": control.cas,
        }
        self._below: dict[str, Handler] = {
            "/v1/job/": jobs.specific,
            "/v1/allocation/": objects.allocation,
            "/v1/evaluation/": objects.evaluation,
            "/v1/deployment/": objects.deployment,
            "/v1/node/": objects.node,
            "/v1/var/": variables.specific,
            "/v1/client/allocation/": client.allocation,
            "/v1/client/fs/logs/": client.logs,
            "/v1/namespace/": agent.namespace,
            "/v1/double/host/": control.host,
            "/v1/double/fault/": control.fault,
            "/v1/double/streams/": control.streams,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = await _read_request(scope, receive)
        fault = self._fault(request)
        if fault is not None and fault.kind == "slow":
            await self._double.clock.sleep(fault.seconds)
        if fault is not None and fault.kind == "cut":
            await cut_connection(receive)
            return
        try:
            request = msgspec.structs.replace(request, rights=self._access.rights_of(request))
            handler = self._chosen(request, fault)
            if request.method == "GET":
                answer = await self._until_gone(handler(request), receive)
                if answer is None:
                    return
                reply = answer
            else:
                reply = await handler(request)
            self._log(request, reply)
            if fault is not None and fault.kind == "empty" and isinstance(reply.value, list):
                reply = msgspec.structs.replace(reply, value=[])
        except ApiError as error:
            plain = {"Content-Type": "text/plain; charset=utf-8"} if error.text else {}
            headers = {**plain, **error.headers}
            reply = Reply(status=error.status, raw=error.text.encode(), headers=headers)
        except Exception:
            log.exception("request_failed", method=request.method, path=request.path)
            raw = b"internal error of the Nomad double; its log says more"
            reply = Reply(status=500, raw=raw, headers={"Content-Type": "text/plain; charset=utf-8"})
        if fault is not None and fault.kind == "lose-reply":
            await cut_connection(receive)
            return
        await _send_reply(reply, receive, send)

    def _handler(self, request: Request) -> Handler:
        found = self._exact.get(request.path)
        if found is not None:
            return found
        for prefix, handler in self._below.items():
            if request.path.startswith(prefix):
                return handler
        raise ApiError(404, "")

    def _chosen(self, request: Request, fault: Fault | None) -> Handler:
        """Who answers. Raises ApiError for a path that is none, a token that may not, a fault that refuses."""
        if fault is not None and fault.kind == "refuse":
            raise ApiError(fault.status, fault.text)
        handler = self._handler(request)
        self._access.check(request)
        if fault is not None and fault.kind == "stale":
            return NomadApp(self._double.stale[fault.id])._handler(request)
        return handler

    def _fault(self, request: Request) -> Fault | None:
        """The fault that hits this request; the double's own paths are never hit."""
        if request.path.startswith("/v1/double/"):
            return None
        return self._double.faults.of_request(request.method, request.path, request.namespace, request.body)

    async def _until_gone(self, work: Awaitable[Reply], receive: Receive) -> Reply | None:
        """Answer a read, but stop waiting (a blocking query) when the client hangs up."""
        answering: asyncio.Future[Any] = asyncio.ensure_future(work)
        gone: asyncio.Future[Any] = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                return None
            found: Reply = answering.result()
            return found
        finally:
            gone.cancel()

    def _log(self, request: Request, reply: Reply) -> None:
        """Keep accepted writes. Reads, dry runs and refusals are none."""
        if request.method not in ("PUT", "POST", "DELETE") or reply.status >= 400:
            return
        if request.path.endswith(_DRY) or request.path.startswith("/v1/double/"):
            return
        value = reply.value if isinstance(reply.value, dict) else {}
        job_id = ""
        if request.path == "/v1/jobs":
            job_id = str(request.json()["Job"]["ID"])
        elif request.path.startswith("/v1/job/"):
            job_id = request.path.removeprefix("/v1/job/")
            for suffix in ("/evaluate", "/scale"):
                job_id = job_id.removesuffix(suffix)
        eval_id = str(value.get("EvalID", ""))
        register = self._double.journal.register_of(eval_id) if eval_id else None
        self._double.record(
            LoggedWrite(
                method=request.method,
                path=request.path,
                namespace=request.namespace,
                status=reply.status,
                index=int(reply.headers.get("X-Nomad-Index", 0)),
                time=self._double.clock.time_ns(),
                job_id=job_id,
                eval_id=eval_id,
                spec_hash=register.spec_hash if register is not None else "",
                job_modify_index_before=register.job_modify_index_before if register is not None else None,
                job_modify_index=register.job_modify_index if register is not None else None,
            )
        )


async def _read_request(scope: Scope, receive: Receive) -> Request:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > MAX_BODY:
            break
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return Request(scope["method"], scope["path"], parse_query(scope["query_string"]), headers, body)


async def _send_reply(reply: Reply, receive: Receive, send: Send) -> None:
    headers = dict(reply.headers)
    if reply.stream is not None:
        await _send_stream(reply, headers, receive, send)
        return
    if reply.raw is not None:
        body = reply.raw
    elif reply.value is None:
        body = b""
    else:
        body = msgspec.json.encode(reply.value)
        headers["Content-Type"] = "application/json"
    if reply.status != 204:
        headers["Content-Length"] = str(len(body))
    await send({"type": "http.response.start", "status": reply.status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


async def _send_stream(reply: Reply, headers: dict[str, str], receive: Receive, send: Send) -> None:
    """Send until the stream ends or the client hangs up."""
    assert reply.stream is not None
    stream = reply.stream

    async def pump() -> None:
        await send({"type": "http.response.start", "status": reply.status, "headers": _raw(headers)})
        async for chunk in stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    pumping = asyncio.create_task(pump())
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({pumping, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pumping.cancel()
        gone.cancel()
        await asyncio.gather(pumping, gone, return_exceptions=True)
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
