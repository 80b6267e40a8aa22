"""What outside systems say about a failure: one short line with nothing in it that must not be shown."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from core.domain.jobspec_rules import looks_secret

LIMIT: Final = 200
HIDDEN: Final = "***"
_CUT: Final = "..."

_USER_INFO: Final = re.compile(r"(\w+://)[^/\s@]+@")
# `password=...`, `"X-Api-Key": "..."`, `Authorization: Bearer ...`, `?token=...`: the name stays, the value goes.
_NAMED: Final = re.compile(
    r"""([\w.-]*(?:password|passwd|secret|token|api[_-]?key|hook[_-]?key|authorization|hmac|dsn)["']?\s*[:=]\s*)"""
    r"""("[^"]*"|'[^']*'|(?:basic|bearer)\s+[^\s&;,]+|[^\s&;,]+)""",
    re.IGNORECASE,
)


def excerpt(text: str, secrets: Collection[str] = (), *, limit: int = LIMIT) -> str:
    """`text` as one printable line of at most `limit` characters, secrets replaced by `***`.

    `secrets`: values that are known to be secret, whatever surrounds them. Hidden as well: credentials in
    addresses, what stands behind a name such as password or token, and words as long and random as a key.
    Everything is hidden before it is cut, so no half of a secret stays at the end.
    """
    if not text:
        return ""
    line = _line(text)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        line = line.replace(secret, HIDDEN)
    line = _cleaned(line)
    return line if len(line) <= limit else line[: limit - len(_CUT)] + _CUT


# Hosts say the same few sentences of every container, and each look hears them again. What is kept is bounded.
@lru_cache(2048)
def _line(text: str) -> str:
    return " ".join("".join([c if c.isprintable() else " " for c in text]).split())


@lru_cache(2048)
def _cleaned(line: str) -> str:
    line = _NAMED.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", line))
    return " ".join([HIDDEN if looks_secret(word) else word for word in line.split(" ")])
