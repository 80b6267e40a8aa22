"""The processes that a Nomad agent started and that outlive it: executors, their tasks, log collectors."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from sandbox.tether import command_line, is_alive

_TASKS_GRACE_S: Final = 3.0


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, from /proc (Linux) or ps."""
    parents: dict[int, list[int]] = {}
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        child, parent = (int(part) for part in line.split())
        parents.setdefault(parent, []).append(child)
    found: list[int] = []
    open_ = [pid]
    while open_:
        children = parents.get(open_.pop(), [])
        found += children
        open_ += children
    return found


def taken_over(folder: Path) -> list[int]:
    """Executors (with their tasks) and log collectors of this folder that an earlier agent started.

    They are nobody's children any more; an executor names the folder in its arguments, a log collector has
    files of it open.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        said = command_line(pid)
        if f"{folder}/data/alloc/" in said and " executor " in said:
            found += [pid, *descendants(pid)]
        elif said.endswith(" logmon") and _has_open(entry / "fd", folder):
            found.append(pid)
    return found


def _has_open(descriptors: Path, folder: Path) -> bool:
    try:
        return any(os.readlink(link).startswith(f"{folder}/") for link in descriptors.iterdir())
    except OSError:
        return False


def start_mark(pid: int) -> str | None:
    """What tells a process from a later one with the same number: its start time."""
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def unmount_below(folder: Path) -> None:
    """Run as root, Nomad mounts a tmpfs for the secrets of each task; it mounts them anew when it comes back."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return
    points = [line.split()[1] for line in mounts.read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def end_all(pids: set[int]) -> None:
    """SIGTERM, a grace, then SIGKILL."""
    for number, grace_s in ((signal.SIGTERM, _TASKS_GRACE_S), (signal.SIGKILL, 1.0)):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + grace_s
        while pids and time.monotonic() < deadline:
            pids = {pid for pid in pids if is_alive(pid)}
            time.sleep(0.02)
        if not pids:
            return
