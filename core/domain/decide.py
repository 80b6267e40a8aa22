"""The one decision of the loop: what is wanted and what was seen go in, actions and status come out."""

from __future__ import annotations

from datetime import datetime

from core.domain.actions import Decision
from core.domain.desired import Desired
from core.domain.facts import Observation
from core.domain.policy import Policy


def decide(desired: Desired, observation: Observation, now: datetime, policy: Policy) -> Decision:
    """Pure: the same arguments give the same decision. See `container.py` and `chip.py` for the rules."""
    raise NotImplementedError
