"""The client of one WAHA container, and the pool that all of them share.

Every outcome is a value or an error of `core.errors`; nothing of httpx or msgspec crosses this border.
The client never retries by itself: who calls knows whether a second try is wanted.
Facts about statuses and bodies: WAHA 2026.7.1, OpenAPI document and source.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from core.clients.waha_connections import Answer, Connections, TooLong
from core.clients.waha_models import (
    PNG_MAGIC,
    AlreadyExists,
    Qr,
    WahaProbe,
    WahaServerStatus,
    WahaSession,
    WahaVersion,
    WireCode,
    WireError,
    WirePong,
    WireProbe,
    WireServerStatus,
    WireSession,
    WireVersion,
    WireWrongState,
    redacted,
    secrets_in,
)
from core.domain.facts import WahaStatus
from core.errors import BODY_LIMIT, DependencyError, Missing, Rejected, Throttled, Unavailable

T = TypeVar("T")

SYSTEM: Final = "waha"
KEY_REJECTED: Final = "waha_key_rejected"

READ_TIMEOUT_S: Final = 5.0
WRITE_TIMEOUT_S: Final = 40.0
"""WAHA holds a session's lock for up to 30 s after waiting up to 5 s for it."""
QR_TIMEOUT_S: Final = 16.0
"""WAHA's QR call blocks for up to 15 s."""
_PING_TIMEOUT_S: Final = 2.0
_ANSWER_LIMIT: Final = 4 * 1024 * 1024
_THROTTLED_S: Final = 5.0
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "wahafleet"}


class WrongState(DependencyError):
    """The session is in a state in which the call makes no sense.

    Attributes:
        status: the session's status; None when the container does not know the session.
    """

    default_code = "waha_wrong_state"

    def __init__(self, message: str, *, status: WahaStatus | None) -> None:
        super().__init__(SYSTEM, message)
        self.status = status


