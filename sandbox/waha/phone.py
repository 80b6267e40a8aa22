"""The phone that scans: drives the controls which only the simulator has (`sandbox.waha.controls`).

Not part of the simulator's process.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx

_QR_TIMEOUT_S: Final = 20.0
_PAIR_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05


class PhoneError(Exception):
    """The phone could not do it; the message is one sentence that says why and what to try."""


class _Refused(PhoneError):
    """The simulator understood and said no."""


@dataclass(frozen=True)
class ScanResult:
    """What the session says after the phone was used.

    Attributes:
        status: WAHA's word, `WORKING` when the pairing went through.
        phone_number: digits with country code, as in the WhatsApp id; None while unknown.
        push_name: the name that the phone shows to others.
    """

    session: str
    status: str
    phone_number: str | None
    push_name: str | None


async def scan(
    base_url: str,
    api_key: str,
    session: str,
    phone_number: str | None = None,
    *,
    push_name: str | None = None,
) -> ScanResult:
    """Reads the QR that the session shows now, scans it, and waits until the session is WORKING.

    Args:
        base_url: of the container, such as `http://127.0.0.1:3100`.
        api_key: the container's key in plain.
        phone_number: digits with country code; a random Brazilian mobile number when left out.

    Raises `PhoneError` when there is no QR to scan, the container is no simulator, or it does not answer.
    """
    async with _client(base_url, api_key) as http:
        for last_try in (False, False, True):
            shown = await _call(http, "GET", f"/api/{quote(session, safe='')}/auth/qr?format=raw")
            body = {"qr": shown["value"], "phone_number": phone_number, "push_name": push_name}
            try:
                await _control(http, session, "scan", {name: value for name, value in body.items() if value})
                break
            except _Refused:
                # The QR may have rotated between its reading and the scan: a person would scan the new one.
                if last_try:
                    raise
        return await _await_working(http, session)


async def enter_code(base_url: str, api_key: str, session: str, code: str) -> ScanResult:
    """Types a pairing code on the phone it was requested for, and waits until the session is WORKING."""
    async with _client(base_url, api_key) as http:
        await _control(http, session, "pair", {"code": code})
        return await _await_working(http, session)


async def unlink(base_url: str, api_key: str, session: str) -> ScanResult:
    """Removes the device on the phone: a WORKING session goes FAILED."""
    return await control(base_url, api_key, session, "unlink")


async def drop(base_url: str, api_key: str, session: str, seconds: float = 2.0) -> ScanResult:
    """Breaks the connection: WORKING, STARTING, and WORKING again after `seconds`."""
    return await control(base_url, api_key, session, "drop", {"seconds": seconds})


async def control(
    base_url: str, api_key: str, session: str, name: str, body: dict[str, Any] | None = None
) -> ScanResult:
    """Any control of `sandbox.waha.controls` by its name: `ban`, `passkey`, `activity`, `faults`..."""
    async with _client(base_url, api_key) as http:
        return _result(await _control(http, session, name, body or {}))


def _client(base_url: str, api_key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url, headers={"X-Api-Key": api_key}, trust_env=False, timeout=_QR_TIMEOUT_S
    )


async def _control(http: httpx.AsyncClient, session: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    return await _call(http, "POST", f"/sim/sessions/{quote(session, safe='')}/{name}", body)


async def _await_working(http: httpx.AsyncClient, session: str) -> ScanResult:
    try:
        async with asyncio.timeout(_PAIR_TIMEOUT_S):
            while True:
                result = _result(await _call(http, "GET", f"/api/sessions/{quote(session, safe='')}"))
                if result.status in ("WORKING", "FAILED", "STOPPED"):
                    break
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise PhoneError(
            f"Session {session} took the scan but is not WORKING after {_PAIR_TIMEOUT_S:g} s; look at its log."
        ) from error
    if result.status != "WORKING":
        raise PhoneError(f"Session {session} went {result.status} while it paired; start it again and scan.")
    return result


async def _call(
    http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        response = await http.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise PhoneError(
            f"The container at {http.base_url} does not answer ({type(error).__name__}); is it running?"
        ) from error
    if response.status_code == 401:
        raise PhoneError("The container refuses this API key; use the one of `container show --secrets`.")
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise PhoneError(f"The container at {http.base_url} gave an answer that is not JSON; is it WAHA?")
    if response.is_success:
        return content
    if response.status_code == 409:
        raise _Refused(_reason(409, path, content))
    raise PhoneError(_reason(response.status_code, path, content))


def _reason(status: int, path: str, content: dict[str, Any]) -> str:
    if status == 404 and path.startswith("/sim/") and "Cannot POST" in str(content.get("message")):
        return "This container is a real WAHA, not a simulator: scan its QR with a real phone."
    if status == 422 and "session" in content:
        state = content.get("status")
        if state is None:
            return f"The container has no session {content['session']}; create the chip first."
        if state == "WORKING":
            return f"Session {content['session']} is WORKING already; there is nothing to scan."
        return (
            f"Session {content['session']} is {state} and shows no QR; start it (reconnect the chip) first."
        )
    message = content.get("message") or content.get("error") or f"HTTP {status}"
    return f"The phone was refused: {message}."


def _result(session: dict[str, Any]) -> ScanResult:
    me = session.get("me") or {}
    number = str(me["id"]).partition("@")[0] if me.get("id") else None
    return ScanResult(session["name"], session["status"], number, me.get("pushName"))
