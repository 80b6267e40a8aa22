"""Running a task: the protocol every driver follows, real processes, and programs inside this process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class DriverError(Exception):
    """The task could not be started; `recoverable` ones are tried again by the restart policy."""

    def __init__(self, text: str, *, recoverable: bool = False) -> None:
        super().__init__(text)
        self.recoverable = recoverable


class ExitResult(msgspec.Struct, frozen=True):
    """How a task ended."""

    exit_code: int = 0
    signal: int = 0

    @property
    def success(self) -> bool:
        return self.exit_code == 0 and self.signal == 0


class Usage(msgspec.Struct, frozen=True):
    """One sample of what a task uses. CPU in percent of one core, memory in bytes."""

    cpu_percent: float
    rss: int
    pids: list[int]
    at_ns: int


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All a driver needs to run a task. `ports` maps a label to its host port; `host_ip` carries them."""

    alloc_id: str
    job_id: str
    task_name: str
    user: str
    config: dict[str, Any]
    env: dict[str, str]
    host_ip: str
    ports: dict[str, int]
    task_dir: Path
    stdout: Path
    stderr: Path


class TaskHandle(Protocol):
    """A running task."""

    async def wait(self) -> ExitResult:
        """Return when the task has ended; any number of callers, any number of times."""
        ...

    def signal(self, number: int) -> None:
        """Ask the task to end; no effect on one that has ended."""
        ...

    def kill(self) -> None:
        """End the task and everything it started, at once."""
        ...

    def usage(self) -> Usage | None:
        """The current sample, None when there is none."""
        ...


class TaskDriver(Protocol):
    """Starts tasks of one `Driver` name."""

    async def start(self, spec: TaskSpec) -> TaskHandle:
        """Start a task.

        Raises:
            DriverError: it could not be started.
        """
        ...


class ProcessDriver:
    """Runs `command` with `args` as a process group of its own, as Nomad's raw_exec does."""

    async def start(self, spec: TaskSpec) -> TaskHandle:
        command = str(spec.config.get("command") or "")
        args = [str(arg) for arg in spec.config.get("args") or ()]
        env = {**os.environ, **spec.env}
        binary = shutil.which(command, path=env.get("PATH"))
        if binary is None and (spec.task_dir / "local" / command).is_file():
            binary = str(spec.task_dir / "local" / command)
        if binary is None:
            raise DriverError(
                f'failed to launch command with executor: rpc error: code = Unknown desc = file "{command}" '
                f"not found under path {spec.task_dir}"
            )
        work_dir = Path(str(spec.config.get("work_dir") or spec.task_dir))
        with spec.stdout.open("ab") as out, spec.stderr.open("ab") as err:
            try:
                process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec only; nothing here waits for it
                    [binary, *args],
                    env=env,
                    cwd=work_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    preexec_fn=_die_with_parent if _LIBC is not None else None,
                )
            except OSError as error:
                raise DriverError(f"failed to launch command with executor: {error}") from error
        return ProcessHandle(process)


def _die_with_parent() -> None:
    """Runs in the child: a double that is killed without a chance to clean up takes its tasks along."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class ProcessHandle:
    """A process group; its leader's exit is seen through a pidfd, without a thread or a signal handler."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._started = time.monotonic()
        self._last: tuple[float, float] | None = None
        self._ended = asyncio.create_task(self._watch())

    async def wait(self) -> ExitResult:
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        # Only the leader is asked, as Nomad's executor does; `kill` is what ends the whole group.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process.returncode is None:
            self._kill_group()

    def usage(self) -> Usage | None:
        """Sums /proc over the process group; CPU since the sample before (or since the start)."""
        if self._process.returncode is not None:
            return None
        pids, ticks, pages = _group_usage(self.pid)
        if not pids:
            return None
        now, seconds = time.monotonic(), ticks / os.sysconf("SC_CLK_TCK")
        since, before = self._last or (self._started, 0.0)
        self._last = (now, seconds)
        percent = max(0.0, seconds - before) / max(now - since, 0.001) * 100
        return Usage(percent, pages * os.sysconf("SC_PAGE_SIZE"), pids, time.time_ns())

    async def _watch(self) -> ExitResult:
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            await asyncio.to_thread(self._process.wait)
        else:
            gone = asyncio.Event()
            loop.add_reader(fd, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        code = self._process.wait()
        # What the leader started and left behind goes with it, as with the executor's cgroup.
        self._kill_group()
        return ExitResult(128 - code, -code) if code < 0 else ExitResult(code)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _group_usage(group: int) -> tuple[list[int], int, int]:
    """(pids, CPU ticks, resident pages) of a process group, from /proc (Linux)."""
    pids: list[int] = []
    ticks = pages = 0
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            pids.append(int(entry.name))
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
    return pids, ticks, pages


def _own_memory() -> int:
    """Bytes of this process that are in memory (Linux; 0 elsewhere)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


InlineProgram = Callable[[TaskSpec, asyncio.Event], Awaitable[int]]
"""A task inside this process: runs until the event is set, returns its exit code."""


class InlineDriver:
    """Runs a program of this process for each task, so that one process can serve very many of them.

    The program gets the task's spec (env, host address, ports) and an event that asks it to end; it returns an
    exit code. An exception counts as exit code 1 and is written to the task's stderr.
    """

    def __init__(self, program: InlineProgram) -> None:
        self._program = program
        self._running: set[InlineHandle] = set()

    async def start(self, spec: TaskSpec) -> TaskHandle:
        return InlineHandle(self._program, spec, self._running)


class InlineHandle:
    """One running inline program."""

    def __init__(self, program: InlineProgram, spec: TaskSpec, running: set[InlineHandle]) -> None:
        """`running`: all that share this process; this one is in it until it ends."""
        self._stop = asyncio.Event()
        self._spec = spec
        self._killed = False
        self._running = running
        self._last = (time.monotonic(), time.process_time())
        running.add(self)
        self._task = asyncio.create_task(self._run(program))
        self._task.add_done_callback(lambda _: running.discard(self))

    async def wait(self) -> ExitResult:
        await asyncio.wait([self._task])
        if self._task.cancelled() or self._killed:
            return ExitResult(137, 9)
        return ExitResult(self._task.result())

    def signal(self, number: int) -> None:  # noqa: ARG002 - an event says all there is to say
        self._stop.set()

    def kill(self) -> None:
        self._killed = not self._task.done()
        self._task.cancel()

    def usage(self) -> Usage | None:
        """Its share of what this process uses: what runs in one process cannot be told apart."""
        if self._task.done():
            return None
        (since, before), shares = self._last, max(1, len(self._running))
        self._last = now, seconds = time.monotonic(), time.process_time()
        percent = max(0.0, seconds - before) / max(now - since, 0.001) * 100
        return Usage(percent / shares, _own_memory() // shares, [os.getpid()], time.time_ns())

    async def _run(self, program: InlineProgram) -> int:
        try:
            return await program(self._spec, self._stop)
        except Exception:
            with self._spec.stderr.open("a") as err:
                err.write(traceback.format_exc())
            return 1
