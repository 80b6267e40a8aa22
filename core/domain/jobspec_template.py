"""A compiled jobspec and its markers: how variables of the HCL become places in JSON, and how those are filled.

`wahafleet jobspec compile` gives every HCL variable a value that can be recognised (`sentinels`), has Nomad
parse the file, and turns each recognised value into a marker (`mark`):

    "[[user_id]]"                    the whole value, with the slot's own type
    "waha_plus_user_[[user_id]]"     inside a text
    "[[stop_on_disconnect_s:ns]]"    a whole number of nanoseconds, from a slot in seconds
    "[[stop_on_disconnect_s:text]]"  a number as text, where Nomad wants a text
    ["[[datacenters]]"]              a whole list
    {"[[simulator_env]]": ""}        entries merged into a map; the map's own entries win

`fill` puts values there by walking the JSON. No text is ever pasted into HCL, so no value can change a job's
structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

SlotValue = str | int | tuple[str, ...] | tuple[tuple[str, str], ...]

_OPENS: Final = "[["  # no text without it holds a marker, and most hold none
_MARKER = re.compile(r"\[\[(\w+)(?::(ns|text))?\]\]")
_DECLARATION = re.compile(
    r'^variable\s+"(\w+)"\s*\{\s*type\s*=\s*(string|number|list\(string\)|map\(string\))\s*$', re.MULTILINE
)
_VARIABLE = re.compile(r'^variable\s+"(\w+)"', re.MULTILINE)
_FIRST_NUMBER = 900_000_001
_NS = 1_000_000_000
_NUMBERS: Final = (int, float, type(None))
# Free-form maps, where an empty text is a value and no field of Nomad's.
_FREE_MAPS = frozenset({"Config", "Env", "Meta"})


class JobspecError(ValueError):
    """A jobspec or what should be filled into it is wrong; one sentence per problem, one problem per line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@lru_cache(16)
def declared(source: str) -> Mapping[str, str]:
    """The variables that an HCL jobspec declares, with their types, in order of appearance.

    Raises JobspecError for a variable whose first line is no type that slots can have.
    """
    found: dict[str, str] = {match[1]: match[2] for match in _DECLARATION.finditer(source)}
    untyped = [name for name in _VARIABLE.findall(source) if name not in found]
    if untyped:
        raise JobspecError(
            f"variable {', '.join(untyped)}: begin its block with type = string, number, list(string) or map(string)."
        )
    return found


def sentinels(types: Mapping[str, str]) -> dict[str, SlotValue]:
    """A recognisable value for each declared variable."""
    values: dict[str, SlotValue] = {}
    for position, (name, kind) in enumerate(types.items()):
        marker = f"[[{name}]]"
        choices: dict[str, SlotValue] = {
            "string": marker,
            "number": _FIRST_NUMBER + position,
            "list(string)": (marker,),
            "map(string)": ((marker, ""),),
        }
        values[name] = choices[kind]
    return values


def hcl_values(types: Mapping[str, str], values: Mapping[str, SlotValue]) -> str:
    """The text of an HCL variables file that gives each declared variable its value."""

    def one(kind: str, value: SlotValue) -> str:
        if kind == "map(string)":
            pairs = dict(value)  # type: ignore[arg-type]
            return "{" + ", ".join(f"{_quoted(k)} = {_quoted(v)}" for k, v in pairs.items()) + "}"
        if isinstance(value, tuple):
            return "[" + ", ".join(_quoted(str(item)) for item in value) + "]"
        return str(value) if isinstance(value, int) else _quoted(value)

    return "".join(f"{name} = {one(kind, values[name])}\n" for name, kind in types.items())


def _quoted(text: str) -> str:
    """A text as HCL writes it; JSON's escapes are HCL's, but `${` and `%{` would begin an expression there."""
    return json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")


