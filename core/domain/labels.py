"""Labels: the sticky identity of a chip at its provider. Pure.

Always the same for a chip and its label generation, another for every other, and nobody can read an id from it.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.domain.providers import Template

LENGTH: Final = 12
ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def label(secret: bytes, chip_id: str, generation: int) -> str:
    """12 lower-case base-36 characters. `generation`: raised only when the label itself shall change."""
    digest = hmac.digest(secret, f"label:{chip_id}:{generation}".encode(), "sha256")
    # 256 bits over 36 ** 12 (62 bits): what the remainder favours is beyond measure.
    number, found = int.from_bytes(digest), []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        found.append(ALPHABET[digit])
    return "".join(found)


def cut(label: str, template: Template) -> str:
    """The label as the provider takes it: its first characters. Raises ValueError when none of it would do."""
    least, most = template.label_length
    short = label[:most]
    if len(short) < least:
        raise ValueError(f"{template.slug} wants labels of {least} characters, this one has {len(short)}")
    if not set(short) <= set(template.label_alphabet):
        raise ValueError(f"{template.slug} does not take every character of the label")
    return short
