"""What of a program's log may be shown: no secrets, no control characters, no line without an end.

A line is cleaned whole and then cut, so a secret is never seen in halves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "***"
LINE_CHARACTERS: Final = 4096
# A shorter one would hide ordinary words; the patterns below find it where it is named.
_LEAST_KNOWN: Final = 4

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_BLOCKS = re.compile(r"[\u2580-\u259f]")
_QR_BLOCKS: Final = 8
_QR_LINE: Final = f"{HIDDEN} (QR Code)"
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\\"(?:[^"\\])*(?:\\")?|[^\s,;&}\]"']+)"""
_NAMED = (
    r"(?i)((?:passw(?:or)?d|passwd|pwd|senha|secret|token|api[_-]?key|hmac(?:[_-]?key)?|credential)\w{0,40}"
    r"""\\?["']?\s*[:=]\s*)"""
)
# Every repetition that may be tried from many places is bounded: a line is what a program printed.
_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # Headers: the scheme is no secret, and what follows it is.
    (
        re.compile(
            r"""(?i)(\b(?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?(?:(?:bearer|basic|digest)\s+)?)[^\s,;}"'\\]+"""
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"""(?i)(\bx-(?:api-key|webhook-hmac)\\?["']?\s*[:=]\s*)""" + _VALUE), rf"\1{HIDDEN}"),
    (re.compile(r"""(?i)(\b(?:set-)?cookie\\?["']?\s*[:=]\s*).*"""), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(_NAMED + _VALUE), rf"\1{HIDDEN}"),
    # User and password of an address, also where the password holds an @.
    (re.compile(r"""(://)[^\s/?#"'<>]*@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"\beyJ[\w-]{8,2048}\.[\w-]{8,4096}(?:\.[\w-]{0,1024})?"), HIDDEN),
    # What a QR code says, as a picture and as text; and the code that pairs without one.
    (re.compile(r"(data:image/[a-z+.-]+;base64,)[A-Za-z0-9+/=_-]*"), rf"\1{HIDDEN}"),
    (re.compile(r"\b\d@[A-Za-z0-9+/=_-]{16,}(?:,[A-Za-z0-9+/=_-]+)*"), HIDDEN),
    (re.compile(r"(?i)(pairing[ _-]?code\W{1,4})[A-Z0-9]{4}-?[A-Z0-9]{4}\b"), rf"\1{HIDDEN}"),
)


class Redactor:
    """Cleans the lines of one container.

    `known`: secrets by value, such as its API key; found as they are, in percent and in JSON encoding.
    """

    def __init__(self, known: Iterable[str]) -> None:
        forms = {
            form
            for secret in known
            if len(secret) >= _LEAST_KNOWN
            for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1])
        }
        # The longest first: one may stand within another.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __repr__(self) -> str:
        return "Redactor(***)"

    def clean(self, line: bytes) -> str:
        """One whole line as people may see it, without its end. What is no UTF-8 shows as U+FFFD."""
        # First of all: what is invisible may stand in the middle of a secret.
        text = line.decode(errors="replace")
        text = _CONTROL.sub("", _ESCAPES.sub("", text)).rstrip()
        if len(_BLOCKS.findall(text)) >= _QR_BLOCKS:
            return _QR_LINE
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, shown in _PATTERNS:
            text = pattern.sub(shown, text)
        return text if len(text) <= LINE_CHARACTERS else text[:LINE_CHARACTERS] + " [...]"
