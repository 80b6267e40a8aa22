"""When the next thing happens by itself, from the same figures that the loop's own rules use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

from core.domain import backoff
from core.domain.cause_row import Situation
from core.domain.causes import CAUSES
from core.domain.endpoints import fencing_s
from core.domain.facts import ClientStatus
from core.domain.policy import Policy
from core.domain.states import ChipPhase, Reason
from core.domain.story import Story


class NextStep(msgspec.Struct, frozen=True):
    """What happens next without anybody's doing.

    Attributes:
        text: pt-BR.
        at: the latest time, as far as it is known; None where it depends on somebody or something else.
    """

    text: str
    at: datetime | None


_Rule: TypeAlias = Callable[[Story, Policy], datetime | None]


def next_step_of(code: str, story: Story, now: datetime, policy: Policy) -> NextStep:
    """The next step for a chip whose first cause is `code`. A time that has passed means: at any moment."""
    rule = _WHEN.get(code)
    at = rule(story, policy) if rule is not None else None
    return NextStep(CAUSES[code].loop, None if at is None else max(at, now))


def _fencing_ends(story: Story, policy: Policy) -> datetime | None:
    """When the last host that was lost must have stopped its container; not before it is known to be lost."""
    seen = story.evidence.allocations if story.evidence else ()
    if any(a.client == ClientStatus.UNKNOWN for a in seen):
        return None
    lost = [a.since for a in seen if a.client == ClientStatus.LOST]
    return max(lost) + timedelta(seconds=fencing_s(policy)) if lost else None


def _vanished_ends(story: Story, policy: Policy) -> datetime | None:
    if story.container is None:
        return None
    return story.container.since + timedelta(seconds=fencing_s(policy))


def _key_is_renewed(story: Story, policy: Policy) -> datetime | None:
    """Once only: after that an operator must help."""
    if story.container is None or story.container.key_renewed_for is not None:
        return None
    return story.container.since + timedelta(seconds=policy.key_patience_s)


def _next_try(story: Story, policy: Policy) -> datetime | None:
    if story.chip.phase not in (ChipPhase.RETRYING, ChipPhase.RECONNECTING, ChipPhase.STARTING):
        return None
    last = story.spent.last_at
    if last is None:
        return None
    pause = backoff.delay(story.spent.failures, policy.retry_base_s, policy.retry_cap_s)
    return last + timedelta(seconds=pause)


def _restart(story: Story, policy: Policy) -> datetime | None:
    """A session that says STARTING is restarted so long after it was started, or seen so."""
    if story.chip.waha_status != "STARTING":
        return None
    begun = max(story.chip.since, story.spent.last_at or story.chip.since)
    return begun + timedelta(seconds=policy.start_deadline_s)


def _qr_expires(story: Story, policy: Policy) -> datetime | None:
    return story.chip.since + timedelta(seconds=policy.qr_deadline_s)


_WHEN: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        Reason.POSSIBLY_ALIVE: _fencing_ends,
        Reason.ALLOCATION_VANISHED: _vanished_ends,
        Reason.WAHA_KEY_REJECTED: _key_is_renewed,
        Situation.SESSION_FAILED: _next_try,
        Situation.SESSION_STARTING: _restart,
        Reason.SESSION_SLOW: _restart,
        Situation.WAITS_FOR_SCAN: _qr_expires,
        Situation.WAITS_FOR_PASSKEY: _qr_expires,
        "paced": lambda story, _: story.waits.starts_at,
        "breaker_open": lambda story, _: story.waits.breaker_until,
    }
)
