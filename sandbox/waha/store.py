"""The session store: one JSON file per session and one per WhatsApp device, shared by every container that
is given the same folder and namespace, as a PostgreSQL server is in production.

    <folder>/<namespace>/sessions/<name>.json          what WAHA's main database holds
    <folder>/<session namespace>/auth/<database>.json  what the session's own database holds

and, for what is no storage of WAHA's:
    <folder>/<session namespace>/connections/<database>  which container WhatsApp serves for this device
    <folder>/<namespace>/faults/<name>.json              faults that outlive a container
"""

from __future__ import annotations

import json
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STORED_NAME = re.compile(r"[A-Za-z0-9_-]{1,54}\Z")

LINKED = "linked"
UNLINKED = "unlinked"
"""The phone removed the device; the container learns it when it next connects."""
BANNED = "banned"


def database_name(session_namespace: str, session: str) -> str:
    """Name of the session's own database. Names that differ in letter case share one (WAHA 2026.7.1)."""
    return f"waha_{session_namespace}_{re.sub('[^a-z0-9-]', '_', session.lower())}"


class SessionStore:
    """Reads from disk every time, so that it sees what other containers write."""

    def __init__(self, folder: str, namespace: str, session_namespace: str) -> None:
        self._sessions = os.path.join(folder, namespace, "sessions")
        self._auth = os.path.join(folder, session_namespace, "auth")
        self._connections = os.path.join(folder, session_namespace, "connections")
        self._faults = os.path.join(folder, namespace, "faults")
        self._session_namespace = session_namespace
        os.makedirs(self._sessions, mode=0o700, exist_ok=True)
        os.makedirs(self._auth, mode=0o700, exist_ok=True)

    def names(self) -> list[str]:
        """Names of all stored sessions, sorted."""
        return sorted(
            entry.removesuffix(".json") for entry in os.listdir(self._sessions) if entry.endswith(".json")
        )

    def load(self, name: str) -> dict[str, Any] | None:
        """`{name, config, apps, me, worker}` or None. `worker` is None when no worker is assigned."""
        return _read(self._session_path(name)) if _STORED_NAME.match(name) else None

    def save(self, record: dict[str, Any]) -> None:
        _write(self._session_path(record["name"]), record)

    def assign(self, name: str, worker: str | None) -> None:
        """Notes which worker restores the session at its next boot; None for nobody."""
        record = self.load(name)
        if record is not None and record.get("worker") != worker:
            record["worker"] = worker
            self.save(record)

    def save_me(self, name: str, me: dict[str, str] | None) -> None:
        record = self.load(name)
        if record is not None:
            record["me"] = me
            self.save(record)

    def remove(self, name: str) -> None:
        _remove(self._session_path(name))
        _remove(self._faults_path(name))

    def auth(self, name: str) -> dict[str, Any] | None:
        """The WhatsApp device of a session `{device, state}`, or None when it was never paired."""
        return _read(self._auth_path(name)) if _STORED_NAME.match(name) else None

    def save_auth(self, name: str, auth: dict[str, Any]) -> None:
        _write(self._auth_path(name), auth)

    def wipe_auth(self, name: str) -> None:
        _remove(self._auth_path(name))
        _remove(self._connection_path(name))

    def take_connection(self, name: str) -> tuple[int, int]:
        """Makes the caller the one that WhatsApp serves for this device, and gives it a mark to compare with
        `connection`: another one there means that a newer connection took its place."""
        os.makedirs(self._connections, mode=0o700, exist_ok=True)
        path = self._connection_path(name)
        draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        mark = _mark(os.fstat(handle))
        os.close(handle)
        os.replace(draft, path)
        return mark

    def connection(self, name: str) -> tuple[int, int] | None:
        """The mark of the newest connection of this device; None when it has none, or was logged out."""
        try:
            return _mark(os.stat(self._connection_path(name)))
        except FileNotFoundError:
            return None

    def faults(self, name: str) -> dict[str, Any] | None:
        """What goes wrong for a session in every container that is yet to come, or None."""
        return _read(self._faults_path(name)) if _STORED_NAME.match(name) else None

    def save_faults(self, name: str, faults: dict[str, Any]) -> None:
        os.makedirs(self._faults, mode=0o700, exist_ok=True)
        _write(self._faults_path(name), faults)

    def remove_faults(self, name: str) -> None:
        _remove(self._faults_path(name))

    def _session_path(self, name: str) -> str:
        return os.path.join(self._sessions, f"{name}.json")

    def _auth_path(self, name: str) -> str:
        return os.path.join(self._auth, f"{database_name(self._session_namespace, name)}.json")

    def _connection_path(self, name: str) -> str:
        return os.path.join(self._connections, database_name(self._session_namespace, name))

    def _faults_path(self, name: str) -> str:
        return os.path.join(self._faults, f"{name}.json")


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    assert isinstance(content, dict)
    return content


def _mark(stat: os.stat_result) -> tuple[int, int]:
    # The number of a file is used again after it is gone, the pair of both never.
    return stat.st_ino, stat.st_mtime_ns


def _write(path: str, content: dict[str, Any]) -> None:
    # A rename is atomic: a reader, or a process that starts after a SIGKILL, never sees half a file.
    draft = f"{path}.{os.getpid()}.new"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))
    os.replace(draft, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
