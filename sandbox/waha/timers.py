"""Simulated time and the tasks that run in it.

A task is a generator that yields how long it sleeps, in simulated seconds, or an `Outcome` with a limit to
wait for. All tasks of a process share one thread, so between two yields nothing else runs.
"""

from __future__ import annotations

import heapq
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from sandbox.waha.log import Log

    Steps = Generator[Any, Any, Any]
    """What an operation of the simulator is: yields seconds (float) or (Outcome, limit in seconds)."""


class Timer:
    """A call that is due at a simulated time; `cancel` makes it a no-op."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Outcome:
    """The result of a spawned task: a value or an error, once `done`."""

    __slots__ = ("_watchers", "done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self._watchers: list[Callable[[], None]] = []

    def settle(self, value: Any, error: Exception | None) -> None:
        self.done, self.value, self.error = True, value, error
        watchers, self._watchers = self._watchers, []
        for call in watchers:
            call()

    def watch(self, call: Callable[[], None]) -> None:
        """Calls `call` once when done; at once if it is done already."""
        if self.done:
            call()
        else:
            self._watchers.append(call)

    def result(self) -> Any:
        """The value; raises the task's error."""
        if self.error is not None:
            raise self.error
        return self.value


class Timers:
    """A heap of timers over a simulated clock.

    `speed` is simulated seconds for one real second; `monotonic` gives real seconds, so a test passes a
    clock of its own.
    """

    def __init__(self, *, speed: float = 1.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.speed = speed
        self._monotonic = monotonic
        self._origin = monotonic()
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self.on_sooner: Callable[[Timers], None] | None = None
        """Called with this object when a timer became the next one."""

    def now(self) -> float:
        """Simulated seconds since this object was made."""
        return (self._monotonic() - self._origin) * self.speed

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Runs `call` after `delay` simulated seconds."""
        timer = Timer(self.now() + max(0.0, delay), call)
        self._sequence += 1
        heapq.heappush(self._heap, (timer.due, self._sequence, timer))
        if self.on_sooner is not None and self._heap[0][2] is timer:
            self.on_sooner(self)
        return timer

    def call_later_real(self, delay: float, call: Callable[[], None]) -> Timer:
        """Runs `call` after `delay` real seconds: for what the outside world does."""
        return self.call_later(delay * self.speed, call)

    def next_due(self) -> float | None:
        """Simulated time of the next live timer, or None."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def next_due_real(self) -> float | None:
        """The same on the real clock, or None."""
        due = self.next_due()
        return None if due is None else self._origin + due / self.speed

    def run_due(self) -> None:
        """Runs what was due when it was called; timers added meanwhile wait for the next call."""
        limit, last = self.now(), self._sequence
        later: list[tuple[float, int, Timer]] = []
        while self._heap and self._heap[0][0] <= limit:
            item = heapq.heappop(self._heap)
            if item[1] > last:
                later.append(item)
                continue
            call, item[2].call = item[2].call, None
            if call is not None:
                call()
        for item in later:
            heapq.heappush(self._heap, item)

    def spawn(self, steps: Steps) -> Outcome:
        """Runs a generator as a task. It starts at once and runs on until its first yield."""
        outcome = Outcome()

        def step() -> None:
            value: Any = None
            failure: Exception | None = None
            try:
                wait = next(steps)
            except StopIteration as stop:
                value = stop.value
            except Exception as error:
                failure = error
            else:
                if isinstance(wait, tuple):
                    self._wait(wait[0], wait[1], step)
                else:
                    self.call_later(wait, step)
                return
            outcome.settle(value, failure)

        step()
        return outcome

    def _wait(self, awaited: Outcome, limit: float | None, step: Callable[[], None]) -> None:
        resumed = False

        def resume() -> None:
            nonlocal resumed
            if not resumed:
                resumed = True
                if timer is not None:
                    timer.cancel()
                step()

        timer = None if limit is None else self.call_later(limit, resume)
        awaited.watch(resume)


class SteppedTimers(Timers):
    """Timers on a clock that only moves when told to: for tests and for replays."""

    def __init__(self) -> None:
        self._time = 0.0
        super().__init__(monotonic=lambda: self._time)

    def advance(self, seconds: float) -> None:
        """Moves time forward, running every timer at its own moment."""
        target = self._time + seconds
        while (due := self.next_due()) is not None and due <= target:
            self._time = max(self._time, due)
            self.run_due()
        self._time = target

    def finish(self, steps: Steps) -> Any:
        """Runs one operation to its end, moving time as far as it needs, and returns its result."""
        outcome = self.spawn(steps)
        while not outcome.done:
            due = self.next_due()
            if due is None:
                raise RuntimeError("the operation waits for something that never comes")
            self._time = max(self._time, due)
            self.run_due()
        return outcome.result()


def spawn_logged(
    timers: Timers, steps: Steps, log: Log, event: str, then: Callable[[], None] | None = None
) -> None:
    """Runs a task nobody waits for; an error of it is logged, never lost."""
    outcome = timers.spawn(steps)

    def finished() -> None:
        if outcome.error is not None:
            log.emit(event, error=type(outcome.error).__name__, problem=str(outcome.error))
        if then is not None:
            then()

    outcome.watch(finished)
