"""What OPTIONS answers: every method of a path.

The framework's own handler names the methods of the first handler that was registered on a path and no
others (litestar 2.25, `HTTPRoute.create_options_handler`: it holds the route before handlers were joined).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from litestar import Response, Router
from litestar.enums import HttpMethod, MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ControllerRouterHandler


class OptionsRouter(Router):
    """A router whose paths all answer OPTIONS with every method they have."""

    def __init__(self, path: str, *, route_handlers: Sequence[ControllerRouterHandler]) -> None:
        super().__init__(path, route_handlers=[*_options_of(route_handlers), *route_handlers])


def _options_of(handlers: Sequence[ControllerRouterHandler]) -> Iterator[HTTPRouteHandler]:
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        if isinstance(handler, HTTPRouteHandler):
            for path in handler.paths:
                methods.setdefault(path, {"OPTIONS"}).update(
                    str(getattr(method, "value", method)) for method in handler.http_methods
                )
    return (_options(path, allowed) for path, allowed in methods.items())


def _options(path: str, allowed: set[str]) -> HTTPRouteHandler:
    allow = ", ".join(sorted(allowed))

    async def options() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": allow}, media_type=MediaType.TEXT)

    return HTTPRouteHandler(path, http_method=[HttpMethod.OPTIONS], include_in_schema=False)(options)
