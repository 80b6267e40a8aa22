"""The OpenAPI document at `/schema`, and a page that shows it without fetching anything from elsewhere."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final, cast

import msgspec
from litestar import Request, Router
from litestar.enums import MediaType, OpenAPIMediaType
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.types import ControllerRouterHandler

from api.document import MEANINGS, completed
from api.problems import MEDIA_TYPE, Problem

# The framework's list has no name for it.
_JAVASCRIPT: Final = cast(MediaType, "text/javascript")
SECURED: Final[list[dict[str, list[str]]]] = [{"cookie": []}, {"bearer": []}, {"apiKey": []}]
SERVICE_SECURED: Final[list[dict[str, list[str]]]] = [{"apiKey": []}, {"operator": []}]


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """What a route may answer besides success."""
    return {
        status: ResponseSpec(
            Problem, description=MEANINGS[status], media_type=MEDIA_TYPE, generate_examples=False
        )
        for status in statuses
    }


# The answer of a route whose body lasts.
STREAMED: Final = ResponseSpec(
    str, description="Server-sent events", media_type="text/event-stream", generate_examples=False
)
USER_ERRORS: Final = errors(401, 403, 503)
CHIP_ERRORS: Final = errors(401, 403, 404, 503)


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="wahafleet",
        version=version("wahafleet"),
        description=(
            "One WAHA container per user on a Nomad cluster. Errors are `application/problem+json`; "
            "`detail` is one sentence in Brazilian Portuguese, `code` a stable identifier."
        ),
        tags=[
            Tag("accounts", "Register, log in, one's own account"),
            Tag(
                "chips",
                "WhatsApp numbers: wishes and what became of them. The WebSocket `/api/v1/chips/ws/{chip_id}/qr` "
                "(cookie or bearer, `Origin` of ours) pushes what `getChipQr` answers, on every change and at least "
                "every 5 s; it closes with 1008 without a valid token, 1003 on a malformed id, 1011 after "
                '`{"error": ...}` on an unknown chip.',
            ),
            Tag("containers", "For operators"),
            Tag("fleet", "For operators: all users at once"),
            Tag("proxies", "For operators: providers, sub-users, labels and what they cost"),
            Tag("me", "What belongs to the caller"),
            Tag("services", "For trusted services, by their key"),
            Tag("webhooks", "From WAHA"),
            Tag("service", "For those who run it"),
        ],
        components=Components(
            security_schemes={
                "cookie": SecurityScheme(
                    type="apiKey", name="whago_access_token", security_scheme_in="cookie"
                ),
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
                "apiKey": SecurityScheme(
                    type="apiKey",
                    name="X-API-Key",
                    security_scheme_in="header",
                    description="`whago_<8 hex>_<64 hex>`, of a plan with API access",
                ),
                "operator": SecurityScheme(
                    type="http", scheme="bearer", description="The operator's token, or an operator's JWT"
                ),
            }
        ),
        openapi_router=_SchemaRouter("/schema", route_handlers=[], include_in_schema=False),
        render_plugins=[
            _Document(),
            _File("/docs", "docs.html", MediaType.HTML),
            _File("/docs.js", "docs.js", _JAVASCRIPT),
            _File("/docs.css", "docs.css", MediaType.CSS),
        ],
    )


class _SchemaRouter(Router):
    """Leaves out the framework's own HTML page for unknown paths: ours are problems like all others."""

    def register(self, value: ControllerRouterHandler) -> Any:
        if "/{path:str}" in getattr(value, "paths", ()):
            return []
        return super().register(value)


class _Document(OpenAPIRenderPlugin):
    """The document with our examples put in; made once."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"], media_type=OpenAPIMediaType.OPENAPI_JSON)
        self._body: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        if self._body is None:
            self._body = msgspec.json.encode(with_examples(openapi_schema))
        return self._body


class _File(OpenAPIRenderPlugin):
    """A part of the page. Script and style are files of their own: the page's policy allows none within it."""

    def __init__(self, path: str, name: str, media_type: MediaType) -> None:
        super().__init__(path=path, media_type=media_type)
        self._content = (files("api") / name).read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return self._content


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """The document as it is served. Changes and returns `document`."""
    return completed(document)
