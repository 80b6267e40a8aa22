"""Cross-origin requests, for the listed origins alone.

Own code, and short: the framework's would send credentials and exposed headers to refused origins too, add headers to
the list of allowed ones, and put `Vary: Origin` in the place of the `Vary` that keeps two users' chips apart in a
browser's cache.
"""

from __future__ import annotations

from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

METHODS: Final = "GET, POST, PUT, DELETE, OPTIONS"
ALLOWED: Final = (
    "Authorization, Content-Type, X-API-Key, Idempotency-Key, If-None-Match, Prefer, Last-Event-ID"
)
EXPOSED: Final = "ETag, Retry-After, Link, Preference-Applied"
_PREFLIGHT_S: Final = b"600"


class Cors:
    """Wraps an ASGI application. A preflight is answered by the router like any OPTIONS, so it needs no token."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        """`origins`: as browsers send them (`https://host`), in any letter case."""
        self._app = app
        self._origins = frozenset(origin.lower().rstrip("/").encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and self._origins:
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        asked = dict(scope["headers"])
        origin = asked.get(b"origin", b"")
        added: list[tuple[bytes, bytes]] = []
        if origin.lower() in self._origins:
            added = [
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
            ]
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in asked:
                added += [
                    (b"access-control-allow-methods", METHODS.encode()),
                    (b"access-control-allow-headers", ALLOWED.encode()),
                    (b"access-control-max-age", _PREFLIGHT_S),
                ]
            else:
                added.append((b"access-control-expose-headers", EXPOSED.encode()))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                # For everybody: a cache must not give the answer without these headers to who needs them.
                message["headers"] = [*_varied(message["headers"]), *added]
            await send(message)

        await self._app(scope, receive, sending)


def _varied(headers: object) -> list[tuple[bytes, bytes]]:
    known: list[tuple[bytes, bytes]] = list(headers)  # type: ignore[call-overload]
    vary = [value for name, value in known if name.lower() == b"vary"]
    rest = [(name, value) for name, value in known if name.lower() != b"vary"]
    return [*rest, (b"vary", b", ".join([*vary, b"Origin"]))]
