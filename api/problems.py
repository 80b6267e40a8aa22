"""The one map from errors to answers. Every refusal is `application/problem+json` (RFC 9457).

`detail` is one sentence in Brazilian Portuguese that the pages show as it is; `code` is stable and English.
Nothing of a cause, a library or a traceback ever stands in an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Send

from core.domain.problem_codes import PROBLEM_KINDS
from core.errors import (
    AppError,
    DomainError,
    InvalidInput,
    StaleWrite,
    Throttled,
    Unavailable,
)

MEDIA_TYPE: Final = "application/problem+json"
STORE_AWAY: Final = "Serviço temporariamente indisponível. Tente novamente em instantes."
_BROKEN: Final = "Ocorreu um erro inesperado. Tente novamente em instantes."
_NOT_UNDERSTOOD: Final = "A requisição não pôde ser entendida. Confira os dados enviados."
_NOT_JSON: Final = "O corpo da requisição não é um JSON válido."
_RETRY_AFTER_S: Final = "2"

TITLES: Final[Mapping[int, str]] = {
    400: "Requisição inválida",
    401: "Não autenticado",
    402: "Cota excedida",
    403: "Não permitido",
    404: "Não encontrado",
    405: "Método não permitido",
    409: "Conflito",
    413: "Requisição grande demais",
    422: "Dados inválidos",
    429: "Muitas requisições",
    500: "Erro interno",
    503: "Serviço indisponível",
}
_log = structlog.get_logger("api")


class FieldProblem(msgspec.Struct, frozen=True):
    """One refused field. `field`: its name in the body."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as RFC 9457 has it. `errors` only with 422, `dependencies` only from `/health/ready`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    errors: list[FieldProblem] | None = None
    dependencies: dict[str, str] | None = None


def problem(
    status: int,
    code: str,
    detail: str,
    instance: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldProblem] | None = None,
    dependencies: dict[str, str] | None = None,
) -> Response[Problem]:
    """An error's answer. `instance`: the path that was asked."""
    body = Problem(
        type=f"urn:wahafleet:problem:{code}",
        title=TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=instance,
        errors=errors,
        dependencies=dependencies,
    )
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def _domain(request: Request[Any, Any, Any], error: DomainError) -> Response[Problem]:
    return refusal(error, request.url.path)


def refusal(error: DomainError, instance: str) -> Response[Problem]:
    """The answer that says `error`."""
    # A code that the table lacks (a test forbids it) has at least the status of its kind.
    kind = PROBLEM_KINDS.get(error.code) or PROBLEM_KINDS[error.default_code]
    status = kind.status
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    errors = None
    if error.after_s is not None:
        headers["Retry-After"] = str(error.after_s)
    if isinstance(error, InvalidInput) and error.fields:
        errors = [FieldProblem(name, message) for name, message in error.fields.items()]
    return problem(status, error.code, error.message, instance, headers=headers, errors=errors)


def _app(request: Request[Any, Any, Any], error: AppError) -> Response[Problem]:
    if isinstance(error, Unavailable | StaleWrite | Throttled):
        _log.warning("dependency_away", system=error.system, error=error.message, path=request.url.path)
        return unavailable(request.url.path)
    return _unexpected(request, error)


def unavailable(instance: str) -> Response[Problem]:
    """Something that we depend on is away, and comes back."""
    return problem(503, "service_unavailable", STORE_AWAY, instance, headers={"Retry-After": _RETRY_AFTER_S})


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    path = request.url.path
    if error.status_code == 404:
        return problem(404, "route_not_found", "Rota não encontrada.", path)
    if error.status_code == 405:
        headers = {"Allow": (error.headers or {}).get("allow", "")}
        return problem(405, "method_not_allowed", "Método não permitido.", path, headers=headers)
    if error.status_code == 413:
        return problem(413, "body_too_large", "O corpo da requisição é grande demais.", path)
    if isinstance(error, ValidationException):
        return problem(400, "invalid_json", _NOT_JSON, path)
    if 400 <= error.status_code < 500:
        return problem(400, "bad_request", _NOT_UNDERSTOOD, path)
    return _unexpected(request, error)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _log.error("request_failed", path=request.url.path, method=request.method, exc_info=error)
    return internal_error(request.url.path)


def internal_error(instance: str) -> Response[Problem]:
    """What a caller may know of a fault of ours."""
    return problem(500, "internal_error", _BROKEN, instance)


HANDLERS: Final[ExceptionHandlersMap] = {
    DomainError: _domain,
    AppError: _app,
    HTTPException: _http,
    Exception: _unexpected,
}


async def send_problem(answer: Response[Problem], send: Send) -> None:
    """Send an answer that was made outside the framework."""
    body = msgspec.json.encode(answer.content)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    status = answer.status_code or 500
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
