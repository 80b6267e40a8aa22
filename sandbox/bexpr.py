"""go-bexpr, the filter language of Consul's and Nomad's reads, as far as lists of ours need it.

    Service.Meta.user == "42" and Checks.Status != "critical"
    "a" in Service.Tags or Service.ID matches "^_nomad-task-"
    not (Service.Meta contains user), Service.Tags is not empty

A selector walks through objects by name; on a list the comparison holds when it holds for any element, so
`Checks.Status != "critical"` means that some check is not critical. Where a schema is given, selectors are
checked against it before anything is evaluated. What a missing key means depends on the operator: `==`, `in`
and `is not empty` are false, all others are true (measured on Consul 1.8.7); `matches` is true there and
false in later releases of the library.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

Predicate = Callable[[Any], bool]

MAP: Final = "map"
"""In a schema: an object with keys of its user's choice."""

Schema = dict[str, Any]
"""Field -> None for a plain value or list of them, `MAP`, or the schema of an object or list of objects."""

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|`[^`]*`)
  | (?P<op>==|!=|[()\[\]])
  | (?P<word>[A-Za-z_][\w./-]*|-?\d[\d.]*)
    )""",
    re.VERBOSE,
)


class BexprError(ValueError):
    """The expression cannot be read; the message is the library's own."""


def compile_filter(text: str, schema: Schema | None = None, *, missing_matches: bool = False) -> Predicate:
    """Compile an expression.

    `schema`: fields that selectors may name; None allows any. `missing_matches`: what `matches` says of a
    missing key. Raises BexprError.
    """
    parser = _Parser(text, schema, missing_matches)
    predicate = parser.expression()
    parser.end()
    return predicate


class _Parser:
    def __init__(self, text: str, schema: Schema | None, missing_matches: bool) -> None:
        self._schema = schema
        self._missing_matches = missing_matches
        self._tokens: list[tuple[str, str, int]] = []
        self._length = len(text)
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._no_match(position)
            self._tokens.append((match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup)))
            position = match.end()
        self._at = 0

    def expression(self) -> Predicate:
        left = self._conjunction()
        while self._take("or"):
            left = _either(left, self._conjunction())
        return left

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise self._no_match(self._tokens[self._at][2])

    def _conjunction(self) -> Predicate:
        left = self._unary()
        while self._take("and"):
            left = _both(left, self._unary())
        return left

    def _unary(self) -> Predicate:
        if self._peek() == "not":
            self._at += 1
            return _negated(self._unary())
        if self._take("("):
            inner = self.expression()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Predicate:
        kind, first, start = self._next()
        if self._take("in"):
            return _contains(self._selector(), _value(first))
        if self._peek() == "not" and self._peek(1) == "in":
            self._at += 2
            return _contains(self._selector(), _value(first), wanted=False)
        if kind == "string":
            raise self._no_match(start)
        path = self._path(first)
        if self._take("=="):
            return _equals(path, self._operand())
        if self._take("!="):
            return _equals(path, self._operand(), wanted=False)
        if self._take("is"):
            wanted = not self._take("not")
            self._expect("empty")
            return _empty(path, wanted=wanted)
        wanted = not self._take("not")
        if self._take("matches"):
            when_missing = self._missing_matches or not wanted
            return _matches(path, self._operand(), wanted=wanted, when_missing=when_missing)
        self._expect("contains")
        return _contains(path, self._operand(), wanted=wanted)

    def _selector(self) -> list[str]:
        kind, word, start = self._next()
        if kind != "word":
            raise self._no_match(start)
        return self._path(word)

    def _path(self, word: str) -> list[str]:
        path = word.split(".")
        while self._take("["):
            path.append(_value(self._next()[1]))
            self._expect("]")
        self._check(path)
        return path

    def _check(self, path: list[str]) -> None:
        schema: Any = self._schema
        if schema is None:
            return
        for number, part in enumerate(path):
            if schema == MAP:
                schema = None
            elif isinstance(schema, dict) and part in schema:
                schema = schema[part]
            else:
                raise BexprError(f'Selector "{".".join(path[: number + 1])}" is not valid')

    def _operand(self) -> str:
        kind, word, start = self._next()
        if kind == "op":
            raise self._no_match(start)
        return _value(word)

    def _peek(self, ahead: int = 0) -> str | None:
        at = self._at + ahead
        return self._tokens[at][1] if at < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        if self._peek() != word:
            return False
        self._at += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._no_match(self._next()[2])

    def _next(self) -> tuple[str, str, int]:
        if self._at >= len(self._tokens):
            raise self._no_match(self._length)
        self._at += 1
        return self._tokens[self._at - 1]

    @staticmethod
    def _no_match(position: int) -> BexprError:
        return BexprError(f"1:{position + 1} ({position}): no match found")


def _value(token: str) -> str:
    if token[:1] == '"':
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return token[1:-1] if token[:1] == "`" else token


def _holds(item: Any, path: list[str], test: Predicate, when_missing: bool) -> bool:
    """Whether `test` holds for what `path` leads to; for any element of a list on the way."""
    if not path:
        return test(item)
    if isinstance(item, list):
        return any(_holds(element, path, test, when_missing) for element in item)
    if isinstance(item, dict) and path[0] in item:
        return _holds(item[path[0]], path[1:], test, when_missing)
    return when_missing


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equals(path: list[str], operand: str, *, wanted: bool = True) -> Predicate:
    def test(value: Any) -> bool:
        return (value is not None and _text(value) == operand) is wanted

    return lambda item: _holds(item, path, test, when_missing=not wanted)


def _matches(path: list[str], pattern: str, *, wanted: bool, when_missing: bool) -> Predicate:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BexprError(f"Failed to compile regular expression: {error}") from error

    def test(value: Any) -> bool:
        return (isinstance(value, str) and compiled.search(value) is not None) is wanted

    return lambda item: _holds(item, path, test, when_missing)


def _contains(path: list[str], operand: str, *, wanted: bool = True) -> Predicate:
    def test(value: Any) -> bool:
        return (isinstance(value, list | dict | str) and operand in value) is wanted

    return lambda item: _holds(item, path, test, when_missing=not wanted)


def _empty(path: list[str], *, wanted: bool = True) -> Predicate:
    def test(value: Any) -> bool:
        return (not value) is wanted

    return lambda item: _holds(item, path, test, when_missing=wanted)


def _negated(inner: Predicate) -> Predicate:
    return lambda item: not inner(item)


def _both(left: Predicate, right: Predicate) -> Predicate:
    return lambda item: left(item) and right(item)


def _either(left: Predicate, right: Predicate) -> Predicate:
    return lambda item: left(item) or right(item)
