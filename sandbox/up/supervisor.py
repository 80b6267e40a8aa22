"""Named child processes: started, waited for, started again when they die, ended in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from sandbox.tether import TetheredProcess, log_tail
from sandbox.up.data import DataFolder
from sandbox.up.errors import SandboxError
from sandbox.up.together import over

_POLL_S: Final = 0.05
_LOG_LIMIT: Final = 5_000_000  # bytes; a larger log of an earlier run is set aside at the start

Say = Callable[[str, str], None]
"""`say(name, sentence)`: one line on the terminal."""


class Process(Protocol):
    """A child that runs. The embedded databases are such, and `Tethered` makes one of any program."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None: ...

    def stop(self) -> object: ...

    def kill(self) -> object: ...


async def _at_once() -> bool:
    return True


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """How to run one child.

    Attributes:
        launch: starts it; may block, is called in a thread, again at each restart.
        ready: True once it does its work; asked again and again after `launch`.
        log: where its output goes. start_s: how long it may take to get ready.
        died: called with its process number each time it ended unasked, before it is started again.
    """

    name: str
    launch: Callable[[], Process]
    log: Path
    ready: Callable[[], Awaitable[bool]] = _at_once
    start_s: float = 30.0
    died: Callable[[int], Awaitable[None]] | None = None


class Tethered:
    """Any program as a `Process`: `stop` asks it to end and insists after `stop_s` seconds."""

    def __init__(self, process: TetheredProcess, stop_s: float) -> None:
        self._process = process
        self._stop_s = stop_s

    @classmethod
    def launcher(
        cls, argv: tuple[str, ...], *, log: Path, env: Mapping[str, str], stop_s: float = 10.0
    ) -> Callable[[], Tethered]:
        """What starts `argv` with exactly the environment `env`. It raises SandboxError."""

        def launch() -> Tethered:
            try:
                return cls(TetheredProcess.start(argv, log=log, env=env), stop_s)
            except OSError as error:
                raise SandboxError(
                    f"{argv[0]} cannot be started ({error.strerror}); repair it and try again."
                ) from error

        return launch

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.exit_code()

    def stop(self) -> None:
        self._process.stop(self._stop_s)

    def kill(self) -> None:
        self._process.kill()


class Backoff(msgspec.Struct, frozen=True):
    """Pauses before a child is started again: `first_s`, doubled up to `most_s`, back after `calm_s`."""

    first_s: float = 0.2
    most_s: float = 10.0
    calm_s: float = 30.0

    def pause(self, failures: int) -> float:
        """Seconds before restart number `failures` (from 1) in a row."""
        return min(self.first_s * 2.0 ** min(failures - 1, 30), self.most_s)


class _Running:
    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: Process | None = None
        self.started_at = time.monotonic()
        self.failures = 0
        self.watcher: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        return None if self.process is None else self.process.exit_code()


class Supervisor:
    """Runs children until `stop`, which ends them in the opposite order of their start.

    A child that ends is started again. Whoever wants to see how the rest does without it makes the file
    `DataFolder.hold(name)` before ending it; it is back when the file is removed.
    """

    def __init__(self, data: DataFolder, say: Say, *, backoff: Backoff | None = None) -> None:
        self._data = data
        self._say = say
        self._backoff = backoff or Backoff()
        self._running: list[_Running] = []
        self._hurry = asyncio.Event()

    async def start(self, child: Child) -> None:
        """Start `child` and return once it is ready.

        Raises SandboxError with the end of its log when it ends before that or takes longer than `start_s`,
        and whatever `launch` raises. When cancelled, what was started meanwhile is still known to `stop`.
        """
        _set_aside(child.log)
        self._data.hold(child.name).unlink(missing_ok=True)
        running = _Running(child)
        self._running.append(running)
        await self._launch(running)
        deadline = time.monotonic() + child.start_s
        while not await child.ready():
            code = running.exit_code
            if code is not None:
                raise SandboxError(_did_not_start(child, f"{_ended(code)} before it was ready"))
            if time.monotonic() > deadline:
                raise SandboxError(_did_not_start(child, f"was not ready after {child.start_s:g} s"))
            await asyncio.sleep(_POLL_S)
        running.watcher = asyncio.create_task(self._watch(running), name=f"watch {child.name}")

    def pid(self, name: str) -> int | None:
        """The process number of child `name` at this moment, None when it does not run."""
        for running in self._running:
            if running.child.name == name and running.process is not None and running.exit_code is None:
                return running.process.pid
        return None

    def hurry(self) -> None:
        """From now on a child gets one second to end by itself."""
        self._hurry.set()

    async def stop(self) -> None:
        """End all children, last started first. Safe to call again."""
        for running in reversed(list(self._running)):
            if running.watcher is not None:
                running.watcher.cancel()
                await asyncio.wait([running.watcher])
            if running.process is not None:
                await self._end(running.process)
            self._data.forget(running.child.name)
            self._running.remove(running)

    async def _launch(self, running: _Running) -> None:
        # A thread cannot be cancelled; whatever it starts must not be lost when this task is.
        launching = asyncio.ensure_future(asyncio.to_thread(running.child.launch))
        try:
            await asyncio.shield(launching)
        finally:
            await over(launching)
            if launching.exception() is None:
                running.process = launching.result()
                running.started_at = time.monotonic()
                self._data.remember(running.child.name, running.process.pid)

    async def _watch(self, running: _Running) -> None:
        child = running.child
        while True:
            code = running.exit_code
            if code is None:
                await asyncio.sleep(_POLL_S)
                continue
            if time.monotonic() - running.started_at >= self._backoff.calm_s:
                running.failures = 0
            running.failures += 1
            pause = self._backoff.pause(running.failures)
            self._say(child.name, f"{_ended(code)}; starting it again in {pause:g} s (log: {child.log})")
            await self._bury(running)
            await asyncio.sleep(pause)
            await self._while_held(child)
            await self._again(running)

    async def _bury(self, running: _Running) -> None:
        if running.child.died is None or running.process is None:
            return
        try:
            await running.child.died(running.process.pid)
        except Exception as error:
            # It makes the return faster, no more: the child comes back without it too.
            self._say(running.child.name, f"could not be cleaned up after: {error}")

    async def _while_held(self, child: Child) -> None:
        hold = self._data.hold(child.name)
        if hold.exists():
            self._say(child.name, f"stays away while the file {hold} exists")
        while hold.exists():  # noqa: ASYNC110 - a file tells nobody that it is gone
            await asyncio.sleep(_POLL_S)

    async def _again(self, running: _Running) -> None:
        old = running.process
        if old is not None:
            # An embedded database holds a lock on its folder until it is stopped, dead or not.
            await asyncio.to_thread(old.stop)
        try:
            await self._launch(running)
        except Exception as error:
            # Whatever it is that failed, the answer is the same: say it, and try again later.
            running.started_at = time.monotonic()
            self._say(running.child.name, f"could not be started again: {error}")
        else:
            pid = "" if running.process is None else f" as process {running.process.pid}"
            self._say(running.child.name, f"started again{pid}")

    async def _end(self, process: Process) -> None:
        ending = asyncio.ensure_future(asyncio.to_thread(process.stop))
        hurrying = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait([ending, hurrying], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await asyncio.wait([ending], timeout=1.0)
            if not ending.done():
                process.kill()
        finally:
            hurrying.cancel()
            await asyncio.wait([ending])


def _did_not_start(child: Child, what: str) -> str:
    tail = log_tail(child.log)
    return f"{child.name} {what}; " + (
        f"the end of {child.log} says:\n{tail}" if tail else f"its log {child.log} is empty."
    )


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.1"))
