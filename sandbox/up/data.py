"""The data folder of one sandbox: who owns it, its secrets, and what an earlier run left running.

up.lock       held by the running `wahafleet up`
secrets.env   generated once, kept for ever: stored secrets cannot be opened without it
settings.env  what `api` and `daemon` are started with, written at each start
run/          one record per child process: number and start time
logs/         one file per child process
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

import msgspec
from cryptography.fernet import Fernet

from sandbox.provider.server import PASSWORD as PROVIDER_PASSWORD
from sandbox.up.errors import SandboxError
from sandbox.up.machine import end_process, process_started

_GENERATED: Final[dict[str, Callable[[], str]]] = {
    "JWT_SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "WAHAFLEET_SECRET_KEYS": lambda: Fernet.generate_key().decode(),
    "WAHAFLEET_OPERATOR_TOKEN": lambda: secrets.token_urlsafe(32),
}
# Nothing that is stored depends on them: a folder that lacks one gets it.
_REPLACEABLE: Final[dict[str, Callable[[], str]]] = {
    "WAHAFLEET_GUARD_SECRET": lambda: secrets.token_urlsafe(48),
    PROVIDER_PASSWORD: lambda: secrets.token_urlsafe(24),
}


class Record(msgspec.Struct, frozen=True):
    """A child process that somebody may have to end later."""

    name: str
    pid: int
    started: str


class DataFolder:
    """A data folder that this process owns until `close`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, api: str) -> DataFolder:
        """Make the folder if need be and take it for this process. `api`: shown to whoever comes second.

        Raises SandboxError when it belongs to somebody else, is in use, or cannot be written.
        """
        path = path.absolute()
        try:
            _make(path)
            lock = (path / "up.lock").open("a+")
        except OSError as error:
            raise SandboxError(
                f"the folder {path} cannot be used ({error.strerror}); name another one with --data."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            lock.close()
            raise SandboxError(
                f"wahafleet up already runs on {path} ({owner}); end that one with Ctrl-C, or name another "
                "folder with --data and another port with --port."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, {api}")
        lock.flush()
        for name in ("run", "logs"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        return cls(path, lock)

    def close(self) -> None:
        """Give the folder back."""
        self._lock.close()

    def secrets(self) -> dict[str, str]:
        """The secrets of this folder, generated on first use. Raises SandboxError when the file is damaged."""
        file = self.path / "secrets.env"
        known = read_env(file) if file.exists() else {}
        missing = {name: make() for name, make in _GENERATED.items() if not known.get(name)}
        if missing and known:
            raise SandboxError(
                f"{file} lacks {', '.join(sorted(missing))}; put the file back as it was, or name an empty "
                "folder with --data."
            )
        found = known or missing
        lacking = {name: make() for name, make in _REPLACEABLE.items() if not found.get(name)}
        if missing or lacking:
            found = found | lacking
            write_private(file, _as_env(found))
        return found

    def write_settings(self, settings: Mapping[str, str]) -> Path:
        """Keep what the parts are started with, for the verbs that need it too; only its owner may read it."""
        file = self.path / "settings.env"
        write_private(file, _as_env(settings))
        return file

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def remember(self, name: str, pid: int) -> None:
        """Record a child so that a later start can end it if nobody else does."""
        started = process_started(pid)
        if started is not None:
            write_private(
                self.path / "run" / f"{name}.json", msgspec.json.encode(Record(name, pid, started)).decode()
            )

    def hold(self, name: str) -> Path:
        """A file that keeps part `name` from being started again while it exists."""
        return self.path / "run" / f"{name}.hold"

    def forget(self, name: str) -> None:
        (self.path / "run" / f"{name}.json").unlink(missing_ok=True)

    def end_leftovers(self, *, settle_s: float = 1.0, patience_s: float = 10.0) -> tuple[Record, ...]:
        """End what a killed run left behind, last started first; what had to be ended.

        They are told to end by their own watchdogs, so they get `settle_s` to do so. Raises SandboxError
        when one cannot be ended.
        """
        records = self._records()
        deadline = time.monotonic() + settle_s
        while time.monotonic() < deadline and any(_lives(record) for record in records):
            time.sleep(0.05)
        ended = []
        for record in records:
            if _lives(record):
                if not end_process(record.pid, patience_s=patience_s):
                    raise SandboxError(
                        f"process {record.pid} ({record.name}) of an earlier run does not end; end it with "
                        f"`kill -9 {record.pid}` and start again."
                    )
                ended.append(record)
            self.forget(record.name)
        return tuple(ended)

    def _records(self) -> list[Record]:
        found = []
        for file in (self.path / "run").glob("*.json"):
            try:
                record = msgspec.json.decode(file.read_bytes(), type=Record)
            except msgspec.DecodeError:
                # Torn by a crash in the middle of the write. Without a number there is nothing to end.
                file.unlink(missing_ok=True)
            else:
                found.append((file.stat().st_mtime_ns, record))
        return [record for _, record in sorted(found, key=lambda item: item[0], reverse=True)]


def read_env(file: Path) -> dict[str, str]:
    """The NAME=VALUE lines of a file that `write_settings` or `secrets` wrote."""
    lines = (line.partition("=") for line in file.read_text().splitlines() if line and line[0] != "#")
    return {name: _unquoted(value) for name, equals, value in lines if equals}


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step by one that only its owner may read."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
    unfinished.replace(file)


def _make(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        # The embedded PostgreSQL of a root user runs as somebody else and must pass through; not list.
        folder.chmod(0o711)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        found = path.stat()
    if found.st_uid != os.geteuid():
        # The default name can be guessed and stands in a folder that everybody may write to.
        raise SandboxError(f"the folder {path} belongs to another user; name another one with --data.")


def _lives(record: Record) -> bool:
    return process_started(record.pid) == record.started


def _as_env(values: Mapping[str, str]) -> str:
    """A file that a shell can read too (`set -a; . settings.env`)."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(values.items()))


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1].replace("'\\''", "'")
    return value