def mark(parsed: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """The template: what Nomad made of the HCL with `sentinels`, with markers for them and without empty fields.

    Raises JobspecError when a declared variable ended up nowhere.
    """
    numbers = {value: name for name, value in sentinels(types).items() if isinstance(value, int)}
    digits = re.compile("|".join(str(value) for value in numbers) or r"(?!)")

    def walk(value: Any, *, free: bool = False) -> Any:
        if isinstance(value, dict):
            kept = value if free else {k: v for k, v in value.items() if v is not None and v != ""}
            return {k: walk(v, free=free or k in _FREE_MAPS) for k, v in sorted(kept.items())}
        if isinstance(value, list):
            return [walk(item, free=free) for item in value]
        if isinstance(value, str):
            return digits.sub(lambda match: f"[[{numbers[int(match[0])]}:text]]", value)
        if isinstance(value, int) and not isinstance(value, bool):
            if value in numbers:
                return f"[[{numbers[value]}]]"
            if value % _NS == 0 and value // _NS in numbers:
                return f"[[{numbers[value // _NS]}:ns]]"
        return value

    template: dict[str, Any] = walk(dict(parsed))
    lost = [name for name in types if name not in slots_in(template)]
    if lost:
        raise JobspecError(f"variable {', '.join(lost)} is declared and used nowhere: use it or remove it.")
    return template


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    # What the value may be is asked of plain types first: asking abstract ones takes longer than all the rest.
    if isinstance(value, str):
        yield value
    elif isinstance(value, _NUMBERS):
        return
    elif isinstance(value, dict | Mapping):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list | Sequence):
        for inner in value:
            yield from texts(inner)


def slots_in(template: Mapping[str, Any]) -> frozenset[str]:
    """The slots that a template asks for."""
    return frozenset(
        match[1] for text in texts(template) if _OPENS in text for match in _MARKER.finditer(text)
    )


def fill(
    template: Mapping[str, Any], values: Mapping[str, SlotValue], asked: frozenset[str] | None = None
) -> dict[str, Any]:
    """A new job with every marker replaced. Values are never looked at again for markers.

    `asked`: the template's `slots_in`, from who knows them: finding them takes as long as filling them.

    Raises JobspecError when the template asks for a slot that has no value, or has one of a type that does
    not fit the place.
    """
    unknown = sorted((slots_in(template) if asked is None else asked) - values.keys())
    if unknown:
        raise JobspecError(
            f"the jobspec asks for {', '.join(unknown)}, which this release does not know: "
            "install the jobspecs that came with it."
        )
    filled: dict[str, Any] = _fill(template, values)
    return filled


def _fill(value: Any, values: Mapping[str, SlotValue]) -> Any:
    if isinstance(value, str):
        return _fill_text(value, values)
    if isinstance(value, _NUMBERS):
        return value
    if isinstance(value, dict | Mapping):
        markers = {key: marker for key in value if _OPENS in key and (marker := _MARKER.fullmatch(key))}
        merged: dict[str, Any] = {}
        for marker in markers.values():
            merged.update(_typed(marker[1], values, "map(string)"))
        merged.update({k: _fill(v, values) for k, v in value.items() if k not in markers})
        return merged
    if isinstance(value, list | Sequence):
        if len(value) == 1 and isinstance(value[0], str) and (marker := _MARKER.fullmatch(value[0])):
            slot = values[marker[1]]
            return list(slot) if isinstance(slot, tuple) else [_fill_text(value[0], values)]
        return [_fill(item, values) for item in value]
    return value


def _fill_text(text: str, values: Mapping[str, SlotValue]) -> str | int:
    if _OPENS not in text:
        return text
    whole = _MARKER.fullmatch(text)
    if whole is not None and whole[2] == "ns":
        return int(_typed(whole[1], values, "number")) * _NS
    if whole is not None and whole[2] is None:
        slot: str | int = _typed(whole[1], values, "text")
        return slot
    return _MARKER.sub(lambda match: str(_typed(match[1], values, "text")), text)


def _typed(name: str, values: Mapping[str, SlotValue], kind: str) -> Any:
    value = values[name]
    fits = {
        "number": isinstance(value, int),
        "text": isinstance(value, (str, int)),
        "map(string)": isinstance(value, tuple) and all(isinstance(item, tuple) for item in value),
    }[kind]
    if not fits:
        raise JobspecError(f"slot {name} does not fit where the jobspec wants one {kind}.")
    return dict(value) if kind == "map(string)" else value  # type: ignore[arg-type]
