"""JSON bodies: read strictly, and refused with every bad field named at once.

A body is a `Body` struct. Its annotations give the JSON types, `LABELS` what people call a field, `RULES`
what each value (texts trimmed) must satisfy, `SHAPES` what the OpenAPI document says of it (api/shapes.py).
`StrictBody[Model]` puts this in the place of the framework's own decoding, which stops at the first problem
and says it in English.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from core.domain.accounts import FieldError
from core.errors import InvalidInput

T = TypeVar("T", bound="Body")

_MISSING: Final = "Campo obrigatório."
_UNKNOWN: Final = "Campo desconhecido."
_WRONG_TYPE: Final = "Valor de tipo inválido."
_NOT_JSON: Final = "O corpo da requisição não é um JSON válido."
_NOT_OBJECT: Final = "O corpo da requisição deve ser um objeto JSON."
# A body of 64 KiB can hold thousands of unknown names; an answer has no use for them.
_ERRORS_LIMIT: Final = 20
_NAME_LIMIT: Final = 60


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all request bodies."""

    LABELS: ClassVar[Mapping[str, str]] = {}
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    SHAPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


def read_body(raw: bytes, model: type[T]) -> T:
    """Decode and check. Raises InvalidInput: code `invalid_json`, or `invalid_input` with its fields."""
    try:
        content = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(_NOT_JSON, code="invalid_json") from error
    if not isinstance(content, dict):
        raise InvalidInput(_NOT_OBJECT)
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in msgspec.structs.fields(model):
        if field.name not in content:
            if field.required:
                problems[field.name] = _MISSING
            continue
        try:
            values[field.name] = _checked(content[field.name], field.type, model.RULES.get(field.name))
        except FieldError as error:
            problems[field.name] = str(error)
        except msgspec.ValidationError:
            problems[field.name] = _WRONG_TYPE
    known = {field.name for field in msgspec.structs.fields(model)}
    problems.update((name[:_NAME_LIMIT], _UNKNOWN) for name in content if name not in known)
    if problems:
        shown = dict(list(problems.items())[:_ERRORS_LIMIT])
        detail = " | ".join(f"{model.LABELS.get(name, name)}: {text}" for name, text in shown.items())
        raise InvalidInput(detail, fields=shown)
    return model(**values)


def _checked(value: Any, type_: Any, rule: Callable[[Any], Any] | None) -> Any:
    typed = msgspec.convert(value, type_)
    if isinstance(typed, str):
        typed = typed.strip()
    return typed if rule is None or typed is None else rule(typed)


def changes_of(body: Body) -> dict[str, Any]:
    """The fields that were given in a body where each may be left out."""
    given = ((name, getattr(body, name)) for name in body.__struct_fields__)
    return {name: value for name, value in given if value is not msgspec.UNSET}


class StrictBody(AbstractDTO[T]):
    """Makes the framework read a `data` argument with `read_body`; the schema stays that of the struct."""

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing to prepare: there is no transfer model."""

    def decode_bytes(self, value: bytes) -> Any:
        return read_body(value, self.model_type)

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003 - the framework's signature
        schema_creator: Any,
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    @classmethod
    def generate_field_definitions(
        cls,
        model_type: type[Any],  # noqa: ARG003
    ) -> Generator[DTOFieldDefinition, None, None]:
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        return False
