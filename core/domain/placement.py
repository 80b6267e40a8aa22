"""Why a container is not running, read from evaluations and task events."""

from __future__ import annotations

import errno
import re
from typing import Final

from core.domain.facts import AllocationFact, PlacementFailure
from core.domain.states import Reason

# Docker's words for a published port that a process outside Nomad holds (moby, libnetwork's port mapper).
_PORT_IN_USE: Final = ("address already in use", "port is already allocated")
# A plain process can say it by its exit code alone.
_EXIT_ADDRESS_IN_USE: Final = re.compile(rf"exit code: {errno.EADDRINUSE}\b")


def failure_reason(failure: PlacementFailure) -> Reason:
    """The scarcest thing first; texts of dimensions as in Nomad's AllocMetric.DimensionExhausted."""
    dimensions = " ".join(failure.dimensions).lower()
    if "port" in dimensions:
        return Reason.NO_PORT
    if "memory" in dimensions:
        return Reason.NO_MEMORY
    if "cpu" in dimensions or "cores" in dimensions:
        return Reason.NO_CPU
    return Reason.NO_HOST


def task_failure_reason(allocation: AllocationFact) -> Reason | None:
    """What the newest telling task event says; None when nothing went wrong yet."""
    failing = False
    events = allocation.events
    for place in range(len(events) - 1, -1, -1):
        event = events[place]
        text = event.message.lower()
        if event.type == "Driver Failure":
            # Bound first: the driver names the image in most of its sentences.
            if any(words in text for words in _PORT_IN_USE):
                return Reason.PORT_IN_USE
            if "pull" in text or "image" in text:
                return Reason.IMAGE_PULL
            return Reason.TASK_FAILED
        if event.type == "Terminated":
            if place > 0 and events[place - 1].type == "Restart Signaled":
                return None  # it was told to end, and begins again
            return Reason.PORT_IN_USE if _EXIT_ADDRESS_IN_USE.search(text) else Reason.TASK_FAILED
        if event.type == "Setup Failure":
            return Reason.TASK_FAILED
        if event.type in ("Not Restarting", "Restarting"):
            failing = True  # why stands in an earlier line
        if event.type == "Started":
            break
    return Reason.TASK_FAILED if failing else None
