"""What the framework cannot know of a route and the OpenAPI document says all the same.

Errors that follow from what a route has (a body, a guard, the store behind it), headers, and one example
for every body and answer. Routes declare what only they give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from api.bodies import Body
from api.document_keys import with_key
from api.examples import ANSWERS, BODIES, STREAMS, example_problem
from api.limits import UNCOUNTED
from api.problems import MEDIA_TYPE
from api.shapes import PARAMETERS

MEANINGS: Final[Mapping[int, str]] = {
    400: "Not JSON, or a rule of the service was broken",
    401: "No credential that holds",
    402: "The plan's proxy quota is used up",
    403: "Not allowed for this account",
    404: "Unknown, deleted, malformed, or somebody else's",
    409: "It cannot be had in the present state",
    413: "The body is too large",
    422: "One or more fields are not valid",
    429: "Too many requests; try again after `Retry-After` seconds",
    503: "The store is away; try again after `Retry-After` seconds",
}
CACHED: Final = frozenset({"listChips", "getChip"})
_WITHOUT_STORE: Final = "service"  # tag of routes that ask nobody
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_STREAM: Final = "text/event-stream"
_RETRY_AFTER: Final = {
    "description": "Seconds until it is worth trying again",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}
_HEADERS_BY_STATUS: Final[Mapping[int, Mapping[str, Any]]] = {
    401: {
        "WWW-Authenticate": {
            "description": "`Bearer`",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    429: {"Retry-After": _RETRY_AFTER},
    503: {"Retry-After": _RETRY_AFTER},
}
_ETAG: Final = {
    "ETag": {"description": "Bound to the caller", "required": True, "schema": {"type": "string"}},
    "Cache-Control": {"required": True, "schema": {"type": "string"}},
    "Vary": {"required": True, "schema": {"type": "string"}},
}
_CREATED: Final = {
    "Location": {"required": True, "schema": {"type": "string"}},
    "Preference-Applied": {
        "description": "What was done of `Prefer`",
        "required": False,
        "schema": {"type": "string"},
    },
}


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Changes and returns `document`; a second time changes nothing.

    The framework adds a 400 of its own shape to every route with a parameter: answers that are never given
    are taken out.
    """
    _with_shapes(document["components"]["schemas"])
    for path, method, operation in operations(document):
        name = operation["operationId"]
        operation["responses"] = {
            status: answer
            for status, answer in operation["responses"].items()
            if int(status) < 400 or MEDIA_TYPE in answer.get("content", {})
        }
        _with_common_errors(path, operation)
        if method == "post" and operation.get("security"):
            with_key(path, operation)
        _with_parameters(name, operation)
        _with_headers(name, operation)
        _with_streams(name, operation)
        _with_examples(name, path, operation)
        operation["responses"] = dict(sorted(operation["responses"].items()))
    return document


def _with_shapes(schemas: dict[str, Any], base: type[Body] = Body) -> None:
    """Bodies take no unknown fields, and fields have the shapes that their struct names."""
    for model in base.__subclasses__():
        _with_shapes(schemas, model)
        schema = schemas.get(model.__name__)
        if schema is None:
            continue
        schema["additionalProperties"] = False
        for field, shape in model.SHAPES.items():
            told = schema["properties"][field]
            for kind in told.get("oneOf", [told]):
                if kind.get("type") != "null":
                    kind.update(shape)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each operation with its path and method."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if isinstance(operation, dict) and "operationId" in operation:
                yield path, method, operation


def common_errors(path: str, operation: Mapping[str, Any]) -> set[int]:
    """Statuses of the errors that a route can give because of what it has."""
    statuses: set[int] = set()
    for media in operation.get("requestBody", {}).get("content", {}).values():
        statuses |= {400, 413}
        # A body that is read raw has no fields to refuse.
        if "$ref" in str(media.get("schema")):
            statuses.add(422)
    if operation.get("security"):
        statuses |= {401, 403, 503}
    if path not in UNCOUNTED:
        statuses.add(429)
    if _WITHOUT_STORE not in operation.get("tags", ()):
        statuses.add(503)
    return statuses


def _with_common_errors(path: str, operation: dict[str, Any]) -> None:
    for status in common_errors(path, operation):
        operation["responses"].setdefault(
            str(status),
            {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": dict(_PROBLEM)}}},
        )


def _with_parameters(name: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        shape = PARAMETERS.get(name, {}).get(parameter["name"])
        if shape is not None:
            parameter["schema"] = dict(shape)


def _with_headers(name: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    for status, answer in answers.items():
        headers = _HEADERS_BY_STATUS.get(int(status))
        if headers:
            answer["headers"] = {**answer.get("headers", {}), **headers}
    if name in CACHED:
        answers["200"]["headers"] = dict(_ETAG)
        answers["304"] = {"description": "The caller has these very bytes", "headers": dict(_ETAG)}
        _add_header_parameter(
            operation, "If-None-Match", "An ETag of an earlier answer; the same bytes give 304"
        )
    if name == "receiveWahaWebhook":
        _add_header_parameter(
            operation, "X-Webhook-Hmac", "Hex HMAC-SHA512 of the raw body, with the hook key", required=True
        )
    if name == "createChip":
        answers["201"]["headers"] = dict(_CREATED)
        _add_header_parameter(operation, "Prefer", "`wait=N` (0-30 seconds) or `respond-async`")


def _with_streams(name: str, operation: dict[str, Any]) -> None:
    """Answers that last. No schema of one message is one of all of them, and 3.1 has no word for messages."""
    content = operation["responses"].get("200", {}).setdefault("content", {})
    if name in STREAMS:
        content.setdefault(_STREAM, {})["example"] = STREAMS[name]
    if _STREAM in content:
        content[_STREAM]["schema"] = {"description": "Server-sent events, one after the other"}
        _add_header_parameter(
            operation, "Last-Event-ID", "Goes on behind this message, where messages have ids"
        )


def _add_header_parameter(
    operation: dict[str, Any], name: str, description: str, *, required: bool = False
) -> None:
    parameters = operation.setdefault("parameters", [])
    if not any(known.get("name") == name for known in parameters):
        parameters.append(
            {
                "name": name,
                "in": "header",
                "description": description,
                "required": required,
                "schema": {"type": "string"},
            }
        )


def _with_examples(name: str, path: str, operation: dict[str, Any]) -> None:
    _with_optional_body(operation.get("requestBody", {}))
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if name in BODIES:
            content["example"] = BODIES[name]
    for status, answer in operation["responses"].items():
        for content in answer.get("content", {}).values():
            if int(status) >= 400:
                content.setdefault("example", example_problem(name, int(status), path))
            elif name in ANSWERS:
                content.setdefault("example", ANSWERS[name])


def _with_optional_body(body: dict[str, Any]) -> None:
    """A handler that takes `Body | None` can do without a body; `null` in its place is no object."""
    for content in body.get("content", {}).values():
        kinds = content["schema"].get("oneOf", [])
        if {"type": "null"} in kinds:
            body["required"] = False
            content["schema"] = next(kind for kind in kinds if kind != {"type": "null"})
