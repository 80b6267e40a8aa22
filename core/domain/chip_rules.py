"""What a chip may be called, and whether a user may have one more."""

from __future__ import annotations

from typing import Final

from core.domain.accounts import FieldError, has_control_characters

ALIAS_LENGTH: Final = (3, 100)


def clean_alias(text: str) -> str:
    """The alias as it is stored. `<` and `>` are refused because the deployed page writes it as HTML."""
    least, most = ALIAS_LENGTH
    if not least <= len(text) <= most:
        raise FieldError(f"Use de {least} a {most} caracteres.")
    if has_control_characters(text):
        raise FieldError("Não use caracteres de controle.")
    if "<" in text or ">" in text:
        raise FieldError("Não use os sinais < e >.")
    return text
