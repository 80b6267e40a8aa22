"""A second process that ends the guard when it sleeps through the end of a lease.

A guard that is held up (stopped, starved, swapped out) sends nothing itself, but the kernel goes on sending what it was
given before: an upstream that opens its window late would hear a chip long after its lease has passed to another
container. Killing the process resets its upstreams, unsent bytes and all. A guard that runs never comes to this: it
closes what has run out within milliseconds of the deadline.

A machine that stands still as a whole (a paused virtual machine) stands still with its watchdog.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from math import inf
from typing import Final

import structlog

from core.clock import Boottime
from core.settings_reader import SettingsError

# Together below the least margin that a guard starts with (core.settings_guard), so before the store gives the lease on.
GRACE_S: Final = 0.6
EVERY_S: Final = 0.15
_log = structlog.get_logger(__name__)


class Watchdog:
    """Tell it by when the guard must have done something; `inf` = it holds no lease."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)
        self.tell(inf)

    def tell(self, deadline: float) -> None:
        """`deadline`: boot time of the first lease's end."""
        struct.pack_into("d", self._shared, 0, deadline)

    def start(self, boottime: Boottime) -> int:
        """Its process number. Before any thread, and before sockets that it would hold open too.

        Raises SettingsError where it could do nothing.
        """
        guard = os.getpid()
        if guard == 1:
            raise SettingsError(
                [
                    "The guard is the first process of its container, which nobody in there can kill when it is stuck; "
                    "start the container with an init (docker run --init)."
                ]
            )
        child = os.fork()
        if child == 0:
            try:
                self._watch(guard, boottime)
            finally:
                os._exit(0)
        return child

    def _watch(self, guard: int, boottime: Boottime) -> None:
        # It ends with the guard, and not before it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        missed = None
        while os.getppid() == guard:
            (deadline,) = struct.unpack_from("d", self._shared, 0)
            late_s = boottime() - deadline
            # Twice the same: it may be written at this moment.
            if late_s > GRACE_S and deadline == missed:
                _log.error("guard_killed", late_s=round(late_s, 2))
                os.kill(guard, signal.SIGKILL)
                return
            missed = deadline if late_s > GRACE_S else None
            time.sleep(EVERY_S)
