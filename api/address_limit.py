"""The limit of an address, before anything is known of a request."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api.limits import INTERNAL, UNCOUNTED, WEBHOOKS
from api.problems import refusal, send_problem
from api.proxies import TrustedProxies
from api.services import Services
from core.errors import TooManyRequests

# RFC 6455 leaves 1013 to "try again later".
_TRY_AGAIN_LATER = 1013


class AddressLimit:
    """Wraps an ASGI application; counts requests and sockets of each address."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in UNCOUNTED | INTERNAL and not path.startswith(WEBHOOKS):
            services: Services = scope["litestar_app"].state.services
            try:
                await services.limits.of_address(self._proxies.client_address(scope))
            except TooManyRequests as error:
                if scope["type"] == ScopeType.HTTP:
                    await send_problem(refusal(error, path), send)
                else:
                    await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": error.message})
                return
        await self._app(scope, receive, send)