class WahaClients:
    """Makes clients that share their connections. Close it, or use it as an async context manager."""

    def __init__(
        self,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._connections = Connections(transport)

    def at(self, address: str, port: int, api_key: str) -> WahaClient:
        """The client of the container at this endpoint. Cheap; opens nothing."""
        host = f"[{address}]" if ":" in address else address
        return WahaClient(
            f"http://{host}:{port}",
            api_key,
            self._connections,
            read_timeout_s=self._read_timeout_s,
            write_timeout_s=self._write_timeout_s,
        )

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class WahaClient:
    """One container. All methods raise `DependencyError` and nothing else:

    Unavailable (no answer, a 5xx, or an answer that is not WAHA's), Throttled (429), Rejected (another
    4xx; code `waha_key_rejected` for a 401), Missing (the session does not exist), WrongState.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        connections: Connections,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._connections = connections
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s

    def __repr__(self) -> str:
        return f"WahaClient({self._base_url!r})"

    # The container

    async def ping(self) -> None:
        """Returns when WAHA answers; needs no key and says nothing about sessions."""
        answer = await self._call("GET", "/ping", timeout_s=_PING_TIMEOUT_S)
        self._decode(answer, WirePong)

    async def version(self) -> WahaVersion:
        wire = self._decode(await self._get("/api/server/version"), WireVersion)
        return WahaVersion(wire.version, wire.engine, wire.worker.id if wire.worker else None)

    async def server_status(self) -> WahaServerStatus:
        wire = self._decode(await self._get("/api/server/status"), WireServerStatus)
        return WahaServerStatus(int(wire.startTimestamp), wire.worker.id if wire.worker else None)

    # Sessions

    async def sessions(self) -> tuple[WahaSession, ...]:
        """All stored sessions, the STOPPED ones too."""
        answer = await self._get("/api/sessions?all=true")
        return tuple(wire.session() for wire in self._decode(answer, list[WireSession]))

    async def session(self, name: str) -> WahaSession:
        """Raises Missing when it does not exist."""
        return self._session(await self._get(_path(name), about=name))

    async def probe(self, name: str) -> WahaProbe:
        """The session with its engine's own live word; up to 3 s in WAHA, which then leaves that out.

        Raises Missing when it does not exist.
        """
        return self._decode(await self._get(_path(name), about=name), WireProbe).probe()

    async def create_session(
        self, name: str, config: Mapping[str, Any], *, start: bool = False
    ) -> WahaSession | AlreadyExists:
        """`config` as WAHA takes it. `AlreadyExists` also after an earlier try of ours that failed late."""
        body = {"name": name, "config": config, "start": start}
        answer = await self._call("POST", "/api/sessions", body=body, allow=(422,))
        if answer.status == 422:
            return AlreadyExists(name)
        return self._session(answer)

    async def update_session(self, name: str, config: Mapping[str, Any]) -> WahaSession:
        """Replaces the whole config; a running session stops and starts. Raises Missing."""
        return self._session(await self._call("PUT", _path(name), body={"config": config}, about=name))

    async def start(self, name: str) -> WahaSession:
        """A no-op on a running session, and a FAILED one counts as running. Raises Missing."""
        return self._session(await self._post(name, "start"))

    async def stop(self, name: str) -> WahaSession | None:
        """Keeps the credentials. None when WAHA does not know the session."""
        answer = await self._post(name, "stop")
        return self._session(answer) if answer.body.strip() else None

    async def restart(self, name: str) -> WahaSession:
        """Works from every state, STOPPED and FAILED included; keeps the credentials. Raises Missing."""
        return self._session(await self._post(name, "restart"))

    async def logout(self, name: str) -> WahaSession:
        """Wipes the credentials: the next start needs a new QR. Raises Missing."""
        return self._session(await self._post(name, "logout"))

    async def delete(self, name: str) -> None:
        """Logs out a running session and forgets it; fine when it does not exist."""
        await self._call("DELETE", _path(name), about=name)

    # Pairing

    async def qr(self, name: str, timeout_s: float = QR_TIMEOUT_S) -> Qr:
        """The QR shown now.

        WAHA itself waits up to 5 s for the session to run and 10 s for a QR, then says why not
        (`WrongState`, with status None for a session it does not know). A shorter `timeout_s` gives
        Unavailable instead.
        """
        path = f"/api/{quote(name, safe='')}/auth/qr?format=image"
        answer = await self._call("GET", path, timeout_s=timeout_s, accept="image/png", about=name)
        if not answer.body.startswith(PNG_MAGIC):
            raise Unavailable(SYSTEM, "the QR call gave no PNG image", code="waha_answer_unreadable")
        return Qr(answer.body)

    async def request_code(self, name: str, phone: str, timeout_s: float | None = None) -> str:
        """A pairing code `XXXX-XXXX` for `phone` (digits with country code). Raises WrongState."""
        path = f"/api/{quote(name, safe='')}/auth/request-code"
        body = {"phoneNumber": phone}
        answer = await self._call("POST", path, body=body, timeout_s=timeout_s, about=name)
        return self._decode(answer, WireCode).code

    # Inner

    async def _get(self, path: str, *, about: str | None = None) -> Answer:
        return await self._call("GET", path, about=about)

    async def _post(self, name: str, action: str) -> Answer:
        return await self._call("POST", f"{_path(name)}/{action}", about=name)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        accept: str = "application/json",
        about: str | None = None,
        allow: tuple[int, ...] = (),
    ) -> Answer:
        if timeout_s is None:
            timeout_s = self._read_timeout_s if method == "GET" else self._write_timeout_s
        headers = {"X-Api-Key": self._api_key, "Accept": accept}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        what = f"{method} {path.partition('?')[0]}"
        try:
            # httpx limits each step of a call; this limits the call.
            async with asyncio.timeout(timeout_s):
                answer = await self._send(method, path, content, headers, timeout_s)
        except TimeoutError as error:
            raise Unavailable(SYSTEM, f"{what}: no answer within {timeout_s:g} s", code="timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # Only the kind of error: its text may quote the request.
            raise Unavailable(SYSTEM, f"{what}: {type(error).__name__}", code="unreachable") from error
        if 200 <= answer.status < 300 or answer.status in allow:
            return answer
        raise self._refusal(what, answer, body, about)

    async def _send(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], timeout_s: float
    ) -> Answer:
        request = httpx.Request(
            method,
            self._base_url + path,
            content=content,
            headers=_HEADERS | headers,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)},
        )
        try:
            return await self._connections.send(request, _ANSWER_LIMIT)
        except TooLong as error:
            raise Unavailable(
                SYSTEM, f"{method} {path}: the answer is too long", code="waha_answer_unreadable"
            ) from error

    def _refusal(
        self, what: str, answer: Answer, sent: Mapping[str, Any] | None, about: str | None
    ) -> DependencyError:
        status = answer.status
        message = f"{what}: {status} {self._excerpt(answer.body, sent)}"
        if status == 401:
            return Rejected(SYSTEM, message, code=KEY_REJECTED)
        if status == 404 and about is not None and _says_missing(answer.body):
            return Missing(SYSTEM, message)
        if status == 404:
            # Whatever answers here is not WAHA, or the path is not about a session: nothing is known.
            return Unavailable(SYSTEM, message, code="waha_not_found")
        if status == 429:
            return Throttled(SYSTEM, message, after_s=_retry_after(answer.retry_after))
        if status == 422:
            wrong_state = _try_decode(answer.body, WireWrongState)
            if wrong_state is not None:
                return _wrong_state(message, wrong_state.status)
        if status == 501:
            return Rejected(SYSTEM, message, code="waha_unsupported")
        if 400 <= status < 500:
            return Rejected(SYSTEM, message)
        return Unavailable(SYSTEM, message)

    def _excerpt(self, body: bytes, sent: Mapping[str, Any] | None) -> str:
        """A short piece of an error body without secrets: WAHA's 500 repeats the request."""
        content = _try_decode(body, dict[str, Any])
        text = body.decode("utf-8", "replace")
        if content is not None:
            content.pop("request", None)
            with contextlib.suppress(RecursionError):
                text = json.dumps(content, ensure_ascii=False)
        return redacted(text, {self._api_key, *secrets_in(sent)} - {""})[:BODY_LIMIT]

    def _session(self, answer: Answer) -> WahaSession:
        return self._decode(answer, WireSession).session()

    def _decode(self, answer: Answer, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(
                SYSTEM, "an answer is not what WAHA documents", code="waha_answer_unreadable"
            ) from error


def _wrong_state(message: str, status: str | None) -> DependencyError:
    if status is None:
        return WrongState(message, status=None)
    try:
        return WrongState(message, status=WahaStatus(status))
    except ValueError:
        return Unavailable(SYSTEM, message, code="waha_answer_unreadable")


def _path(name: str) -> str:
    return f"/api/sessions/{quote(name, safe='')}"


def _says_missing(body: bytes) -> bool:
    error = _try_decode(body, WireError)
    return error is not None and error.statusCode == 404


def _try_decode(body: bytes, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _retry_after(text: str | None) -> float:
    return float(min(int(text), 3600)) if text and text.isascii() and text.isdigit() else _THROTTLED_S
