"""Trouble on demand for both doubles: refusals, cut connections, lost replies, slow, stale and empty answers, and
an unreliable event stream.

Each fault is aimed by method, a pattern of paths and a count, so that a test can hit one call of many.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

Json = dict[str, Any]

FaultKind = Literal[
    "refuse",
    "cut",
    "lose-reply",
    "slow",
    "stale",
    "empty",
    "drop-events",
    "duplicate-events",
    "delay-events",
    "cut-stream",
]
EVENT_KINDS = frozenset({"drop-events", "duplicate-events", "delay-events", "cut-stream"})
NO_LEADER = "No cluster leader"


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """One fault.

    Attributes:
        kind: refuse: answer `status` with `text` instead of doing anything. cut: close the connection unread.
            lose-reply: do it, then close the connection. slow: wait `seconds` first. stale: answer reads from
            the state as it was when the fault was set. empty: answer a list or a map with an empty one.
            drop-, duplicate-, delay-events: lines of event streams, by `topic`; delays are `seconds`.
            cut-stream: end a stream in place of its next line, with `text` as the server's last word when
            there is one.
        path: pattern of paths, `*` for anything (also slashes): `/v1/job/*/evaluate`. Faults of events match
            `/v1/event/stream`.
        method: "" for any.
        job: the part of a request or an event that names a job; "" for any.
        skip: leave that many matching calls (or lines) alone first.
        count: then hit that many; None for all.
        namespace: "" for any.
    """

    kind: FaultKind
    path: str = "*"
    method: str = ""
    job: str = ""
    namespace: str = ""
    topic: str = ""
    status: int = 500
    text: str = NO_LEADER
    seconds: float = 0.0
    skip: int = 0
    count: int | None = None
    id: int = 0
    seen: int = 0
    hits: int = 0

    @property
    def spent(self) -> bool:
        """It has hit as often as it was to."""
        return self.count is not None and self.hits >= self.count

    def strikes(self) -> bool:
        """Count one matching call; is it hit."""
        self.seen += 1
        if self.seen <= self.skip or self.spent:
            return False
        self.hits += 1
        return True


class Faults:
    """The faults that are set, in the order in which they were."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._last_id = 0

    def add(self, fault: Fault) -> Fault:
        self._last_id += 1
        fault.id = self._last_id
        self._faults.append(fault)
        return fault

    def remove(self, fault_id: int | None) -> int:
        """Remove one fault, or all; how many there were."""
        kept = [] if fault_id is None else [one for one in self._faults if one.id != fault_id]
        removed = len(self._faults) - len(kept)
        self._faults = kept
        return removed

    def listed(self) -> list[Json]:
        found: list[Json] = msgspec.to_builtins(self._faults)
        return found

    def of_request(self, method: str, path: str, namespace: str, body: bytes) -> Fault | None:
        """The first fault that hits this request."""
        if not self._faults:
            return None
        for fault in self._faults:
            if fault.kind in EVENT_KINDS or not _fits(fault, method, path, namespace):
                continue
            if fault.kind in ("stale", "empty") and method != "GET":
                continue
            named = fault.job in ("", _job_of(path)) or (fault.job and fault.job.encode() in body)
            if named and fault.strikes():
                return fault
        return None

    def of_line(self, topics: set[str], jobs: set[str]) -> Fault | None:
        """The first fault that hits a line of an event stream with these topics and jobs."""
        for fault in self._faults:
            if fault.kind not in EVENT_KINDS or not _fits(fault, "GET", "/v1/event/stream", ""):
                continue
            if fault.topic and fault.topic not in topics:
                continue
            if fault.job and fault.job not in jobs:
                continue
            if fault.strikes():
                return fault
        return None


async def cut_connection(receive: Callable[[], Awaitable[Any]]) -> None:
    """Close the client's connection without a word, as a server that dies does.

    Raises:
        ConnectionResetError: there is no connection: the application is called directly, by a test.
    """
    # ASGI knows no such thing, but uvicorn's `receive` belongs to the object that holds the connection.
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("connection reset by peer")
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _fits(fault: Fault, method: str, path: str, namespace: str) -> bool:
    if fault.method and fault.method != method:
        return False
    if fault.namespace and namespace and fault.namespace != namespace:
        return False
    return fnmatch.fnmatchcase(path, fault.path)


def _job_of(path: str) -> str:
    found = re.match(r"/v1/(?:job|var/nomad/jobs)/([^/]+)", path)
    return found.group(1) if found else ""
