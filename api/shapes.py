"""What a field of a body looks like, in the words of JSON Schema, for the OpenAPI document alone.

Bodies are checked by the rules of `core/domain`, each with a sentence for people. A shape never says less
than its rule: whatever a shape refuses, the rule refuses too. Where a rule cannot be written as a pattern
(check digits, unique names), the shape lets more through, and the route documents the 400 or 422.

Texts are trimmed before they are checked, so patterns begin and end with blanks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core.domain.accounts import NAME_LENGTH, PASSWORD_LENGTH
from core.domain.api_keys import NAME_LENGTH as KEY_NAME_LENGTH
from core.domain.chip_rules import ALIAS_LENGTH
from core.domain.states import ContainerPhase

Shape = Mapping[str, Any]

# What `str.strip` takes away, and what no person types; escaped as ECMA-262, Python and Rust all read it.
_BLANK: Final = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"


def line(least: int, most: int, without: str = "") -> Shape:
    """One line of text of `least` (at least 2) to `most` characters without those of `without`."""
    inner, edge = f"[^{_CONTROL}{without}]", f"[^{_BLANK}{_CONTROL}{without}]"
    return {"pattern": f"^[{_BLANK}]*{edge}{inner}{{{least - 2},{most - 2}}}{edge}[{_BLANK}]*$"}


def or_empty(shape: Shape) -> Shape:
    """The same, and a text of blanks: pages send `""` for what nobody typed."""
    return {"pattern": f"^(?:[{_BLANK}]*|{shape['pattern'][1:-1]})$"}


ALIAS: Final = line(*ALIAS_LENGTH, without="<>")
NAME: Final = line(*NAME_LENGTH)
KEY_NAME: Final = line(*KEY_NAME_LENGTH)
PASSWORD: Final[Shape] = {
    "minLength": PASSWORD_LENGTH[0],
    "format": "password",
    "description": (
        f"{PASSWORD_LENGTH[0]} to {PASSWORD_LENGTH[1]} characters, among them an upper-case letter, "
        "a digit and a sign"
    ),
}
EMAIL: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@[A-Za-z0-9.-]+[{_BLANK}]*$"
}
PHONE: Final[Shape] = {
    "pattern": rf"^(?:[{_BLANK}()\[\]-]*\+[{_BLANK}()\[\]-]*5[{_BLANK}()\[\]-]*5[0-9{_BLANK}()\[\]-]+)$",
    "description": "Brazilian, +55 first; blanks, brackets and dashes allowed",
}
DOCUMENT: Final[Shape] = {
    "pattern": rf"^[0-9{_BLANK}./-]*$",
    "description": "CPF or CNPJ with or without its mask; check digits are verified",
}
SLUG: Final[Shape] = {"pattern": rf"^[{_BLANK}]*[a-z0-9][a-z0-9-]{{0,39}}[{_BLANK}]*$"}
TITLE: Final = {
    "pattern": f"^[{_BLANK}]*[^{_BLANK}{_CONTROL}](?:[^{_CONTROL}]{{0,78}}[^{_BLANK}{_CONTROL}])?[{_BLANK}]*$"
}
HOST: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,251}}[A-Za-z0-9])?[{_BLANK}]*$",
    "description": "A host name or an IPv4 address",
}
SCHEME: Final[Shape] = {"pattern": rf"^[{_BLANK}]*(?:socks5|http)[{_BLANK}]*$"}
COUNTRY: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[A-Za-z]{{2}}[{_BLANK}]*$",
    "description": "ISO 3166-1 alpha-2",
}
COST: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[0-9]{{1,6}}(?:[.,][0-9]{{1,4}})?[{_BLANK}]*$",
    "description": "R$ a GiB",
}
LOGIN: Final[Shape] = {"pattern": rf"^[{_BLANK}]*[!-9;-~]{{1,120}}[{_BLANK}]*$"}
PROXY_PASSWORD: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[!-~]{{1,200}}[{_BLANK}]*$",
    "format": "password",
    "writeOnly": True,
}
LABEL: Final[Shape] = {"pattern": rf"^[{_BLANK}]*[0-9A-Za-z_]{{1,64}}[{_BLANK}]*$"}
UUID: Final[Shape] = {
    "pattern": rf"^[{_BLANK}]*[0-9A-Fa-f]{{8}}(?:-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}}[{_BLANK}]*$"
}


def between(least: int, most: int) -> Shape:
    """A whole number."""
    return {"minimum": least, "maximum": most}


_PAGE: Final[Mapping[str, Shape]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
    "cursor": {"type": "string", "description": "From the `Link` of the page before"},
}
_ANNOTATION: Final[Mapping[str, Shape]] = {
    "key": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.-]{0,63}$"}
}
# What a parameter may be: operation, then parameter. Routes read them as texts and refuse with a sentence.
PARAMETERS: Final[Mapping[str, Mapping[str, Shape]]] = {
    "getContainerLogs": {
        "lines": {"type": "integer", "minimum": 1, "maximum": 2000, "default": 200},
        "follow": {"type": "boolean", "default": False},
    },
    "listApiKeys": _PAGE,
    "listChipEvents": _PAGE,
    "listContainers": {
        **_PAGE,
        "phase": {"type": "string", "enum": [phase.value for phase in ContainerPhase]},
    },
    "getFleetPlan": _PAGE,
    "listChipExits": _PAGE,
    "getFleetProxyUsage": {
        **_PAGE,
        "month": {"type": "string", "pattern": "^[0-9]{4}-(?:0[1-9]|1[0-2])$"},
    },
    "cleanupContainers": {"dry_run": {"type": "boolean", "default": True}},
    "putAnnotation": _ANNOTATION,
    "deleteAnnotation": _ANNOTATION,
}
