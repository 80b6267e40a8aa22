"""Named steps of the daemon, told to a test that wants to stop the process exactly there.

Off unless WAHAFLEET_TEST_STEP_FD names a pipe to write to: each step is one line `name key`. With
WAHAFLEET_TEST_ACK_FD the whole process waits after each line until one byte comes back, so that a kill
from outside happens at that step and not some time later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """Points between two effects, in the order of a pass."""

    CLAIMED = "claimed"
    OBSERVED = "observed"
    STARTS_TAKEN = "starts_taken"
    TRIES_RECORDED = "tries_recorded"
    EFFECT_DONE = "effect_done"
    EFFECT_RECORDED = "effect_recorded"
    STATUS_WRITTEN = "status_written"
    RELEASED = "released"


class Steps(Protocol):
    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        """Say that `step` of the pass over `key` was reached; `detail` names the effect."""


class Silent:
    """What runs outside tests."""

    def announce(self, _step: Step, _key: str, _detail: str = "", /) -> None:
        return


class PipeSteps:
    """Writes each step to a pipe and, with an `ack_fd`, waits for its reader."""

    def __init__(self, step_fd: int, ack_fd: int | None = None) -> None:
        self._step_fd = step_fd
        self._ack_fd = ack_fd

    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        os.write(self._step_fd, f"{step} {key} {detail}".rstrip().encode() + b"\n")
        if self._ack_fd is not None and os.read(self._ack_fd, 1) == b"":
            self._ack_fd = None  # its reader is gone: nobody stops us any more


def from_environment(env: Mapping[str, str]) -> Steps:
    """The steps that the environment asks for. Raises ValueError when a descriptor is no number."""
    step_fd, ack_fd = env.get("WAHAFLEET_TEST_STEP_FD"), env.get("WAHAFLEET_TEST_ACK_FD")
    if not step_fd:
        return Silent()
    return PipeSteps(int(step_fd), int(ack_fd) if ack_fd else None)
