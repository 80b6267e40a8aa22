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
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_push_timer, _pop_timer = heapq.heappush, heapq.heappop


class NothingWillHappen(Exception):
    """Every task waits and no timer is set: in real time this would hang for ever."""


class Process:
    """Something that can be killed, paused and resumed as a whole."""

    __slots__ = ("_prune_at", "dead", "dropped", "held", "name", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.held: list[_Step] | None = None  # a list while it is paused
        self.dropped: list[_Step] = []  # steps that it never made; only `bury` wants them
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

    def die(self) -> None:
        """Nothing of it runs again, what it held back while it stood still included."""
        self.dead = True
        self.dropped += self.held or ()
        self.held = None

    def withhold(self, step: _Step) -> None:
        """It is dead, or stands still, when this step's turn comes."""
        if self.held is None or self.dead:
            self.dropped.append(step)
        else:
            self.held.append(step)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


@contextmanager
def _unregistered_tasks() -> Iterator[None]:
    """asyncio lists all tasks for debuggers, in a weak set written in Python. Here that is most of a task's cost."""
    listed: Any = getattr(asyncio.tasks, "_all_tasks", None)
    if listed is None:
        yield
        return
    listed.add = bool
    try:
        yield
    finally:
        del listed.add


class _Handle(list[Any]):
    """Callback, arguments, context; a list because nothing else is made as fast."""

    __slots__ = ()

    def cancel(self) -> None:
        self[0] = self[1] = None

    def cancelled(self) -> bool:
        return self[0] is None


# What waits for its turn: a handle where somebody may cancel it, else a bare tuple. Without a context it is the
# world's own and nobody's.
_Step: TypeAlias = "_Handle | tuple[Any, tuple[Any, ...], contextvars.Context | None]"


class VirtualLoop(asyncio.AbstractEventLoop):
    """Time jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._number = count().__next__
        self._push = self._ready.append
        self._stop = False
        self.world = contextvars.copy_context()  # nobody's context: the cluster's own
        self.problems: list[dict[str, Any]] = []

    # --- what asyncio asks of a loop --------------------------------------------------------------------
    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        if context is not None:
            self._push((callback, args, context))  # a task's or a future's own: they cancel no handle
            return None
        handle = _Handle((callback, args, contextvars.copy_context()))
        self._push(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle((callback, args, context or contextvars.copy_context()))
        _push_timer(self._timers, (self._now + delay, self._number(), handle))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle((callback, args, context or contextvars.copy_context()))
        _push_timer(self._timers, (when, self._number(), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "", context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.keep(task)
        return task

    # Every future and task asks; `bool()` says no without a frame of Python.
    get_debug = staticmethod(bool)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    # --- the world's own --------------------------------------------------------------------------------
    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        """Let something happen in the world, whoever asks for it."""
        handle = _Handle((callback, args, None))
        _push_timer(self._timers, (when, self._number(), handle))
        return handle

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        handle = _Handle((callback, args, None))
        _push_timer(self._timers, (self._now + delay, self._number(), handle))
        return handle

    def surely(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """As `after`, for what nobody will cancel."""
        _push_timer(self._timers, (self._now + delay, self._number(), (callback, args, None)))

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
        take, push, process_of = ready.popleft, ready.append, PROCESS
        self._stop = False
        events._set_running_loop(self)
        try:
            with _unregistered_tasks():
                while True:
                    while ready:
                        step = take()
                        callback, args, context = step
                        if callback is None:
                            continue
                        if context is None:
                            callback(*args)
                        else:
                            process = context.get(process_of)
                            if process is not None and (process.dead or process.held is not None):
                                process.withhold(step)
                                continue
                            context.run(callback, *args)
                        if self._stop:
                            return
                    if not timers:
                        raise NothingWillHappen
                    when = timers[0][0]
                    if when > until:
                        self._now = until
                        return
                    if when > self._now:
                        self._now = when
                    step = _pop_timer(timers)[2]
                    if step[2] is None and (not timers or timers[0][0] > when):
                        # The world's own and alone in its instant, as most are: it need not stand in line.
                        if step[0] is not None:
                            step[0](*step[1])
                            if self._stop:
                                return
                        continue
                    push(step)
                    while timers and timers[0][0] <= when:
                        push(_pop_timer(timers)[2])
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
                    callback, args, context = self._ready.popleft()
                    if callback is not None:
                        (context or self.world).run(callback, *args)
                left = [task for process in processes for task in process.tasks if not task.done()]
                if not left:
                    return
                for task in left:
                    task.cancel()
            raise RuntimeError(f"tasks that nothing ends: {left}")
        finally:
            events._set_running_loop(None)
