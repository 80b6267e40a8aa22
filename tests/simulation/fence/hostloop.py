"""The simulation's loop where processes count time by their host's clock, and sockets wake them.

A frozen process wakes with everything that became ready meanwhile: as it came, or sockets first as a real loop serves
them, so that a chunk comes before the timer that would have closed its tunnel. After a suspend timers have the sleep to go as well.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.simulation.fence.clocks import HostClock
from tests.simulation.loop import PROCESS, Process, VirtualLoop, _Handle

# A real loop comes a little late to its timers.
_LATE_S = 1e-6


class Socket(Protocol):
    """One end of a connection as the loop sees it."""

    def readable(self) -> bool: ...
    def writable(self) -> bool: ...


class HostProcess(Process):
    """`clock`: of the boot that it runs in."""

    __slots__ = ("clock",)

    def __init__(self, name: str, clock: HostClock) -> None:
        super().__init__(name)
        self.clock = clock


class _Watch:
    __slots__ = ("callback", "context", "pending", "ready")

    def __init__(self, callback: Any, ready: Callable[[], bool]) -> None:
        self.callback = callback
        self.ready = ready
        self.context = contextvars.copy_context()
        self.pending = False


class HostLoop(VirtualLoop):
    """See the module's words. `sockets`: open ones by file number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)
        self.sockets: dict[int, Socket] = {}
        self._readers: dict[int, _Watch] = {}
        self._writers: dict[int, _Watch] = {}
        self._parked: dict[HostClock, list[tuple[float, _Handle]]] = {}

    # --- time -------------------------------------------------------------------------------------------
    def time(self) -> float:
        process = PROCESS.get()
        return process.clock.monotonic(self._now) if isinstance(process, HostProcess) else self._now

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle((callback, args, context or contextvars.copy_context()))
        process = PROCESS.get()
        if isinstance(process, HostProcess):
            self._ring(process.clock, when, handle)
        else:
            self.surely(when - self._now, self._push, handle)
        return handle

    def _ring(self, clock: HostClock, when: float, handle: _Handle) -> None:
        if handle[0] is None:
            return
        left_s = when - clock.monotonic(self._now)
        if left_s <= 0:
            self._push(handle)
        elif clock.asleep:
            self._parked.setdefault(clock, []).append((when, handle))
        else:
            # Looked at again then: the clock may have changed its pace or slept.
            self.surely((left_s + _LATE_S) / clock.drifts.rate, self._ring, clock, when, handle)

    def wake(self, clock: HostClock) -> None:
        """The machine of this clock goes on."""
        clock.wake(self._now)
        for when, handle in self._parked.pop(clock, ()):
            self._ring(clock, when, handle)

    def resume(self, process: Process) -> None:
        held, process.held = process.held or [], None
        if self._random.random() < 0.5:
            self._ready.extend(held)
            return
        serve = self._serve
        self._ready.extend([step for step in held if step[0] == serve])
        self._ready.extend([step for step in held if step[0] != serve])

    # --- sockets ----------------------------------------------------------------------------------------
    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        self._watch(self._readers, fd, _Watch(callback, self.sockets[fd].readable))

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        self._watch(self._writers, fd, _Watch(callback, self.sockets[fd].writable))

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def remove_writer(self, fd: Any) -> bool:
        return self._writers.pop(fd, None) is not None

    def stirred(self, fd: int) -> None:
        """Something may be ready at this socket now."""
        for watches in (self._readers, self._writers):
            if fd in watches:
                self._look(watches, fd, watches[fd])

    def _watch(self, watches: dict[int, _Watch], fd: int, watch: _Watch) -> None:
        watches[fd] = watch
        self._look(watches, fd, watch)

    def _look(self, watches: dict[int, _Watch], fd: int, watch: _Watch) -> None:
        if not watch.pending and watch.ready():
            watch.pending = True
            self._push((self._serve, (watches, fd, watch), watch.context))

    def _serve(self, watches: dict[int, _Watch], fd: int, watch: _Watch) -> None:
        watch.pending = False
        if watches.get(fd) is not watch:
            return
        watch.callback()
        if watches.get(fd) is watch:
            self._look(watches, fd, watch)
