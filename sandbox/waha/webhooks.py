"""Webhook envelopes and their delivery: from memory, concurrently, without order, lost on a kill."""

from __future__ import annotations

import json
import os
import time

from sandbox.waha.hashing import hmac_sha512_hex
from sandbox.waha.settings import VERSION, Hook, RetryPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    from sandbox.waha.log import Log
    from sandbox.waha.timers import Timer, Timers

    class Poster(Protocol):
        def post(
            self,
            url: str,
            headers: list[tuple[str, str]],
            body: bytes,
            done: Callable[[int | None, str], None],
        ) -> None:
            """Sends; calls `done` once with the status, or with None and what went wrong."""


_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_event_id() -> str:
    """`evt_` and a lower-case ULID."""
    value = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "evt_" + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


class Outbox:
    """Sends envelopes to hooks and tries again as each hook's policy says."""

    def __init__(self, timers: Timers, poster: Poster, log: Log) -> None:
        self._log = log
        self._timers = timers
        self._poster = poster
        self._retries: dict[int, Timer] = {}
        self._sequence = 0
        self._in_flight = 0
        self._closed = False
        self._accidents: list[tuple[str, float]] = []

    @property
    def in_flight(self) -> int:
        """Deliveries on the wire now, without those that wait for a retry."""
        return self._in_flight

    def send(self, hooks: Iterable[Hook], envelope: dict[str, Any]) -> None:
        body = json.dumps(envelope, separators=(",", ":")).encode()
        what, seconds = self._accidents.pop(0) if self._accidents else ("", 0.0)
        if what == "drop":
            return
        if what == "delay":
            self._later(seconds, lambda: self._deliver(hooks, envelope, body))
            return
        self._deliver(hooks, envelope, body)
        if what == "duplicate":
            self._deliver(hooks, envelope, body)

    def plan_accidents(self, what: str, count: int, seconds: float) -> None:
        """The next `count` events are lost (`drop`), sent twice (`duplicate`) or come `seconds` late, behind
        what was said after them (`delay`)."""
        self._accidents = [(what, seconds)] * count

    def _deliver(self, hooks: Iterable[Hook], envelope: dict[str, Any], body: bytes) -> None:
        for hook in hooks:
            if hook.wants(envelope["event"]):
                self._attempt(hook, envelope, body, attempt=0)

    def drop_all(self) -> None:
        """Forgets every event that still waits, as the end of the process does; no new one is taken."""
        self._closed = True
        for timer in self._retries.values():
            timer.cancel()
        self._retries.clear()

    def _attempt(self, hook: Hook, envelope: dict[str, Any], body: bytes, attempt: int) -> None:
        headers = [
            ("Content-Type", "application/json"),
            ("User-Agent", f"WAHA/{VERSION}"),
            ("X-Webhook-Request-Id", os.urandom(16).hex()),
            ("X-Webhook-Timestamp", str(int(time.time() * 1000))),
        ]
        if hook.hmac_key:
            headers.append(("X-Webhook-Hmac", hmac_sha512_hex(hook.hmac_key.encode(), body)))
            headers.append(("X-Webhook-Hmac-Algorithm", "sha512"))
        headers.extend(hook.headers)
        self._in_flight += 1

        def done(status: int | None, problem: str) -> None:
            self._in_flight -= 1
            if status is not None and 200 <= status < 300:
                return
            last = self._closed or attempt >= hook.retries.attempts
            self._log.emit(
                "webhook_lost" if last else "webhook_failed",
                id=envelope["id"],
                webhook=envelope["event"],
                session=envelope["session"],
                attempt=attempt + 1,
                status=status,
                problem=problem,
            )
            if not last:
                self._retry(hook, envelope, body, attempt + 1)

        self._poster.post(hook.url, headers, body, done)

    def _retry(self, hook: Hook, envelope: dict[str, Any], body: bytes, attempt: int) -> None:
        jitter = os.urandom(1)[0] / 127.5 - 1
        wait = hook.retries.wait(attempt, jitter)
        self._later(wait, lambda: self._attempt(hook, envelope, body, attempt))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._sequence += 1
        key = self._sequence

        def due() -> None:
            self._retries.pop(key, None)
            call()

        self._retries[key] = self._timers.call_later(seconds, due)


def hooks_of(config: dict[str, Any] | None) -> tuple[Hook, ...]:
    """The hooks in a session's config (already validated)."""
    hooks = []
    for webhook in (config or {}).get("webhooks") or ():
        retries = webhook.get("retries") or {}
        hooks.append(
            Hook(
                webhook["url"],
                frozenset(webhook["events"]),
                (webhook.get("hmac") or {}).get("key"),
                RetryPolicy(
                    retries.get("policy", "linear"),
                    retries.get("delaySeconds", 2),
                    retries.get("attempts", 15),
                ),
                tuple((header["name"], header["value"]) for header in webhook.get("customHeaders") or ()),
            )
        )
    return tuple(hooks)
