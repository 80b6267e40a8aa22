"""Requests and replies of the double's HTTP surface, and what every read has in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from random import Random
from typing import Any
from urllib.parse import parse_qs

import msgspec

from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.durations import parse_go_duration
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.filters import compile_filter
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.policy import Rights

MAX_WAIT_S = 300.0
"""Longer waits are cut; Nomad's documentation says ten minutes, its code five."""
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, its body already read."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    rights: Rights = Rights(management=True)
    """What the token it came with may do."""

    def sees(self, namespace: str, capability: str) -> bool:
        """Does a list show what stands in `namespace`: the one that was asked for, or any with the right for `*`."""
        if self.namespace == "*":
            return self.rights.in_namespace(namespace, capability)
        return self.namespace == namespace

    def get(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean parameter as Go's ParseBool reads it.

        Raises:
            ApiError: 400 for anything else.
        """
        text = self.get(name)
        if text == "":
            return default
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise ApiError(400, f'Failed to parse value of "{name}" ("{text}") as a bool: invalid syntax')

    def number(self, name: str) -> int:
        text = self.get(name)
        if text and not text.isdigit():
            raise ApiError(400, f"Expect a number for `{name}` query string parameter")
        return int(text or 0)

    @property
    def namespace(self) -> str:
        return self.get("namespace") or "default"

    def allow(self, *methods: str) -> None:
        """Refuse other methods, in Nomad's words."""
        if self.method not in methods:
            raise ApiError(405, "Invalid method")

    def json(self) -> Json:
        """The body as a JSON object.

        Raises:
            ApiError: 400.
        """
        if not self.body:
            raise ApiError(400, "Request body is empty")
        try:
            decoded = msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise ApiError(400, _go_json_error(self.body, error)) from error
        if not isinstance(decoded, dict):
            raise ApiError(400, "json: cannot unmarshal the body into a Go struct")
        return decoded


class Reply(msgspec.Struct, frozen=True):
    """What goes back: a JSON value, or raw bytes with their type, or a stream of bytes."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = {}
    raw: bytes | None = None
    stream: AsyncIterator[bytes] | None = None


def parse_query(raw: bytes) -> dict[str, list[str]]:
    return parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True)


def read_reply(index: int, value: Any, *, next_token: str = "", status: int = 200) -> Reply:
    """A read's reply with the headers that clients block on."""
    headers = {
        "X-Nomad-Index": str(index),
        "X-Nomad-KnownLeader": "true",
        "X-Nomad-LastContact": "0",
    }
    if next_token:
        headers["X-Nomad-NextToken"] = next_token
    return Reply(value, status=status, headers=headers)


def write_reply(value: Json, index: int | None = None) -> Reply:
    """A write's reply: its index in the header, and the fields every write reply ends with."""
    index = value["Index"] if index is None else index
    tail = {"LastContact": 0, "KnownLeader": False, "NextToken": ""}
    return Reply({**value, **tail}, headers={"X-Nomad-Index": str(index)})


def not_found(index: int, text: str) -> ApiError:
    """404 with the index headers, as reads of single objects send it."""
    return ApiError(404, text, read_reply(index, None).headers)


Outcome = tuple[int, Callable[[], Reply]]


async def blocking(double: NomadDouble, request: Request, look: Callable[[], Outcome]) -> Reply:
    """A read that may wait: answers when its index passes `index=`, or after `wait=` plus up to a sixteenth.

    `look` returns the current index of what is read and a function that makes the reply.
    """
    minimum, wait_s = wait_parameters(request)
    index, make = look()
    if minimum > 0:
        deadline: asyncio.Future[Any] = asyncio.ensure_future(double.clock.sleep(wait_s + _jitter(wait_s)))
        try:
            while index <= minimum and not deadline.done():
                changed: asyncio.Future[Any] = double.state.changed()
                await asyncio.wait({changed, deadline}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                index, make = look()
        finally:
            deadline.cancel()
    return make()


def wait_parameters(request: Request) -> tuple[int, float]:
    """(`index`, `wait` in seconds) of a request.

    Raises:
        ApiError: 400 `Invalid index` / `Invalid wait time`.
    """
    wait_s = MAX_WAIT_S
    if text := request.get("wait"):
        try:
            wait_s = parse_go_duration(text) / NS_PER_S
        except ValueError as error:
            raise ApiError(400, "Invalid wait time") from error
        wait_s = min(wait_s, MAX_WAIT_S) if wait_s > 0 else MAX_WAIT_S
    text = request.get("index")
    if text and not text.isdigit():
        raise ApiError(400, "Invalid index")
    return int(text or 0), wait_s


def _jitter(wait_s: float) -> float:
    return Random().uniform(0, wait_s / 16)  # noqa: S311 - spreads wake-ups, nothing secret


def page(
    request: Request,
    items: Iterable[Any],
    *,
    token_of: Callable[[Any], str],
    full: Callable[[Any], Any],
    stub: Callable[[Any], Any],
) -> tuple[list[Any], str]:
    """Filter, then one page of a list: (stubs, token of the first item that is left out).

    `items` come in the order of the list; `token_of` is what `next_token` names.
    """
    per_page = request.number("per_page")
    start = request.get("next_token")
    expression = request.get("filter")
    keep = compile_filter(expression) if expression else None
    ordered = list(items)
    if request.flag("reverse"):
        ordered.reverse()
    if start:
        position = next((n for n, item in enumerate(ordered) if token_of(item) == start), None)
        if position is None:
            descending = request.flag("reverse")
            ordered = [i for i in ordered if (token_of(i) <= start if descending else token_of(i) >= start)]
        else:
            ordered = ordered[position:]
    found: list[Any] = []
    for item in ordered:
        if keep is not None and not keep(full(item)):
            continue
        if per_page and len(found) == per_page:
            return found, token_of(item)
        found.append(stub(item))
    return found, ""


def check_uuid(text: str, what: str) -> None:
    """Refuse an id that is no UUID with the text of Nomad's state store."""
    if len(text) != 36:
        raise ApiError(500, f"{what} lookup failed: index error: UUID must be 36 characters")
    if [i for i, char in enumerate(text) if char == "-"] != [8, 13, 18, 23]:
        raise ApiError(500, f"{what} lookup failed: index error: UUID should have 4 hyphens")


def check_prefix(prefix: str, what: str) -> None:
    """Prefixes of ids are hex of even length."""
    digits = prefix.replace("-", "")
    if len(digits) % 2:
        text = "index error: Input (without hyphens) must be even length"
        raise ApiError(500, f"{what} lookup failed: {text}")
    if any(char not in "0123456789abcdefABCDEF" for char in digits):
        char = next(c for c in digits if c not in "0123456789abcdefABCDEF")
        text = f"index error: Invalid UUID: encoding/hex: invalid byte: U+{ord(char):04X} '{char}'"
        raise ApiError(500, f"{what} lookup failed: {text}")


def _go_json_error(body: bytes, error: msgspec.DecodeError) -> str:
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("{") and len(text) > 1 and text[1] not in '"}':
        return f"invalid character '{text[1]}' looking for beginning of object key string"
    if text and text[0] not in '{["tfn-0123456789':
        return f"invalid character '{text[0]}' looking for beginning of value"
    return f"unexpected end of JSON input: {error}" if "truncated" in str(error) else f"invalid JSON: {error}"
