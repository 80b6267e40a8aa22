"""Checks answers against WAHA's OpenAPI document (`waha-openapi.json`, version 2026.7.1).

The document has gaps: WAHA itself answers otherwise (seen in its source). Each is mended here by name, so
that everything else stays strict.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

DOCUMENT: dict[str, Any] = json.loads(Path(__file__).with_name("waha-openapi.json").read_text("utf-8"))

# (schema, path inside it, what stands there, what is true)
GAPS: list[tuple[str, tuple[str, ...], Any, Any]] = [
    # null for a session that was never paired
    (
        "SessionInfo",
        ("properties", "me"),
        {"$ref": "#/components/schemas/MeInfo"},
        {"anyOf": [{"$ref": "#/components/schemas/MeInfo"}, {"type": "null"}]},
    ),
    # `online`, `offline` or null
    ("SessionInfo", ("properties", "presence"), {"type": "object"}, {"enum": ["online", "offline", None]}),
    # events are names, not objects
    (
        "WebhookConfig",
        ("properties", "events", "items"),
        {"type": "object"},
        {"type": "string"},
    ),
]


def _mended() -> dict[str, Any]:
    schemas: dict[str, Any] = copy.deepcopy(DOCUMENT["components"]["schemas"])
    for name, path, wrong, right in GAPS:
        at = schemas[name]
        for step in path[:-1]:
            at = at[step]
        assert at[path[-1]] == wrong, f"the document changed at {name} {path}: look at this gap again"
        at[path[-1]] = right
    # GET /me says MeInfo and means null too.
    schemas["NullableMeInfo"] = {"anyOf": [{"$ref": "#/components/schemas/MeInfo"}, {"type": "null"}]}
    return schemas


SCHEMAS = _mended()


def operations() -> set[tuple[str, str]]:
    """All (METHOD, path template) of the document."""
    return {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}


def check(response: httpx.Response, method: str, path: str) -> None:
    """Asserts that a success is declared for this operation, with this content type and schema."""
    declared = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert str(response.status_code) in declared, f"{method} {path} gave {response.status_code}"
    content = declared[str(response.status_code)].get("content")
    if content is None:
        return
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in content, f"{method} {path} gave {kind}"
    if kind == "application/json":
        schema = content[kind]["schema"]
        if (method, path) == ("GET", "/api/sessions/{session}/me"):
            schema = {"$ref": "#/components/schemas/NullableMeInfo"}
        Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}}).validate(response.json())
