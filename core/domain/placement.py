"""Why a container is not running, read from evaluations and task events."""

from __future__ import annotations

from core.domain.facts import AllocationFact, PlacementFailure
from core.domain.states import Reason


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
    for event in reversed(allocation.events):
        text = event.message.lower()
        if event.type == "Driver Failure":
            if "pull" in text or "image" in text:
                return Reason.IMAGE_PULL
            if "address already in use" in text or "port is already allocated" in text:
                return Reason.PORT_IN_USE
            return Reason.TASK_FAILED
        if event.type in ("Terminated", "Not Restarting", "Restarting", "Setup Failure"):
            return Reason.TASK_FAILED
        if event.type == "Started":
            return None
    return None
