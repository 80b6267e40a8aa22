"""One lock for each session name, as WAHA holds it inside one process."""

from __future__ import annotations

from collections import deque

from sandbox.waha.refusals import LockTimeout
from sandbox.waha.timers import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.waha.timers import Steps, Timers

# WAHA's limits, in seconds: for getting the lock, and for holding it.
LOCK_WAIT = 5.0
LOCK_HOLD = 30.0


class SessionLocks:
    """First come, first served."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._queues: dict[str, deque[Outcome]] = {}

    def run(self, name: str, steps: Steps) -> Steps:
        """Runs `steps` under the lock of `name`. After `LOCK_HOLD` the caller gets `LockTimeout`, while the
        work goes on behind it and keeps the lock until it is done."""
        queue = self._queues.setdefault(name, deque())
        before = queue[-1] if queue else None
        turn = Outcome()
        queue.append(turn)

        def release() -> None:
            queue.remove(turn)
            if not queue:
                self._queues.pop(name, None)
            turn.settle(None, None)

        if before is not None and not before.done:
            yield (before, LOCK_WAIT)
            if not before.done:
                steps.close()
                # Whoever waits behind this caller waits for the holder, not for us.
                before.watch(release)
                raise LockTimeout(f"session {name} is busy: its lock was not free within {LOCK_WAIT:g} s")
        work = self._timers.spawn(steps)
        work.watch(release)
        if not work.done:
            yield (work, LOCK_HOLD)
        if not work.done:
            raise LockTimeout(f"session {name} took longer than {LOCK_HOLD:g} s")
        return work.result()
