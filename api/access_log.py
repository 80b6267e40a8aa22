"""The outermost layer: request ids, one log line a request, and the last net for errors.

Never in the log: query strings, headers, bodies, tokens.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.metrics import Metrics
from api.problems import internal_error, send_problem
from core.logging import direct

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
# Asked every few seconds by machines; a line each would bury the rest.
_QUIET: Final = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})

_log = structlog.get_logger("api.access")


class AccessLog:
    """Wraps an ASGI application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        began_at = time.perf_counter()
        status, streamed = 0, False

        async def sending(message: Message) -> None:
            nonlocal status, streamed
            if message["type"] == "http.response.start":
                status = message["status"]
                headers, streamed = _finished(message["headers"])
                headers.append((b"x-request-id", request_id.encode()))
                message["headers"] = headers
            await send(message)

        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, sending)
        except Exception:
            _log.exception("request_broke", path=scope["path"], method=scope["method"])
            if status:
                raise  # half an answer is out: all that is left is to cut the connection
            await send_problem(internal_error(scope["path"]), sending)
        finally:
            took_s = time.perf_counter() - began_at
            self._metrics.count(scope, status, took_s, streamed=streamed)
            if scope["path"] not in _QUIET or status >= 400:
                user = scope.get("user")
                direct().info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round(took_s * 1000, 1),
                    user_id=getattr(user, "id", None),
                )
            structlog.contextvars.reset_contextvars(**bound)


def _request_id(scope: Any) -> str:
    """The caller's own id when it is a harmless one, so that logs of several systems can be joined."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.match(text):
                return str(text)
    return secrets.token_hex(16)


def _finished(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The headers, and whether the answer lasts for as long as somebody reads it.

    Whatever says nothing about caching may hold somebody's data and is kept nowhere.
    """
    known, kept, streamed = list(headers), False, False
    for name, value in known:
        lower = name.lower()
        if lower == b"cache-control":
            kept = True
        elif lower == b"content-type":
            streamed = value.startswith(b"text/event-stream")
    if not kept:
        known.append((b"cache-control", b"no-store"))
    return known, streamed
