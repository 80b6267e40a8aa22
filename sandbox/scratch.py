"""Folders for servers that nobody keeps."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  mkdtemp below makes an unguessable name
_DISK: Final = Path("/var/tmp")  # noqa: S108
_MEMORY_NEEDED: Final = 2 * 1024**3
_LEFT_LOCKED_S: Final = 3600
_LEFT_S: Final = 86_400


def scratch_folder(prefix: str = "wahafleet-test-") -> Path:
    """A new folder for tests, which their server's own user can reach (root alone may enter pytest's own).

    In memory where there is plenty of it: cloning a database makes 300 small files, 30 ms there and 250 ms
    on a disk. Removes what earlier runs that were killed left under the same prefix.
    """
    prefix = f"{prefix}{os.getuid()}-"
    for base in (_MEMORY, _DISK):
        _remove_leftovers(base, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if _memory_fits() else _DISK))
    folder.chmod(0o711)
    return folder


def _memory_fits() -> bool:
    try:
        room = os.statvfs(_MEMORY)
    except OSError:
        return False
    # Containers have 64 MB there by default. Programs are started from a folder, so it must allow that.
    runs = not room.f_flag & os.ST_NOEXEC
    return runs and room.f_bavail * room.f_frsize >= _MEMORY_NEEDED and os.access(_MEMORY, os.W_OK | os.X_OK)


def _remove_leftovers(base: Path, prefix: str) -> None:
    for old in base.glob(f"{prefix}*"):
        try:
            age_s = time.time() - old.stat().st_mtime
            lock = old / "owner.lock"
            if not lock.is_file():
                if age_s > _LEFT_S:
                    shutil.rmtree(old, ignore_errors=True)
            elif time.time() - lock.stat().st_mtime > _LEFT_LOCKED_S:
                with lock.open("r+") as held:
                    # A server that runs holds this; a folder whose lock is free has nobody any more.
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue  # in use, or another run was faster
