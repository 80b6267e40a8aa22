"""Task templates: the one construct wahafleet's jobs use, rendered as Nomad's template runner would.

    {{ with nomadVar "nomad/jobs/x" }}KEY={{ .key }}
    OTHER={{ .other | toJSON }}{{ end }}

with Go's `{{-` and `-}}` whitespace trimming. Anything else is refused when the job is registered, because a
construct that is silently rendered wrong would be worse than none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import msgspec

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_WITH = re.compile(r'^with\s+nomadVar\s+"([^"]+)"$')
_FIELD = re.compile(r"^\.([A-Za-z_][A-Za-z0-9_]*)(\s*\|\s*toJSON)?$")
_FIELD_VALUE = re.compile(r"^\.([A-Za-z_][A-Za-z0-9_]*)\.Value(\s*\|\s*toJSON)?$")

Lookup = Callable[[str], Mapping[str, str] | None]


class TemplateError(ValueError):
    """The template holds something the double cannot render."""


class Literal(msgspec.Struct, frozen=True):
    text: str


class Field(msgspec.Struct, frozen=True):
    key: str
    as_json: bool


class WithVariable(msgspec.Struct, frozen=True):
    path: str
    body: tuple[Literal | Field, ...]


class Template(msgspec.Struct, frozen=True):
    """A parsed template."""

    parts: tuple[Literal | WithVariable, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Variables the template reads."""
        return tuple(part.path for part in self.parts if isinstance(part, WithVariable))

    def render(self, lookup: Lookup) -> str | None:
        """The text, or None while a variable (or a key of it) is missing: the task stays pending then."""
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, Literal):
                out.append(part.text)
                continue
            items = lookup(part.path)
            if items is None:
                return None
            for piece in part.body:
                if isinstance(piece, Literal):
                    out.append(piece.text)
                    continue
                value = items.get(piece.key, "<no value>")
                out.append(json.dumps(value, ensure_ascii=False) if piece.as_json else value)
        return "".join(out)


def parse_template(source: str) -> Template:
    """Parse a template.

    Raises:
        TemplateError: a directive outside the supported subset, or an unbalanced one.
    """
    parts: list[Literal | WithVariable] = []
    body: list[Literal | Field] | None = None
    path = ""
    position = 0
    trim_next = False
    for match in _ACTION.finditer(source):
        text = source[position : match.start()]
        if trim_next:
            text = text.lstrip()
        if match.group(1):
            text = text.rstrip()
        if text:
            (parts if body is None else body).append(Literal(text))
        position, trim_next = match.end(), bool(match.group(3))
        action = match.group(2).strip()
        if (opened := _WITH.match(action)) and body is None:
            path, body = opened.group(1), []
        elif action == "end" and body is not None:
            parts.append(WithVariable(path, tuple(body)))
            body = None
        elif (field := _FIELD.match(action) or _FIELD_VALUE.match(action)) and body is not None:
            body.append(Field(field.group(1), bool(field.group(2))))
        elif not (action.startswith("/*") and action.endswith("*/")):
            raise TemplateError(
                f'the Nomad double renders only {{{{ with nomadVar "path" }}}}...{{{{ .key }}}}...{{{{ end }}}}, '
                f"not {{{{ {action} }}}}; run the job on a real Nomad agent"
            )
    if body is not None:
        raise TemplateError("unexpected EOF: a {{ with }} has no {{ end }}")
    rest = source[position:].lstrip() if trim_next else source[position:]
    if rest:
        parts.append(Literal(rest))
    return Template(tuple(parts))


def parse_env(text: str) -> dict[str, str]:
    """Read a rendered `Envvars = true` template: KEY=value lines, `#` comments, JSON-quoted values.

    Raises:
        TemplateError: a line that is no assignment.
    """
    env: dict[str, str] = {}
    for raw in text.split("\n"):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        if not equals:
            raise TemplateError(f"error parsing env template: line without '=' ({len(line)} characters)")
        value = value.strip(" \t")
        if len(value) >= 2 and value[0] == value[-1] == '"':
            try:
                value = json.loads(value)
            except ValueError:
                value = value[1:-1]
        elif len(value) >= 2 and value[0] == value[-1] == "'":
            value = value[1:-1]
        env[key.strip(" \t")] = value
    return env
