"""The part of go-bexpr's filter language that list queries of ours use.

    JobID == "x" and ClientStatus != "running" and Meta.user == "42" and "a" in Tags and Name matches "^waha"
    not (...), is empty, is not empty, contains

Evaluated on the full object, as Nomad does; a selector that names nothing makes the comparison false.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sandbox.nomad_double.errors import ApiError

Predicate = Callable[[Any], bool]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)
  | (?P<op>==|!=|\(|\)|\[|\])
  | (?P<word>[A-Za-z_][\w./-]*|[\d.]+)
    )""",
    re.VERBOSE,
)
_MISSING = object()


def compile_filter(text: str) -> Predicate:
    """Compile an expression.

    Raises:
        ApiError: 400, as the server answers an expression it cannot read.
    """
    parser = _Parser(text)
    predicate = parser.expression()
    parser.end()
    return predicate


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._error(position)
            self._tokens.append((match.lastgroup, match.group(match.lastgroup)))
            position = match.end()
        self._at = 0

    def expression(self) -> Predicate:
        left = self._conjunction()
        while self._take("or"):
            left = _either(left, self._conjunction())
        return left

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise self._error(self._at)

    def _conjunction(self) -> Predicate:
        left = self._unary()
        while self._take("and"):
            left = _both(left, self._unary())
        return left

    def _unary(self) -> Predicate:
        if self._take("not"):
            inner = self._unary()
            return lambda item: not inner(item)
        if self._take("("):
            inner = self.expression()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Predicate:
        kind, left = self._next()
        if self._take("in"):
            return _contains(self._selector(), _value(left))
        if self._peek() == "not" and self._peek(1) == "in":
            self._at += 2
            return _negated(_contains(self._selector(), _value(left)))
        if kind == "string":
            raise self._error(self._at)
        path = self._path(left)
        if self._take("=="):
            return _equals(path, self._operand())
        if self._take("!="):
            return _negated(_equals(path, self._operand()))
        if self._take("contains"):
            return _contains(path, self._operand())
        if self._take("matches"):
            return _matches(path, self._operand())
        if self._take("is"):
            negated = self._take("not")
            self._expect("empty")
            return _negated(_empty(path)) if negated else _empty(path)
        if self._take("not"):
            if self._take("matches"):
                return _negated(_matches(path, self._operand()))
            self._expect("contains")
            return _negated(_contains(path, self._operand()))
        raise self._error(self._at)

    def _selector(self) -> list[str]:
        return self._path(self._next()[1])

    def _path(self, word: str) -> list[str]:
        path = word.split(".")
        while self._take("["):
            path.append(_value(self._next()[1]))
            self._expect("]")
        return path

    def _operand(self) -> str:
        return _value(self._next()[1])

    def _peek(self, ahead: int = 0) -> str | None:
        position = self._at + ahead
        return self._tokens[position][1] if position < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        if self._peek() != word:
            return False
        self._at += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._error(self._at)

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._error(self._at)
        self._at += 1
        return self._tokens[self._at - 1]

    @staticmethod
    def _error(position: int) -> ApiError:
        return ApiError(
            400,
            "failed to create result paginator: failed to read filter expression: "
            f"1:{position + 1} ({position}): no match found",
        )


def _value(token: str) -> str:
    if token[:1] == '"':
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return token[1:-1] if token[:1] == "`" else token


def _get(item: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(item, dict) or part not in item:
            return _MISSING
        item = item[part]
    return item


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equals(path: list[str], wanted: str) -> Predicate:
    def test(item: Any) -> bool:
        found = _get(item, path)
        return found is not _MISSING and found is not None and _text(found) == wanted

    return test


def _matches(path: list[str], pattern: str) -> Predicate:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ApiError(
            400, f"failed to create result paginator: failed to read filter expression: {error}"
        ) from error

    def test(item: Any) -> bool:
        found = _get(item, path)
        return isinstance(found, str) and compiled.search(found) is not None

    return test


def _contains(path: list[str], wanted: str) -> Predicate:
    def test(item: Any) -> bool:
        found = _get(item, path)
        return isinstance(found, str | list | dict) and wanted in found

    return test


def _empty(path: list[str]) -> Predicate:
    return lambda item: _get(item, path) in (_MISSING, None, "", [], {})


def _negated(inner: Predicate) -> Predicate:
    return lambda item: not inner(item)


def _both(left: Predicate, right: Predicate) -> Predicate:
    return lambda item: left(item) and right(item)


def _either(left: Predicate, right: Predicate) -> Predicate:
    return lambda item: left(item) or right(item)
