"""What routes have in common in the document: limits everywhere, `Idempotency-Key` where it counts."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from api.limits import UNCOUNTED
from api.problems import MEDIA_TYPE, FieldProblem, problem
from core.domain.problem_codes import PROBLEM_KINDS

_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Whole seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "1 to 200 printable ASCII characters. The same key with the same request within 24 h gives the first answer "
        "again; with another request 409."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "example": "b7c9f0aa-3d0f-4d35-9d3b-6a1f6ad0c1de",
}


def with_common(document: dict[str, Any]) -> dict[str, Any]:
    """Add the 429 of limits, and to each POST of a known caller its key with the 409 and 422. Returns `document`."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not isinstance(operation, dict) or "operationId" not in operation:
                continue
            if path not in UNCOUNTED:
                _answer(operation, path, "too_many_requests", "A limit was reached", _RETRY_AFTER)
            if method == "post" and operation.get("security"):
                operation.setdefault("parameters", []).append(dict(_KEY))
                said = "Another request has this `Idempotency-Key`, or the state forbids it"
                _answer(operation, path, "idempotency_key_reused", said)
                field = {"field": "Idempotency-Key", "message": "Use de 1 a 200 caracteres ASCII visíveis."}
                said = "One or more fields are not valid"
                _answer(operation, path, "invalid_input", said, errors=[field])
    return document


def _answer(
    operation: dict[str, Any],
    path: str,
    code: str,
    description: str,
    headers: dict[str, Any] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> None:
    """One more refusal, unless the route describes that status itself."""
    kind = PROBLEM_KINDS[code]
    detail = kind.detail
    if errors:
        detail = " | ".join(f"{one['field']}: {one['message']}" for one in errors)
    given = [FieldProblem(**one) for one in errors] if errors else None
    shown = msgspec.to_builtins(problem(kind.status, code, detail, path, errors=given).content)
    answer: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": shown}},
    }
    if headers:
        answer["headers"] = headers
    operation["responses"].setdefault(str(kind.status), answer)
