"""Child processes that do not outlive their owner.

A database or an agent started by the sandbox must end with it, also when the owner is killed with SIGKILL
and can no longer say so. Beside each child stands a watchdog that blocks on a pipe held by the owner; the
kernel closes that pipe however the owner ends, and the watchdog then sends the child its stop signal.
Both live in sessions of their own, so that Ctrl-C in a terminal reaches the owner alone and the owner
decides the order in which things stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_WATCHDOG = 'read -r _; kill -s "$1" "$2" 2>/dev/null'


class TetheredProcess:
    """A running child and the watchdog that ends it when this process is gone."""

    def __init__(self, child: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
        self._child = child
        self._stop_signal = stop_signal
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", stop_signal.name.removeprefix("SIG"), str(child.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Self:
        """Start `argv` with its output appended to the file `log`.

        `user` and `group` are numeric ids for a child that must not run as root. `stop_signal` is what asks
        this program for its orderly end. Raises OSError when the program cannot be started.
        """
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        return cls(child, stop_signal)

    @property
    def pid(self) -> int:
        return self._child.pid

    def exit_code(self) -> int | None:
        """None while the child runs."""
        code = self._child.poll()
        if code is not None:
            # The number of an ended process may be given to a stranger: nothing may signal it any more.
            self._end_watchdog()
        return code

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ask the child to end, insist with SIGKILL after `timeout_s`; its exit code. Safe to call again."""
        self._end_watchdog()
        if self._child.poll() is None:
            self._child.send_signal(self._stop_signal)
            try:
                self._child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
        return self._child.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self._end_watchdog()
        self._child.kill()
        self._child.wait()

    def _end_watchdog(self) -> None:
        if self._watchdog.returncode is None:
            self._watchdog.kill()
            self._watchdog.wait()
        if self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def command_line(pid: int) -> str:
    """What process `pid` was started as, or "" when there is no such process."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a child's log, for the sentence that says why it did not start."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """True while process `pid` exists and has not ended (a zombie has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
