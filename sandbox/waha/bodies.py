"""Checks of request bodies, as strict as WAHA's own, and WAHA's error bodies."""

from __future__ import annotations

import json
import time

from sandbox.waha.refusals import (
    AlreadyExists,
    InvalidBody,
    NotFound,
    NotImplementedByEngine,
    Unprocessable,
    WrongState,
)
from sandbox.waha.server import Response
from sandbox.waha.settings import VERSION
from sandbox.waha.simulator import NAME_LIMIT, NAME_PATTERN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.waha.server import Request

_POLICIES = ("linear", "exponential", "constant")
_PLAIN_ERRORS = {400: "Bad Request", 404: "Not Found", 422: "Unprocessable Entity", 501: "Not Implemented"}


def read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; no body is an empty one. Raises `InvalidBody`."""
    if not request.body.strip():
        return {}
    try:
        content = json.loads(request.body)
    except ValueError as error:
        raise InvalidBody("the body is not valid JSON") from error
    if not isinstance(content, dict):
        raise InvalidBody("the body must be a JSON object")
    return content


def read_name(body: dict[str, Any], *, required: bool = False) -> str:
    """The session name of a body; empty when left out. Raises `InvalidBody`, or `Unprocessable` when an
    old-style call needs one."""
    name = body.get("name")
    if name is None or name == "":
        if required:
            raise Unprocessable("a session name is required")
        return ""
    problems = []
    if not isinstance(name, str):
        problems.append("name must be a string")
    else:
        if not NAME_PATTERN.match(name):
            problems.append("name can only contain letters, digits, dashes and underscores")
        if len(name) > NAME_LIMIT:
            problems.append(f"name must be shorter than or equal to {NAME_LIMIT} characters")
    if problems:
        raise InvalidBody(*problems)
    assert isinstance(name, str)
    return name


def read_config(body: dict[str, Any]) -> dict[str, Any] | None:
    """The session config of a body, or None when it is left out. Raises `InvalidBody`."""
    config = body.get("config")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise InvalidBody("config must be an object")
    problems: list[str] = []
    for field in ("metadata", "proxy", "ignore", "client", "noweb", "gows", "webjs"):
        if config.get(field) is not None and not isinstance(config[field], dict):
            problems.append(f"config.{field} must be an object")
    if config.get("debug") is not None and not isinstance(config["debug"], bool):
        problems.append("config.debug must be a boolean value")
    proxy = config.get("proxy")
    if isinstance(proxy, dict):
        if not isinstance(proxy.get("server"), str):
            problems.append("config.proxy.server must be a string")
        problems += [
            f"config.proxy.{field} must be a string"
            for field in ("username", "password")
            if proxy.get(field) is not None and not isinstance(proxy[field], str)
        ]
    webhooks = config.get("webhooks")
    if webhooks is not None and not isinstance(webhooks, list):
        problems.append("config.webhooks must be an array")
    elif webhooks:
        for position, webhook in enumerate(webhooks):
            problems += _webhook_problems(f"config.webhooks.{position}", webhook)
    if problems:
        raise InvalidBody(*problems)
    return config


def _webhook_problems(at: str, webhook: Any) -> list[str]:
    if not isinstance(webhook, dict):
        return [f"{at} must be an object"]
    problems = []
    if not isinstance(webhook.get("url"), str) or "://" not in webhook["url"]:
        problems.append(f"{at}.url must be a URL address")
    events = webhook.get("events")
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        problems.append(f"{at}.events must be an array of strings")
    hmac = webhook.get("hmac")
    if hmac is not None and not (isinstance(hmac, dict) and isinstance(hmac.get("key", ""), str)):
        problems.append(f"{at}.hmac.key must be a string")
    retries = webhook.get("retries")
    if retries is not None:
        if not isinstance(retries, dict) or retries.get("policy", "linear") not in _POLICIES:
            problems.append(f"{at}.retries.policy must be one of {', '.join(_POLICIES)}")
        elif not all(
            isinstance(retries.get(field, 0), int | float) and not isinstance(retries.get(field, 0), bool)
            for field in ("delaySeconds", "attempts")
        ):
            problems.append(f"{at}.retries: delaySeconds and attempts must be numbers")
    headers = webhook.get("customHeaders")
    if headers is not None and not (
        isinstance(headers, list)
        and all(
            isinstance(header, dict)
            and isinstance(header.get("name"), str)
            and isinstance(header.get("value"), str)
            for header in headers
        )
    ):
        problems.append(f"{at}.customHeaders must be an array of name and value")
    return problems


def plain_error(status: int, message: str | list[str]) -> Response:
    """`{message, error, statusCode}`."""
    return Response.json(status, {"message": message, "error": _PLAIN_ERRORS[status], "statusCode": status})


def unauthorized() -> Response:
    return Response.json(401, {"message": "Unauthorized", "statusCode": 401})


def error_response(error: Exception, request: Request) -> Response:
    """WAHA's answer to a refusal, or its 500 that repeats the request."""
    if isinstance(error, InvalidBody):
        return plain_error(400, error.messages)
    if isinstance(error, NotFound):
        return plain_error(404, str(error))
    if isinstance(error, AlreadyExists | Unprocessable):
        return plain_error(422, str(error))
    if isinstance(error, NotImplementedByEngine):
        return plain_error(501, str(error))
    if isinstance(error, WrongState):
        body: dict[str, Any] = {"error": str(error), "session": error.session}
        if error.status is not None:
            body |= {"status": error.status, "expected": list(error.expected)}
        return Response.json(422, body)
    return _internal_error(error, request)


def _internal_error(error: Exception, request: Request) -> Response:
    # WAHA repeats the whole request here, secrets included; clients must cope with that, so it stays.
    try:
        body = json.loads(request.body) if request.body else None
    except ValueError:
        body = None
    stack = f"{type(error).__name__}: {error}"
    return Response.json(
        500,
        {
            "statusCode": 500,
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "exception": {"message": str(error), "stack": stack, "name": type(error).__name__},
            "request": {
                "path": request.path,
                "method": request.method,
                "body": body,
                "query": {name: value for name, value in request.query.items() if name != "x-api-key"},
            },
            "version": {"version": VERSION},
        },
    )
