"""Ends what a killed `wahafleet up` left behind, when nobody else is told to.

A Nomad agent that loses its owner ends and leaves its tasks and their helpers (executor, logmon) running, as
Nomad means it. They carry the sandbox's mark in their environment, and that is how they are found. Run as a
script, `reaper.py MARK`, it waits until its standard input closes: the kernel does that however the owner ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SETTLE_S = 6.0  # simulators end themselves 3 s after their owner, agents within a second or two
PATIENCE_S = 3.0


def marked(mark: str) -> list[int]:
    """Processes that have `mark` (`NAME=value`) in their environment, ourselves excepted. Linux only."""
    found = []
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            # Ended meanwhile, or of another user and then none of ours.
            continue
    return found


def sweep(mark: str, *, settle_s: float = 0.0, patience_s: float = PATIENCE_S) -> int:
    """End all processes with `mark` that do not end by themselves within `settle_s`; how many had to be."""
    deadline = time.monotonic() + settle_s
    while time.monotonic() < deadline and marked(mark):
        time.sleep(0.2)
    ended = set()
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, patience_s)):
        for pid in marked(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            ended.add(pid)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and marked(mark):
            time.sleep(0.05)
    return len(ended)


class Reaper:
    """A process beside us that sweeps when we are gone. Ended by `close`."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for us alone
        )

    def close(self) -> None:
        """Sweep now, and send the process home."""
        sweep(self._mark)
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def main() -> None:
    sys.stdin.buffer.read()
    sweep(sys.argv[1], settle_s=SETTLE_S)


if __name__ == "__main__":
    main()
