"""The HTTP surface, as a plain ASGI application: requests, replies, and reads that wait.

Not a web framework's, because Consul answers errors as bare text, unknown routes with an empty 404, and
matches keys with slashes in them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec

from sandbox.consul_double.refusal import RefusalError, duration_s
from sandbox.faults import Fault, Faults, cut_connection

WAIT_DEFAULT_S: Final = 300.0
WAIT_MOST_S: Final = 600.0
_TRUE: Final = frozenset({"", "1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    argument: str = ""
    headers: dict[str, str] = {}

    def get(self, name: str) -> str:
        return self.query.get(name, [""])[0]

    def has(self, name: str) -> bool:
        return name in self.query

    def flag(self, name: str) -> bool:
        """A parameter that may stand alone: `?passing`. Raises RefusalError."""
        if name not in self.query:
            return False
        value = self.get(name)
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise RefusalError(400, f"Invalid value for ?{name}")

    def json(self, *, otherwise: str = "Request decode failed") -> Any:
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise RefusalError(400, f"{otherwise}: {_go_words(self.body, error)}") from error


class Reply(msgspec.Struct, frozen=True):
    """`value` is sent as JSON; `raw` as it is, with `content_type`."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = {}
    raw: bytes | None = None
    content_type: str = "application/json"


NOTHING: Final = Reply(raw=b"", content_type="")
Handler = Callable[[Request], Awaitable[Reply]]
Route = tuple[str, tuple[str, ...], Handler]
"""Path (of one that ends in a slash, what follows is the request's argument), methods, handler."""


class Changes:
    """Wakes everybody who waits for a commit."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed = False

    def announce(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def close(self) -> None:
        """Let reads that wait answer now: the server stops."""
        self.closed = True
        self.announce()

    async def wait(self, timeout_s: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait((waiting,), timeout=timeout_s)
        finally:
            self._waiting.discard(waiting)


class App:
    """Routes requests, holds reads until there is news, and turns refusals into replies."""

    def __init__(
        self,
        changes: Changes,
        monotonic: Callable[[], float],
        faults: Faults | None = None,
        stale: Callable[[int], App] | None = None,
    ) -> None:
        self._faults = faults or Faults()
        self._stale = stale
        self._exact: dict[str, tuple[tuple[str, ...], Handler]] = {}
        self._prefixes: list[Route] = []
        self._changes = changes
        self._monotonic = monotonic

    def serve(self, routes: list[Route]) -> None:
        """Add paths; of two that fit a request, the one that came first answers."""
        self._exact |= {path: (methods, handler) for path, methods, handler in routes if path[-1] != "/"}
        self._prefixes += [route for route in routes if route[0][-1] == "/"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        raw_path = scope["raw_path"].decode("latin-1").partition("?")[0]
        request = Request(
            method=scope["method"],
            path=unquote(raw_path),
            query=parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True),
            body=body,
            headers={
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
            },
        )
        fault = None
        if not request.path.startswith("/double/"):
            fault = self._faults.of_request(request.method, request.path, "", body)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind == "cut":
            await cut_connection(receive)
            return
        if fault is not None and fault.kind == "lose-reply":
            await self._answer(request)
            await cut_connection(receive)
            return
        work = asyncio.create_task(self._answered(request, fault))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await _send(send, work.result(), pretty=request.has("pretty"))
        finally:
            work.cancel()
            gone.cancel()

    async def blocking(self, request: Request, look: Callable[[], tuple[int, Any]]) -> Reply:
        """A read: at once, or with `?index=` when its index passes that, or after `?wait=` and its jitter.

        `look` gives the index of what is read and its value; value None is an empty 404.
        """
        minimum, wait_s = _wait_parameters(request)
        deadline = self._monotonic() + wait_s + random.uniform(0, wait_s / 16)  # noqa: S311
        index, value = look()
        while minimum and max(1, index) <= minimum and not self._changes.closed:
            left_s = deadline - self._monotonic()
            if left_s <= 0:
                break
            await self._changes.wait(left_s)
            index, value = look()
        headers = {
            "X-Consul-Index": str(max(1, index)),
            "X-Consul-Knownleader": "true",
            "X-Consul-Lastcontact": "0",
        }
        return (
            Reply(value, headers=headers)
            if value is not None
            else Reply(status=404, headers=headers, raw=b"")
        )

    async def _answer(self, request: Request) -> Reply:
        try:
            return await self._handle(request)
        except RefusalError as refusal:
            return _text(refusal.status, refusal.text)

    async def _answered(self, request: Request, fault: Fault | None) -> Reply:
        """The answer, as a fault bends it."""
        if fault is None:
            return await self._answer(request)
        if fault.kind == "refuse":
            return _text(fault.status, fault.text)
        if fault.kind == "stale" and self._stale is not None:
            return await self._stale(fault.id)._answer(request)
        reply = await self._answer(request)
        if fault.kind == "empty" and isinstance(reply.value, list | dict):
            reply = msgspec.structs.replace(reply, value=type(reply.value)())
        return reply

    async def _handle(self, request: Request) -> Reply:
        found = self._exact.get(request.path)
        if found is None:
            for prefix, methods, handler in self._prefixes:
                if request.path.startswith(prefix):
                    found = methods, handler
                    argument = request.path.removeprefix(prefix)
                    request = msgspec.structs.replace(request, argument=argument)
                    break
            else:
                return Reply(status=404, raw=b"", content_type="")
        methods, handler = found
        if request.method not in methods:
            refused = _text(405, f"method {request.method} not allowed")
            return msgspec.structs.replace(refused, headers={"Allow": ",".join(methods)})
        if request.get("dc") not in ("", "dc1"):
            return _text(500, "No path to datacenter")
        return await handler(request)


def _text(status: int, text: str) -> Reply:
    return Reply(status=status, raw=text.encode(), content_type="text/plain; charset=utf-8")


def consistency(request: Request, reply: Reply) -> Reply:
    """With the header that tells how a catalog read was answered."""
    mode = next((mode for mode in ("stale", "consistent") if request.has(mode)), "leader")
    return msgspec.structs.replace(reply, headers={**reply.headers, "X-Consul-Effective-Consistency": mode})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, reply: Reply, *, pretty: bool) -> None:
    if reply.raw is not None:
        body = reply.raw
    else:
        body = msgspec.json.encode(reply.value)
        if pretty:
            body = msgspec.json.format(body, indent=4) + b"\n"
    headers = {"Vary": "Accept-Encoding", **reply.headers, "Content-Length": str(len(body))}
    if reply.content_type and body:
        headers["Content-Type"] = reply.content_type
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


def _wait_parameters(request: Request) -> tuple[int, float]:
    wait_s = WAIT_DEFAULT_S
    if text := request.get("wait"):
        try:
            wait_s = duration_s(text)
        except ValueError as error:
            raise RefusalError(400, "Invalid wait time") from error
    text = request.get("index")
    if text and not text.isdecimal():
        raise RefusalError(400, "Invalid index")
    return int(text or 0), min(wait_s, WAIT_MOST_S) if wait_s > 0 else WAIT_DEFAULT_S


def _go_words(body: bytes, error: msgspec.DecodeError) -> str:
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return "EOF"
    if text[0] not in '{["tfn-0123456789':
        return f"invalid character '{text[0]}' looking for beginning of value"
    return "unexpected EOF" if "truncated" in str(error) else f"invalid JSON: {error}"
