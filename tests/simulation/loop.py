"""A lean event loop in virtual time whose callbacks belong to processes that can be killed or paused.

Everything that runs in the context of a `Process` is that process. A killed one simply never runs again, as
after SIGKILL: no `finally`, no `except`, nothing. A paused one runs later, with its clock gone on. What it
sent before is on its way and lands all the same, since the simulated cluster is nobody's context.

It has only what asyncio's tasks, futures and timeouts need, because a simulated seed makes a million steps.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")


class NothingWillHappen(Exception):
    """Every task waits and no timer is set: in real time this would hang for ever."""


class Process:
    """Something that can be killed, paused and resumed as a whole."""

    __slots__ = ("_prune_at", "dead", "dropped", "held", "name", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.held: list[_Handle] | None = None  # a list while it is paused
        self.dropped: list[_Handle] = []  # steps that it never made; only `bury` wants them
        # Strong references: a task that is collected while it waits would run its `finally`.
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 256

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Ended ones are forgotten now and then: a callback for each would be a step of the loop more."""
        tasks = self.tasks
        tasks.append(task)
        if len(tasks) >= self._prune_at:
            tasks[:] = [one for one in tasks if not one.done()]
            self._prune_at = 2 * len(tasks) + 256


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Handle(list[Any]):
    """Callback, arguments, context, time; a list because nothing else is made as fast."""

    __slots__ = ()

    def cancel(self) -> None:
        self[0] = self[1] = None

    def cancelled(self) -> bool:
        return self[0] is None

    def when(self) -> float:
        return float(self[3])


class VirtualLoop(asyncio.AbstractEventLoop):
    """Time jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._number = count().__next__
        self._push = self._ready.append
        self._stop = False
        self.world = contextvars.copy_context()  # nobody's context: the cluster's own
        self.problems: list[dict[str, Any]] = []

    # --- what asyncio asks of a loop --------------------------------------------------------------------
    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        handle = _Handle((callback, args, context or contextvars.copy_context(), self._now))
        self._push(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle((callback, args, context or contextvars.copy_context(), when))
        heapq.heappush(self._timers, (when, self._number(), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "", context=context)
        process = (context.get(PROCESS) if context is not None else PROCESS.get()) or None
        if process is not None:
            process.keep(task)
        return task

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    # --- the world's own --------------------------------------------------------------------------------
    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        """Let something happen in the world, whoever asks for it."""
        handle = _Handle((callback, args, self.world, when))
        heapq.heappush(self._timers, (when, self._number(), handle))
        return handle

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        return self.at(self._now + delay, callback, *args)

    def start(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that is the process."""
        context = self.world.copy()
        context.run(PROCESS.set, process)
        return self.create_task(coro, context=context)

    def resume(self, process: Process) -> None:
        held, process.held = process.held or [], None
        self._ready.extend(held)

    def stop(self) -> None:
        """Return from `run` after the step that is under way."""
        self._stop = True

    def run(self, until: float) -> None:
        """Let time pass up to `until`, or to a `stop`. Raises what the world's own callbacks raise."""
        ready, timers = self._ready, self._timers
        take, pop, get = ready.popleft, heapq.heappop, PROCESS
        self._stop = False
        events._set_running_loop(self)
        try:
            while not self._stop:
                if not ready:
                    if not timers:
                        raise NothingWillHappen
                    when = timers[0][0]
                    if when > until:
                        self._now = until
                        return
                    if when > self._now:
                        self._now = when
                    while timers and timers[0][0] <= when:
                        handle = pop(timers)[2]
                        if handle[0] is not None:
                            ready.append(handle)
                    continue
                handle = take()
                callback, args, context, _ = handle
                if callback is None:
                    continue
                process = context.get(get)
                if process is not None:
                    if process.dead:
                        process.dropped.append(handle)
                        continue
                    if process.held is not None:
                        process.held.append(handle)
                        continue
                context.run(callback, *args)
        finally:
            events._set_running_loop(None)

    def bury(self, processes: list[Process]) -> None:
        """Take the tasks of all processes apart, after the end: what they still want reaches nothing.

        Left alone they would be collected some time later, and run their `finally` in another world.
        """
        self._timers.clear()
        for process in processes:
            self._ready.extend(process.held or ())
            self._ready.extend(process.dropped)
            process.dead, process.held, process.dropped = False, None, []
        events._set_running_loop(self)
        try:
            for _ in range(50):
                while self._ready:
                    callback, args, context, _ = self._ready.popleft()
                    if callback is not None:
                        context.run(callback, *args)
                left = [task for process in processes for task in process.tasks if not task.done()]
                if not left:
                    return
                for task in left:
                    task.cancel()
        finally:
            events._set_running_loop(None)
