"""API keys: `whago_<8 hex>_<64 hex>`. The first part finds a key, the second proves it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from core.domain.accounts import FieldError, has_control_characters

NAME_LENGTH: Final = (3, 100)
_KEY: Final = re.compile(r"(whago_[0-9a-f]{8})_[0-9a-f]{64}\Z")


class KeyRole(StrEnum):
    """What a key opens. Only a user's key belongs to an account; it acts as its user, and never as an operator."""

    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"


def prefix_of(key: str) -> str | None:
    """The part that a key is found by; None for what can be no key of ours."""
    match = _KEY.match(key)
    return None if match is None else match[1]


def clean_key_name(text: str) -> str:
    least, most = NAME_LENGTH
    if not least <= len(text) <= most:
        raise FieldError(f"Use de {least} a {most} caracteres.")
    if has_control_characters(text):
        raise FieldError("Não use caracteres de controle.")
    return text
