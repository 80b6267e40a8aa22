"""The OpenAPI document at `/schema`, and a page that shows it without fetching anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

import msgspec
from litestar import Request, Router
from litestar.enums import MediaType, OpenAPIMediaType
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.types import ControllerRouterHandler

from api.examples import ANSWERS, BODIES, example_problem
from api.openapi_common import with_common
from api.problems import MEDIA_TYPE, Problem

SECURED: Final[list[dict[str, list[str]]]] = [{"cookie": []}, {"bearer": []}, {"apiKey": []}]
SERVICE_SECURED: Final[list[dict[str, list[str]]]] = [{"apiKey": []}, {"operator": []}]
OPTIONAL_BODIES: Final = frozenset({"reconnectChip", "pauseFleet", "resumeFleet"})

_MEANINGS: Final[Mapping[int, str]] = {
    400: "Not JSON, or a rule of the service was broken",
    401: "No credential that holds",
    402: "The plan's proxy quota is used up",
    403: "Not allowed for this account",
    404: "Unknown, deleted, malformed, or somebody else's",
    409: "It cannot be had in the present state",
    413: "The body is too large",
    422: "One or more fields are not valid",
    429: "Too many at a time; try again after `Retry-After` seconds",
    503: "The store is away; try again after `Retry-After` seconds",
}


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """What a route may answer besides success."""
    return {
        status: ResponseSpec(
            Problem, description=_MEANINGS[status], media_type=MEDIA_TYPE, generate_examples=False
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
            Tag("chips", "WhatsApp numbers: wishes and what became of them"),
            Tag("containers", "For operators"),
            Tag("fleet", "For operators: all users at once"),
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
        render_plugins=[_Document(), _Page()],
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


class _Page(OpenAPIRenderPlugin):
    def __init__(self) -> None:
        super().__init__(path="/docs", media_type=MediaType.HTML)
        self._page = (files("api") / "docs.html").read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return self._page


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Put an example on every body and every answer, and take out answers that are never given.

    The framework adds a 400 of its own shape to every route with a parameter. Changes and returns
    `document`.
    """
    for path, methods in with_common(document)["paths"].items():
        for operation in methods.values():
            if not isinstance(operation, dict) or "operationId" not in operation:
                continue
            name = operation["operationId"]
            operation["responses"] = {
                status: answer
                for status, answer in operation["responses"].items()
                if int(status) < 400 or MEDIA_TYPE in answer.get("content", {})
            }
            if name in OPTIONAL_BODIES:
                operation["requestBody"]["required"] = False
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if name in BODIES:
                    content["example"] = BODIES[name]
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    if "example" in content:
                        continue
                    if int(status) >= 400:
                        content["example"] = example_problem(name, int(status), path)
                    elif name in ANSWERS:
                        content["example"] = ANSWERS[name]
    return document
