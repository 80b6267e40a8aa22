"""Keys and sessions: check-and-set, locks, lock delay, expiry, transactions.

Locks are advisory. A plain write by somebody who does not hold the lock works, leaves the session in place
and sets LockIndex to 0 (measured on Consul 1.8.7), so only a transaction with `check-session` guards one.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from sandbox.consul_double.catalog import CRITICAL, SERF_HEALTH, Catalog, Json
from sandbox.consul_double.indexes import Indexes
from sandbox.consul_double.refusal import RefusalError, duration_s

TTL_LEAST_S: Final = 10.0
TTL_MOST_S: Final = 86_400.0
TTL_FACTOR: Final = 2.0
"""A session lives up to twice its TTL; Consul 1.8.7 was measured at the full factor."""
DEFAULT_LOCK_DELAY_S: Final = 15.0
_NS: Final = 1_000_000_000


Snapshot = tuple[tuple[int, dict[str, int]], dict[str, "Entry"], dict[str, int]]


class Entry(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    flags: int = 0
    lock_index: int = 0
    session: str = ""
    create_index: int = 0
    modify_index: int = 0

    def view(self, *, with_value: bool = True) -> Json:
        view: Json = {
            "LockIndex": self.lock_index,
            "Key": self.key,
            "Flags": self.flags,
            "Value": base64.b64encode(self.value).decode() if with_value and self.value else None,
        }
        if self.session:
            view["Session"] = self.session
        return {**view, "CreateIndex": self.create_index, "ModifyIndex": self.modify_index}


class Session(msgspec.Struct):
    id: str
    name: str
    node: str
    lock_delay_s: float
    behavior: str
    ttl: str
    node_checks: list[str]
    create_index: int
    expires_at: float | None = None

    def view(self) -> Json:
        return {
            "ID": self.id,
            "Name": self.name,
            "Node": self.node,
            "LockDelay": round(self.lock_delay_s * _NS),
            "Behavior": self.behavior,
            "TTL": self.ttl,
            "NodeChecks": self.node_checks,
            "ServiceChecks": None,
            "CreateIndex": self.create_index,
            "ModifyIndex": self.create_index,
        }


class KeyValues:
    """The key-value store with its sessions. `monotonic` gives seconds and is all it knows of time."""

    def __init__(self, indexes: Indexes, catalog: Catalog, monotonic: Callable[[], float]) -> None:
        self._indexes = indexes
        self._catalog = catalog
        self._monotonic = monotonic
        self._entries: dict[str, Entry] = {}
        self._tombstones: dict[str, int] = {}
        self._sessions: dict[str, Session] = {}
        self._delayed: dict[str, float] = {}

    # --- reads

    def get(self, key: str) -> tuple[int, Entry | None]:
        entry = self._entries.get(key)
        return (self._table_index() if entry is None else entry.modify_index), entry

    def tree(self, prefix: str) -> tuple[int, list[Entry]]:
        found = [entry for key, entry in sorted(self._entries.items()) if key.startswith(prefix)]
        index = self._table_index()
        if prefix:
            inner = max(
                (
                    *(entry.modify_index for entry in found),
                    *(at for key, at in self._tombstones.items() if key.startswith(prefix)),
                ),
                default=0,
            )
            index = inner or index
        return index, found

    # --- writes; each answers whether it took effect

    def put(self, key: str, value: bytes, flags: int = 0, *, cas: int | None = None) -> bool:
        if cas is not None and not self._cas_fits(key, cas):
            return False
        old = self._entries.get(key)
        self._store(Entry(key, value, flags, 0, old.session if old else ""))
        return True

    def acquire(self, key: str, value: bytes, flags: int, session: str) -> bool:
        self._existing(session)
        old = self._entries.get(key)
        if old is not None and old.session:
            if old.session != session:
                return False
            lock_index = old.lock_index
        else:
            if self._delayed.get(key, 0.0) > self._monotonic():
                return False
            lock_index = (old.lock_index if old else 0) + 1
        self._store(Entry(key, value, flags, lock_index, session))
        return True

    def release(self, key: str, value: bytes, flags: int, session: str) -> bool:
        check_uuid(session)
        old = self._entries.get(key)
        if old is None or old.session != session:
            return False
        self._store(Entry(key, value, flags, old.lock_index))
        return True

    def delete(self, key: str, *, cas: int | None = None, recurse: bool = False) -> bool:
        if cas is not None and not self._cas_fits(key, cas):
            return False
        gone = [name for name in self._entries if (name.startswith(key) if recurse else name == key)]
        if gone:
            index = self._indexes.commit("kvs", "tombstones")
            for name in gone:
                del self._entries[name]
                self._tombstones[name] = index
            self._indexes.announce()
        return True

    # --- sessions

    def create_session(self, wanted: Json) -> str:
        """Create a session from the body of /v1/session/create. Raises RefusalError."""
        node = wanted.get("Node") or self._catalog.node.name
        if node != self._catalog.node.name:
            raise RefusalError(500, "Missing node registration")
        behavior = wanted.get("Behavior") or "release"
        if behavior not in ("release", "delete"):
            raise RefusalError(500, f"Invalid Behavior setting '{behavior}'")
        ttl = wanted.get("TTL") or ""
        ttl_s = _ttl_s(ttl)
        checks = wanted.get("NodeChecks") or wanted.get("Checks")
        checks = [SERF_HEALTH] if checks is None else list(checks)
        for check in checks:
            status = self._catalog.status(check)
            if status is None:
                raise RefusalError(500, f"Missing check '{check}' registration")
            if status == CRITICAL:
                raise RefusalError(500, f"Check '{check}' is in critical state")
        session = Session(
            id=str(uuid.uuid4()),
            name=wanted.get("Name") or "",
            node=node,
            lock_delay_s=_lock_delay_s(wanted.get("LockDelay")),
            behavior=behavior,
            ttl=ttl,
            node_checks=checks,
            create_index=self._indexes.commit("sessions"),
        )
        if ttl_s:
            session.expires_at = self._monotonic() + ttl_s * TTL_FACTOR
        self._sessions[session.id] = session
        self._indexes.announce()
        return session.id

    def renew_session(self, session_id: str) -> Session | None:
        check_uuid(session_id)
        session = self._sessions.get(session_id)
        if session is not None and session.expires_at is not None:
            session.expires_at = self._monotonic() + _ttl_s(session.ttl) * TTL_FACTOR
        return session

    def destroy_session(self, session_id: str) -> None:
        """End a session: its locks are released or their keys deleted, and stay shut for its lock delay."""
        check_uuid(session_id)
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        index = self._indexes.commit("sessions")
        for key, entry in list(self._entries.items()):
            if entry.session != session_id:
                continue
            if session.behavior == "delete":
                del self._entries[key]
                self._indexes.commit("kvs", "tombstones")
                self._tombstones[key] = index
            else:
                index = self._indexes.commit("kvs")
                self._entries[key] = msgspec.structs.replace(entry, session="", modify_index=index)
            if session.lock_delay_s > 0:
                self._delayed[key] = self._monotonic() + session.lock_delay_s
        self._indexes.announce()

    def sessions(self, session_id: str | None = None) -> tuple[int, list[Session]]:
        if session_id is not None:
            check_uuid(session_id)
        found = [one for key, one in sorted(self._sessions.items()) if session_id in (None, key)]
        if session_id is not None and found:
            return found[0].create_index, found
        return self._indexes.last("sessions"), found

    def expire(self) -> None:
        """End the sessions whose time is over, and those with a check that is critical."""
        now = self._monotonic()
        for session in list(self._sessions.values()):
            over = session.expires_at is not None and session.expires_at <= now
            if over or any(self._catalog.status(check) in (None, CRITICAL) for check in session.node_checks):
                self.destroy_session(session.id)
        self._delayed = {key: until for key, until in self._delayed.items() if until > now}

    def restart_indexes(self) -> None:
        self._entries = {
            key: msgspec.structs.replace(entry, create_index=1, modify_index=1)
            for key, entry in self._entries.items()
        }
        self._tombstones = dict.fromkeys(self._tombstones, 1)
        for session in self._sessions.values():
            session.create_index = 1

    # --- for transactions

    def snapshot(self) -> Snapshot:
        return self._indexes.snapshot(), dict(self._entries), dict(self._tombstones)

    def restore(self, snapshot: Snapshot) -> None:
        indexes, self._entries, self._tombstones = snapshot
        self._indexes.restore(indexes)

    def _cas_fits(self, key: str, cas: int) -> bool:
        old = self._entries.get(key)
        return old is None if cas == 0 else old is not None and old.modify_index == cas

    def _existing(self, session: str) -> Session:
        check_uuid(session)
        found = self._sessions.get(session)
        if found is None:
            raise RefusalError(500, f'invalid session "{session}"')
        return found

    def _store(self, entry: Entry) -> None:
        old = self._entries.get(entry.key)
        index = self._indexes.commit("kvs")
        self._entries[entry.key] = msgspec.structs.replace(
            entry, create_index=old.create_index if old else index, modify_index=index
        )
        self._indexes.announce()

    def _table_index(self) -> int:
        return self._indexes.last("kvs", "tombstones")


def check_uuid(session: str) -> None:
    if len(session) != 36:
        raise RefusalError(500, "failed session lookup: index error: UUID must be 36 characters")


def _ttl_s(ttl: str) -> float:
    if not ttl:
        return 0.0
    try:
        seconds = duration_s(ttl)
    except ValueError as error:
        raise RefusalError(500, f"Session TTL '{ttl}' invalid: {error}") from error
    if seconds and not TTL_LEAST_S <= seconds <= TTL_MOST_S:
        text = f"Invalid Session TTL '{round(seconds * _NS)}', must be between [10s=24h0m0s]"
        raise RefusalError(500, text)
    return seconds


def _lock_delay_s(given: object) -> float:
    if given is None:
        return DEFAULT_LOCK_DELAY_S
    if isinstance(given, str):
        try:
            return duration_s(given)
        except ValueError as error:
            raise RefusalError(400, f"Request decode failed: {error}") from error
    if isinstance(given, int | float) and not isinstance(given, bool):
        # Small numbers are meant as seconds, big ones as nanoseconds (agent/session_endpoint.go).
        return float(given) if given < 1000 else float(given) / _NS
    raise RefusalError(400, "Request decode failed: LockDelay is neither a duration nor a number")
