"""Many simulated containers in one process, each on its own address: for fleets too large for one process
each. A thread serves them all; starting, stopping and killing are safe from any other thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from sandbox.waha.container import Container
from sandbox.waha.log import Log
from sandbox.waha.loop import Loop

_START_TIMEOUT_S = 30.0


class InlineContainer:
    """A running container: what a process handle is for one with a process of its own."""

    def __init__(self, loop: Loop, on_exit: Callable[[int], None] | None) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._ended = threading.Event()
        self._container: Container | None = None
        self.exit_code: int | None = None
        """None while it runs; 0 after `stop`, 137 after `kill`."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return self._running().address

    def stop(self) -> None:
        """Like SIGTERM: returns at once, sessions stop and say so; `wait` for the end."""
        self._loop.call_soon_threadsafe(self._running().stop)

    def kill(self) -> None:
        """Like SIGKILL: connections break and nothing is said; `wait` for the end."""
        self._loop.call_soon_threadsafe(self._running().kill)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit code, or None when it still runs after `timeout_s` seconds."""
        self._ended.wait(timeout_s)
        return self.exit_code

    def _running(self) -> Container:
        assert self._container is not None
        return self._container

    def _start(self, env: Mapping[str, str], log: Log) -> None:
        self._container = Container(self._loop, env, self._exited, log)

    def _exited(self, code: int) -> None:
        self.exit_code = code
        self._ended.set()
        if self._on_exit is not None:
            self._on_exit(code)


class InlineSimulators:
    """The thread that serves them. Close it, or use it as a context manager; closing kills what runs."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        """`write` gets the log lines of containers that are started without a `write` of their own, and
        errors of the simulator itself; stdout when left out."""
        self._log = Log(write)
        self._loop = Loop(self._failed)
        self._containers: list[InlineContainer] = []
        self._newest: dict[tuple[str, int], InlineContainer] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run, name="waha-simulators", daemon=True)
        self._thread.start()

    def start(
        self,
        env: Mapping[str, str],
        on_exit: Callable[[int], None] | None = None,
        write: Callable[[str], object] | None = None,
    ) -> InlineContainer:
        """Starts a container from the environment that a process of its own would get, and returns when it
        listens. `on_exit(code)` is called in the serving thread, `write` gets its log lines there.

        Raises `InvalidSettings` (a ValueError) or OSError, as the process would say in its log.
        """
        handle = InlineContainer(self._loop, on_exit)
        done = threading.Event()
        problems: list[Exception] = []

        def begin() -> None:
            try:
                handle._start(env, self._log if write is None else Log(write))
            except Exception as error:
                problems.append(error)
            done.set()

        self._loop.call_soon_threadsafe(begin)
        if not done.wait(_START_TIMEOUT_S):
            raise TimeoutError("the thread that serves the simulators does not answer")
        if problems:
            raise problems[0]
        with self._lock:
            self._containers = [other for other in self._containers if other.exit_code is None]
            self._containers.append(handle)
            self._newest[handle.address] = handle
        return handle

    def listens(self, host: str, port: int) -> bool:
        """Whether a container runs on this address."""
        newest = self._newest.get((host, port))
        return newest is not None and newest.exit_code is None

    def refuse_key(self, host: str, port: int) -> None:
        """The container on this address answers 401 to its own key as long as it runs."""
        self._newest[host, port]._running().simulator.settings.key_digest = ""

    def _failed(self, error: Exception) -> None:
        self._log.emit("simulator_error", error=type(error).__name__, problem=str(error))

    def close(self) -> None:
        with self._lock:
            containers, self._containers = self._containers, []
        for container in containers:
            if container.exit_code is None:
                container.kill()
                container.wait(_START_TIMEOUT_S)
        self._loop.stop()
        self._thread.join(_START_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
