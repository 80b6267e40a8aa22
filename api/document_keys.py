"""`Idempotency-Key` in the document: on each POST of a known caller, with what a key can be refused for."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from api.problems import MEDIA_TYPE, FieldProblem, problem
from core.domain.problem_codes import PROBLEM_KINDS

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
_FIELD: Final = FieldProblem("Idempotency-Key", "Use de 1 a 200 caracteres ASCII visíveis.")


def with_key(path: str, operation: dict[str, Any]) -> None:
    """Add the header, its 409 and its 422 to one operation; once."""
    parameters = operation.setdefault("parameters", [])
    if any(known.get("name") == _KEY["name"] for known in parameters):
        return
    parameters.append(dict(_KEY))
    reused = problem(409, "idempotency_key_reused", PROBLEM_KINDS["idempotency_key_reused"].detail, path)
    refused = problem(422, "invalid_input", f"{_FIELD.field}: {_FIELD.message}", path, errors=[_FIELD])
    _answer(operation, 409, "Another request has this `Idempotency-Key`, or the state forbids it", reused)
    _answer(operation, 422, "One or more fields are not valid", refused)


def _answer(operation: dict[str, Any], status: int, description: str, shown: Any) -> None:
    """One more refusal, unless the route describes that status itself."""
    schema = {"$ref": "#/components/schemas/Problem"}
    example = msgspec.to_builtins(shown.content)
    answer = {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}
    operation["responses"].setdefault(str(status), answer)
