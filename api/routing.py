"""Decorators of our HTTP routes: the framework's, but for one thing that it does with every request."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler


class Route(HTTPRouteHandler):
    """A route whose guards are shown the route itself.

    The framework copies the whole handler for each guard of each request (litestar 2.25,
    `BaseRouteHandler.authorize_connection`), which costs a tenth of a poll; our guards change nothing of it.
    """

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        for guard in self.resolve_guards():
            await guard(connection, self)  # type: ignore[misc]  # made awaitable when it was registered


def get(path: str, **options: Any) -> Route:
    return Route(path, http_method=HttpMethod.GET, **options)


def post(path: str, **options: Any) -> Route:
    return Route(path, http_method=HttpMethod.POST, **options)


def put(path: str, **options: Any) -> Route:
    return Route(path, http_method=HttpMethod.PUT, **options)


def delete(path: str, **options: Any) -> Route:
    return Route(path, http_method=HttpMethod.DELETE, **options)
