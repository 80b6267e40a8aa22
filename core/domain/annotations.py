"""What trusted services may keep at a chip: any JSON of theirs, under keys that are not ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.domain.views import ExtraData
from core.errors import Conflict, InvalidInput

VALUE_LIMIT_BYTES: Final = 16 * 1024
TOTAL_LIMIT_BYTES: Final = 64 * 1024
KEYS_LIMIT: Final = 32
_DEPTH_LIMIT: Final = 32
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_OURS: Final = frozenset(ExtraData.__struct_fields__)
# Whatever `extra_data` may hold of ours one day begins so.
_RESERVED: Final = ("waha", "wahafleet")
# PostgreSQL would give larger numbers back digit by digit, and no reader of JSON takes those.
_NUMBERS: Final = 2.0**63

_NOT_JSON: Final = "O corpo da requisição não é um JSON válido."
_STORABLE: Final = (
    "O JSON contém um valor que não pode ser guardado: use textos sem o caractere nulo, números de até 64 bits "
    f"e no máximo {_DEPTH_LIMIT} níveis."
)


def clean_key(key: str) -> str:
    """Raises InvalidInput (`annotation_key`) for keys of ours and for what is no key."""
    if not _KEY.match(key):
        text = "Use de 1 a 64 letras, números, '_', '.' ou '-', começando por uma letra."
    elif key in _OURS or key.lower().startswith(_RESERVED):
        text = f"A chave {key} é reservada; use outra, sem o prefixo waha."
    else:
        return key
    raise InvalidInput(f"Chave: {text}", fields={"key": text}, code="annotation_key")


def read_value(raw: bytes) -> Any:
    """The value in a request's body.

    Raises InvalidInput (`annotation_too_large`, `invalid_json`, `annotation_value`).
    """
    if len(raw) > VALUE_LIMIT_BYTES:
        limit = VALUE_LIMIT_BYTES // 1024
        raise InvalidInput(
            f"A anotação passa de {limit} KiB; guarde menos dados.", code="annotation_too_large"
        )
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(_NOT_JSON, code="invalid_json") from error
    if not _storable(value, _DEPTH_LIMIT):
        raise InvalidInput(_STORABLE, fields={"body": _STORABLE}, code="annotation_value")
    return value


def with_annotation(annotations: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """All annotations after a change. Raises Conflict (`annotations_full`) when they would be too much."""
    after = {**annotations, key: value}
    if len(after) > KEYS_LIMIT or len(msgspec.json.encode(after)) > TOTAL_LIMIT_BYTES:
        raise Conflict(
            f"O chip já guarda anotações demais (até {KEYS_LIMIT} chaves e {TOTAL_LIMIT_BYTES // 1024} KiB); "
            "remova alguma antes.",
            code="annotations_full",
        )
    return after


def _storable(value: Any, depth: int) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return -_NUMBERS < value < _NUMBERS
    if isinstance(value, str):
        return "\0" not in value
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all("\0" not in key and _storable(inner, depth - 1) for key, inner in value.items())
    return all(_storable(inner, depth - 1) for inner in value)
