"""The limit of an address, before anything is known of a request."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api.limits import UNCOUNTED, WEBHOOKS
from api.problems import refusal, send_problem
from api.services import services_of
from core.errors import TooManyRequests

# RFC 6455 leaves 1013 to "try again later".
_TRY_AGAIN_LATER = 1013


class AddressLimit:
    """Wraps an ASGI application; counts requests and sockets of each address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in UNCOUNTED and not path.startswith(WEBHOOKS):
            connection = ASGIConnection[Any, Any, Any, Any](scope)
            services = services_of(connection)
            try:
                await services.limits.of_address(services.proxies.client_address(connection))
            except TooManyRequests as error:
                if scope["type"] == ScopeType.HTTP:
                    await send_problem(refusal(error, path), send)
                else:
                    await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": error.message})
                return
        await self._app(scope, receive, send)
