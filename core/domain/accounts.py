"""What a person may write into an account. Each rule takes a trimmed text and gives the form that is stored.

Every refusal is a `FieldError` with one sentence in Brazilian Portuguese, shown beside the field's label.
"""

from __future__ import annotations

import re
from typing import Final

NAME_LENGTH: Final = (2, 100)
PASSWORD_LENGTH: Final = (8, 128)
COMPANY_NAME_LIMIT: Final = 200
EMAIL_LIMIT: Final = 254  # RFC 5321: a path of 256 with its angle brackets

# ASCII only: the stored form is the lower-case one, and Python and PostgreSQL do not agree on the
# lower case of every other letter.
_EMAIL = re.compile(
    r"(?P<local>[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64})"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])\Z"
)
_PHONE_MARKS = re.compile(r"[\s()\[\]-]")
# Country 55, area code without zeros, then 8 digits (landline, old WhatsApp accounts) or 9 beginning with 9.
_PHONE = re.compile(r"\+55[1-9][1-9](?:9[0-9]{8}|[2-9][0-9]{7})\Z")
_DOCUMENT_MARKS = re.compile(r"[\s./-]")
_CPF_WEIGHTS: Final = (range(10, 1, -1), range(11, 1, -1))
_CNPJ_WEIGHTS: Final = ((5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2), (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2))


class FieldError(ValueError):
    """A value was refused; the text is one pt-BR sentence for whoever typed it."""


def has_control_characters(text: str) -> bool:
    """True for anything that no person types: C0, C1, DEL, line and paragraph separators."""
    return any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in text)


def clean_name(text: str) -> str:
    least, most = NAME_LENGTH
    if not least <= len(text) <= most:
        raise FieldError(f"Use de {least} a {most} caracteres.")
    if has_control_characters(text):
        raise FieldError("Não use caracteres de controle.")
    return text


def clean_company_name(text: str) -> str:
    if len(text) > COMPANY_NAME_LIMIT:
        raise FieldError(f"Use até {COMPANY_NAME_LIMIT} caracteres.")
    if has_control_characters(text):
        raise FieldError("Não use caracteres de controle.")
    return text


def clean_email(text: str) -> str:
    """Lower case: accounts are compared by it."""
    match = _EMAIL.match(text)
    if match is None or len(text) > EMAIL_LIMIT:
        raise FieldError("Email inválido. Use formato nome@empresa.com.")
    local = match["local"]
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise FieldError("Email inválido. Use formato nome@empresa.com.")
    return text.lower()


def clean_password(text: str) -> str:
    least, most = PASSWORD_LENGTH
    if not least <= len(text) <= most:
        raise FieldError(f"Use de {least} a {most} caracteres.")
    if not any(c.isupper() for c in text):
        raise FieldError("Inclua ao menos uma letra maiúscula.")
    if not any(c.isdigit() for c in text):
        raise FieldError("Inclua ao menos um número.")
    if all(c.isalnum() for c in text):
        raise FieldError("Inclua ao menos um caractere especial.")
    return text


def clean_phone(text: str) -> str:
    """E.164 (`+5511999999999`); blanks, brackets and dashes may stand anywhere between the digits."""
    number = _PHONE_MARKS.sub("", text)
    if not _PHONE.match(number):
        raise FieldError("Telefone inválido. Use formato +5511999999999.")
    return number


def clean_document(text: str) -> str:
    """The digits of a CPF (11) or a CNPJ (14), check digits verified; the usual mask is allowed."""
    digits = _DOCUMENT_MARKS.sub("", text)
    if not (digits.isascii() and digits.isdigit() and is_document(digits)):
        raise FieldError("CPF ou CNPJ inválido. Confira os números digitados.")
    return digits


def is_document(digits: str) -> bool:
    """Whether 11 digits are a CPF or 14 a CNPJ. One digit repeated passes the arithmetic and is refused."""
    if len(set(digits)) < 2:
        return False
    if len(digits) == 11:
        return digits[9:] == _check_digits(digits[:9], *_CPF_WEIGHTS)
    if len(digits) == 14:
        return digits[12:] == _check_digits(digits[:12], *_CNPJ_WEIGHTS)
    return False


def _check_digits(digits: str, first: range | tuple[int, ...], second: range | tuple[int, ...]) -> str:
    for weights in (first, second):
        rest = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 11
        digits += "0" if rest < 2 else str(11 - rest)
    return digits[-2:]
