"""Is a task that ended started again (restart tracker of Nomad 1.10.5)."""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

from sandbox.nomad_double.durations import go_duration
from sandbox.nomad_double.model import Json

JITTER = 0.25

WITHIN_POLICY = "Restart within policy"
NOT_ALLOWED = "Policy allows no restarts"
DELAYED = "Exceeded allowed attempts, applying a delay"


class Decision(msgspec.Struct, frozen=True):
    """`restart` after `delay_ns`, or the task is over: `failed` or `complete`."""

    action: Literal["restart", "failed", "complete"]
    delay_ns: int = 0
    reason: str = ""


class RestartTracker:
    """Counts the restarts of one task within the policy's interval."""

    def __init__(self, policy: Json, *, on_success: bool, now_ns: int, rng: Random) -> None:
        self.policy = policy
        self._on_success = on_success
        self._interval_start_ns = now_ns
        self._rng = rng
        self.count = 0

    def after_exit(self, now_ns: int, *, success: bool) -> Decision:
        """What follows a task that ended by itself, or that could not be started (`success=False`)."""
        policy = self.policy
        if policy["Attempts"] == 0:
            if success and not self._on_success:
                return Decision("complete", reason=NOT_ALLOWED)
            return Decision("failed", reason=NOT_ALLOWED)
        if now_ns > self._interval_start_ns + policy["Interval"]:
            self.count = 0
            self._interval_start_ns = now_ns
        self.count += 1
        if success and not self._on_success:
            return Decision("complete", reason="Restart unnecessary as task terminated successfully")
        if self.count > policy["Attempts"]:
            if policy["Mode"] == "fail":
                interval = go_duration(policy["Interval"])
                return Decision(
                    "failed",
                    reason=f'Exceeded allowed attempts {policy["Attempts"]} in interval {interval} and mode is "fail"',
                )
            return Decision("restart", self._interval_start_ns + policy["Interval"] - now_ns, DELAYED)
        delay = policy["Delay"] or 1
        return Decision("restart", delay + int(self._rng.randrange(delay) * JITTER), WITHIN_POLICY)
